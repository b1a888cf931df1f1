#' Sentence embeddings
#'
#' @param model A model for feature extraction, from [bert_load()].
#' @param text A character vector.
#' @param prompt The name of a prompt of the model, which is put before each text, such as `"query"` or
#'   `"document"`; `NULL` for the model's own default, `""` for none. `summary()` of the model names
#'   those that it has.
#' @param progress Whether to show a progress bar; by default where it takes a while and R is used
#'   interactively.
#' @return A double matrix with a row for each text and a column for each dimension. The names of
#'   `text` are the row names, and the columns are called `dim_1`, ...; `NA` gives a row of `NA`; no text gives no rows, and all columns.
#'   The numbers are those of Python, to the last bit.
#' @examplesIf file.exists("embeddings.onnx") && bert_available()
#' model <- bert_load("embeddings.onnx")
#' x <- bert_embed(model, c(cat = "A cat on a mat", dog = "A dog in the fog", none = NA))
#' dim(x)
#' tcrossprod(x)
#' @export
bert_embed <- function(model, text, prompt = NULL, progress = NULL) {
  call <- rlang::current_env()
  check_task(model, "feature-extraction", call)
  check_prompt(prompt, call)
  if (!is.null(progress)) check_flag(progress)
  texts <- as_text(text)
  run_matrix(model, "embeddings", texts, list(prompt = prompt), progress = progress, call = call)
}
