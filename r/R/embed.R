#' Sentence embeddings
#'
#' @param model A model for feature extraction, from [bert_load()].
#' @param text A character vector.
#' @param progress Whether to show a progress bar; by default where it takes a while and R is used
#'   interactively.
#' @return A double matrix with a row for each text and a column for each dimension. The names of
#'   `text` are the row names; `NA` gives a row of `NA`; no text gives no rows, and all columns.
#'   The numbers are those of Python, to the last bit.
#' @examplesIf file.exists("embeddings.onnx") && bert_available()
#' model <- bert_load("embeddings.onnx")
#' x <- bert_embed(model, c(cat = "A cat on a mat", dog = "A dog in the fog", none = NA))
#' dim(x)
#' tcrossprod(x)
#' @export
bert_embed <- function(model, text, progress = NULL) {
  call <- rlang::current_env()
  check_task(model, "feature-extraction", call)
  if (!is.null(progress)) check_flag(progress)
  texts <- as_text(text)
  run_matrix(model, "embeddings", texts, model$info$width, progress = progress, call = call)
}

# Fills a matrix with a row for each text, NA where there is none.
run_matrix <- function(model, kind, texts, width, ...) {
  result <- NULL
  run_chunks(model, kind, texts, function(columns) {
    rows <- readBin(columns$row, "integer", length(columns$row) / 4, size = 4L, endian = "little")
    values <- read_floats(columns$values)
    if (length(rows) == texts$n) {
      # All at once, as they are: copying them would take longer than reading them.
      result <<- values
      dim(result) <<- c(texts$n, width)
      return()
    }
    if (is.null(result)) result <<- matrix(NA_real_, texts$n, width)
    result[rows, ] <<- values
  }, ...)
  if (!is.null(texts$names)) dimnames(result) <- list(texts$names, NULL)
  result
}
