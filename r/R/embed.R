#' Sentence embeddings
#'
#' @param model A model for feature extraction, from [bert_load()] or [bert_remote()].
#' @param text A character vector.
#' @param prompt The name of a prompt of the model, which is put before each text, such as `"query"` or
#'   `"document"`; `NULL` for the model's own default, `""` for none. `summary()` of the model names
#'   those that it has.
#' @param progress Whether to show a progress bar; by default where it takes a while and R is used
#'   interactively.
#' @param dimensions How many numbers of each embedding to keep, from its beginning, as models that were
#'   trained for it (Matryoshka) allow. They are not normalized again unless `normalize` says so.
#' @param normalize `TRUE` gives what was kept length 1; `NULL` leaves it as the file gives it.
#' @param encoding `"float32"`; `"int8"` or `"uint8"`, which spread the range that each dimension had at
#'   export over a byte; `"binary"` or `"ubinary"`, a bit for each dimension, eight in a byte.
#' @param chunks Whether each window of a long text gets an embedding of its own. Open the model with
#'   `bert_load(long_text = "stride")` for that; else a text has one window.
#' @return A double matrix with a row for each text and a column for each dimension; of an encoding other
#'   than `"float32"` an integer matrix. The names of `text` are the row names, and the columns are called
#'   `dim_1`, ...; `NA` gives a row of `NA`; no text gives no rows, and all columns. The numbers are those of
#'   Python, to the last bit.
#'
#'   With `chunks`, a tibble with a row for each window: `.row` (which text), `chunk` (which window in it),
#'   `start` and `end`, so that `substring(text[.row], start, end)` is the window, and `embedding`, a matrix.
#' @examplesIf file.exists("embeddings.onnx") && bert_available()
#' model <- bert_load("embeddings.onnx")
#' x <- bert_embed(model, c(cat = "A cat on a mat", dog = "A dog in the fog", none = NA))
#' dim(x)
#' tcrossprod(x)
#' bert_embed(model, "A cat on a mat", dimensions = 8, normalize = TRUE)
#' @export
bert_embed <- function(
  model, text, prompt = NULL, progress = NULL, dimensions = NULL, normalize = NULL, encoding = "float32",
  chunks = FALSE
) {
  call <- rlang::current_env()
  check_task(model, "feature-extraction", call)
  check_prompt(prompt, call)
  if (!is.null(progress)) check_flag(progress)
  options <- embedding_options(prompt, dimensions, normalize, encoding, call)
  texts <- as_text(text)
  if (check_flag(chunks)) {
    options$chunks <- TRUE
    found <- run_table(model, "chunks", texts, options, progress = progress, call = call)
    found$embedding <- as_encoded(found$embedding, encoding)
    return(with_na_rows(found, texts))
  }
  as_encoded(run_matrix(model, "embeddings", texts, options, progress = progress, call = call), encoding)
}

ENCODINGS <- c("float32", "int8", "uint8", "binary", "ubinary")

embedding_options <- function(prompt, dimensions, normalize, encoding, call) {
  if (!is.null(dimensions)) dimensions <- check_count(dimensions, "dimensions", call)
  if (!is.null(normalize)) check_flag(normalize, "normalize", call)
  check_choice(encoding, ENCODINGS, "encoding", call)
  list(
    prompt = prompt, dimensions = dimensions, normalize = normalize,
    encoding = if (encoding != "float32") encoding
  )
}

# Whole numbers crossed as float32, in which each has its place.
as_encoded <- function(x, encoding) {
  if (encoding != "float32") storage.mode(x) <- "integer"
  x
}
