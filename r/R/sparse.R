#' Sparse embeddings
#'
#' @inheritParams bert_embed
#' @param model A model for sparse embeddings (SPLADE, bge-m3), from [bert_load()] or [bert_remote()].
#' @param top_n How many of the heaviest tokens to give for each text, at most; by default as the model's
#'   checkpoint says, or all.
#' @return A tibble with a row for each token that weighs something, the heaviest first: `.row` (which text),
#'   `token`, `id` (its number in the vocabulary) and `weight`. `NA` gives a row of `NA`.
#' @examplesIf file.exists("sparse.onnx") && bert_available()
#' model <- bert_load("sparse.onnx")
#' bert_embed_sparse(model, "A cat on a mat", top_n = 3)
#' @export
bert_embed_sparse <- function(model, text, prompt = NULL, top_n = NULL) {
  call <- rlang::current_env()
  check_model(model, call)
  check_prompt(prompt, call)
  options <- list(prompt = prompt, top_k = if (!is.null(top_n)) check_count(top_n))
  texts <- as_text(text)
  with_na_rows(run_table(model, "sparse", texts, options, "embed_sparse", call = call), texts)
}
