#' The weights of a TensorFlow checkpoint, or of a model file made from one
#'
#' Reads a checkpoint without TensorFlow, in any of the forms that [bert_export()] takes, and gives each
#' tensor with its name and shape, and what it becomes in PyTorch. Of a model file, the weights are
#' mapped back to the checkpoint that it was exported from: what was transposed, joined or smoothed is
#' undone, so that both can be compared by name.
#'
#' @param x A checkpoint (`"bert_model.ckpt"`, a `.h5` or `.keras` file, or a folder), the path of a
#'   model file that was exported from one, or a model from [bert_load()].
#' @return A tibble with a row for each tensor: `name`, `shape` (such as `"768x3072"`), `dtype`, `became`
#'   (PyTorch's name, `NA` where it is left out), `how` (what was done to it, or why it was left out),
#'   `exact` (`FALSE` where an fp16 or INT8 file has rounded it) and `values`, a list of arrays named
#'   like `name`; `NULL` where a file does not hold the tensor.
#' @examplesIf bertonnx::bert_available()
#' source <- system.file("extdata", "bert-tiny", package = "bertonnx")
#' weights <- bert_weights(source)
#' weights[1:3, c("name", "shape", "became")]
#' dim(weights$values[["bert/embeddings/word_embeddings"]])
#' @export
bert_weights <- function(x) {
  call <- rlang::current_env()
  path <- if (inherits(x, "bert_model")) x$path else x
  check_string(path, "x", call)
  read <- engine_ask("python", "weights", path.expand(path), call = call)
  shapes <- lapply(read$shape, function(shape) as.integer(unlist(shape)))
  names <- as.character(unlist(read$name))
  there <- nzchar(as.character(unlist(read$there)))
  values <- lapply(seq_along(names), function(place) {
    if (there[[place]]) weight_array(read$handle, place, shapes[[place]], call)
  })
  became <- as.character(unlist(read$became))
  tibble::tibble(
    name = names,
    shape = vapply(shapes, paste, "", collapse = "x"),
    dtype = as.character(unlist(read$dtype)),
    became = replace(became, !nzchar(became), NA_character_),
    how = as.character(unlist(read$how)),
    exact = nzchar(as.character(unlist(read$exact))),
    values = stats::setNames(values, names)
  )
}

# Python hands the numbers over in R's order, so that their dimensions are all that is missing.
weight_array <- function(handle, place, shape, call) {
  bytes <- engine_ask("python", "values", handle, place, call = call)$bytes
  numbers <- readBin(bytes, "double", length(bytes) / 8, size = 8L, endian = "little")
  if (length(shape) > 0) array(numbers, shape) else numbers
}
