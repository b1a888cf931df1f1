#' Vectors of tokens, of any layer
#'
#' What a model makes of each token in its context: of the last layer, which every embedding file holds, or of
#' others, where the file was exported with `bert_export(hidden_states = "all")`. The vectors of several
#' layers, and those of a text's tokens, can be brought together.
#'
#' Of a model with many vectors for a text (ColBERT), the vectors are those that it compares.
#'
#' @inheritParams bert_embed
#' @param model A model for feature extraction, or of many vectors for a text, from [bert_load()].
#' @param layers Which layers: `-1` is the last, `-2` the one before it, `0` what enters the first.
#' @param words How the vectors of a word's tokens become one: `"mean"`, `"first"`, `"last"` or `"max"`. `NULL`
#'   gives tokens, the special ones among them.
#' @param aggregate_layers What becomes of several layers: they are put beside each other (`"concatenate"`),
#'   or each number is their `"mean"`, `"min"` or `"max"`.
#' @param aggregate_tokens What becomes of a text's tokens: `NULL` leaves them as they are; `"mean"`, `"min"` or
#'   `"max"` make one vector for each text.
#' @param special Whether special tokens (such as `[CLS]`) count among the tokens.
#' @return A tibble with a row for each token: `.row` (which text), `position`, `token`, `start` and `end`, so
#'   that `substring(text[.row], start, end)` is the token (`NA` for special tokens), and `vector`, a matrix with
#'   a row for each token. `NA` gives a row of `NA`.
#'
#'   With `aggregate_tokens`, a matrix with a row for each text, as of [bert_embed()]. Means are computed by R,
#'   in double precision.
#' @examplesIf file.exists("embeddings.onnx") && bert_available()
#' model <- bert_load("embeddings.onnx")
#' tokens <- bert_hidden(model, "A cat on a mat")
#' tokens$token
#' dim(tokens$vector)
#' dim(bert_hidden(model, c("A cat", "A dog"), aggregate_tokens = "mean"))
#' @export
bert_hidden <- function(
  model, text, layers = -1L, words = NULL, aggregate_layers = "concatenate", aggregate_tokens = NULL,
  special = TRUE, prompt = NULL, progress = NULL
) {
  call <- rlang::current_env()
  check_model(model, call)
  layers <- check_layers(layers)
  if (!is.null(words)) check_choice(words, c("mean", "first", "last", "max"))
  check_choice(aggregate_layers, c("concatenate", "mean", "min", "max"))
  if (!is.null(aggregate_tokens)) check_choice(aggregate_tokens, c("mean", "min", "max"))
  check_flag(special)
  check_prompt(prompt, call)
  texts <- as_text(text)
  started <- engine_hidden(model, texts, layers, words, prompt, call)
  found <- bound(started, model, texts, progress, call)
  if (!special) found <- lapply(found, rows_of, !is.na(found$start))
  found$vector <- joined_layers(found$vector, length(layers), aggregate_layers)
  if (is.null(aggregate_tokens)) with_na_rows(found, texts) else joined_tokens(found, texts, aggregate_tokens)
}

rows_of <- function(column, rows) {
  if (is.matrix(column)) column[rows, , drop = FALSE] else column[rows]
}

# Layers stand beside each other, as many columns each.
joined_layers <- function(vectors, layers, how) {
  if (layers == 1L || how == "concatenate") {
    return(vectors)
  }
  width <- ncol(vectors) %/% layers
  parts <- lapply(seq_len(layers), function(layer) {
    vectors[, (layer - 1L) * width + seq_len(width), drop = FALSE]
  })
  switch(
    how,
    mean = Reduce(`+`, parts) / layers,
    min = do.call(pmin, parts),
    max = do.call(pmax, parts)
  )
}

# A row for each text; NA where it was NA, or has no token that counts.
joined_tokens <- function(found, texts, how) {
  result <- matrix(NA_real_, texts$n, ncol(found$vector))
  for (rows in split(seq_along(found$row), found$row)) {
    own <- found$vector[rows, , drop = FALSE]
    result[found$row[[rows[[1]]]], ] <- if (how == "mean") colMeans(own) else apply(own, 2, how)
  }
  if (!is.null(texts$names)) dimnames(result) <- list(texts$names, NULL)
  result
}

check_layers <- function(layers, call = rlang::caller_env()) {
  whole <- is.numeric(layers) && length(layers) > 0 && !anyNA(layers) && all(layers == trunc(layers)) &&
    all(abs(layers) < .Machine$integer.max)
  if (!whole) {
    bert_abort("{.arg layers} must be whole numbers, such as {.code -1} or {.code c(-2, -1)}.", "input", call = call)
  }
  as.integer(layers)
}
