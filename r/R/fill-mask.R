#' Words for a mask
#'
#' @param model A model for masked words, from [bert_load()].
#' @param text A character vector, each element with at least one mask: `[MASK]` or `<mask>`, as the
#'   model has it (it is in the model's printout).
#' @param top_n How many words to give for each mask, the best first.
#' @inheritParams bert_embed
#' @return A tibble with the columns `.row` (which text), `mask` (which mask in it), `rank`, `token`,
#'   `score` and `sequence` (the text with that word). `NA` gives a row of `NA`.
#' @examplesIf file.exists("words.onnx") && bert_available()
#' model <- bert_load("words.onnx")
#' bert_fill_mask(model, "Paris is the [MASK] of France.", top_n = 3)
#' @export
bert_fill_mask <- function(model, text, top_n = 5L, progress = NULL) {
  call <- rlang::current_env()
  check_task(model, "fill-mask", call)
  top <- check_count(top_n)
  if (!is.null(progress)) check_flag(progress)
  texts <- as_text(text)
  with_na_rows(run_table(model, "masks", texts, list(top_k = top), progress = progress, call = call), texts)
}
