#' How near texts are to each other
#'
#' @param model A model for feature extraction, from [bert_load()] or [bert_remote()].
#' @param a,b Texts, which are embedded, or embeddings, from [bert_embed()]; without `b`, those of `a` are
#'   compared with each other.
#' @param x What is searched: embeddings of [bert_embed()], a matrix with a row for each; or the path of a
#'   `.npy`, `.parquet` or `.arrow` file that [bert_run()] wrote.
#' @param query What is looked for: embeddings, or texts, which `model` embeds.
#' @param top_n How many of the nearest to give for each query.
#' @param similarity `"cosine"`, `"dot"`, `"euclidean"` or `"manhattan"`; the last two give negative distances,
#'   so that more is nearer. By default that of `model`, and cosine without one.
#' @param encoding Of what is stored, as in [bert_embed()]; needed where both are whole numbers, since a byte
#'   may be one dimension or eight.
#' @param column Of Parquet and Arrow: the column of vectors; by default `embedding`, or the only one.
#' @param prompt,normalize Of texts, as in [bert_embed()].
#' @return `bert_similarity()`: a double matrix with a row for each of `a` and a column for each of `b`, by the
#'   measure that the model was made for, else cosine. Names become row and column names; `NA` gives `NA`.
#'
#'   `bert_nearest()`: a tibble, the nearest first: `.query` (which query), `rank`, `.row` (which row of `x`) and
#'   `score`. Every row is compared, so that the result is exact; files are read in blocks. Rows of `NA` are
#'   near to nothing, and a query of `NA` has a row of `NA`.
#' @examplesIf file.exists("embeddings.onnx") && bert_available()
#' model <- bert_load("embeddings.onnx")
#' texts <- c(cat = "A cat on a mat", dog = "A dog in the fog", law = "The law of the land")
#' bert_similarity(model, texts)
#' bert_nearest(bert_embed(model, texts), "A kitten", model = model, top_n = 2)
#' @export
bert_similarity <- function(model, a, b = NULL) {
  call <- rlang::current_env()
  check_task(model, "feature-extraction", call)
  left <- as_vectors(a, model, "a", call)
  right <- if (is.null(b)) left else as_vectors(b, model, "b", call)
  similarity <- if (nzchar(model$info$similarity %||% "")) model$info$similarity else "cosine"
  compared(left, right, similarity, engine_of(model), call)
}

#' @rdname bert_similarity
#' @export
bert_nearest <- function(
  x, query, model = NULL, top_n = 10L, similarity = NULL, encoding = NULL, column = NULL, prompt = NULL,
  normalize = NULL
) {
  call <- rlang::current_env()
  top <- check_count(top_n)
  if (!is.null(model)) check_task(model, "feature-extraction", call)
  if (!is.null(similarity)) check_choice(similarity, names(SIMILARITIES))
  if (!is.null(encoding)) check_choice(encoding, ENCODINGS)
  if (!is.null(column)) check_string(column)
  check_prompt(prompt, call)
  if (!is.null(normalize)) check_flag(normalize)
  stored <- if (is_path(x)) path.expand(x) else as_matrix(x, "x", call)
  if (!is.null(column) && !is_table(stored)) {
    bert_abort("{.arg column} is for Parquet and Arrow files, and {.arg x} is none; leave it out.", "input", call = call)
  }
  if (is.integer(stored) && is.null(encoding)) {
    bert_abort(
      c("{.arg x} holds whole numbers.", "i" = "Say in which {.arg encoding} it was made, or give {.code x * 1.0}."),
      "input",
      call = call
    )
  }
  queries <- as_queries(query, model, prompt, normalize, call)
  present <- which(!is.na(rowSums(queries)))
  own <- model$info$similarity %||% ""
  # Which knows the ranges of its dimensions; that of a server does not say them.
  handle <- if (!is.null(model) && engine_of(model) == "python") live_handle(model, call)
  found <- engine_ask(
    "python", "search", stored, queries[present, , drop = FALSE], top,
    similarity %||% (if (nzchar(own)) own else "cosine"), encoding, column, handle,
    call = call
  )
  lengths <- as.integer(unlist(found$lengths))
  hits <- list(row = rep(present, lengths), rank = sequence(lengths), place = read_whole(found$places))
  hits$score <- read_floats(found$scores)
  found <- with_na_rows(hits, list(n = nrow(queries), present = present))
  names(found) <- c(".query", "rank", ".row", "score")
  found
}

# A matrix of one text is a matrix all the same.
is_path <- function(x) rlang::is_string(x) && is.null(dim(x))

is_table <- function(x) is_path(x) && grepl("[.](parquet|arrow|feather)$", x, ignore.case = TRUE)

as_queries <- function(query, model, prompt, normalize, call) {
  if (is.numeric(query)) {
    return(as_matrix(query, "query", call))
  }
  if (is.null(model)) {
    bert_abort(
      c(
        "{.arg query} is text, and nothing says what embeds it.",
        "i" = "Give {.arg model}, or embeddings from {.fn bert_embed}."
      ),
      "input",
      call = call
    )
  }
  query <- as_text(query, "query", call)
  bert_embed(model, stats::setNames(query$values, query$names), prompt = prompt, normalize = normalize)
}

# Embeddings, with names and with rows of NA where a text was NA.
as_vectors <- function(x, model, arg, call) {
  if (is.numeric(x)) {
    return(as_matrix(x, arg, call))
  }
  texts <- as_text(x, arg, call)
  run_matrix(model, "embeddings", texts, call = call)
}

as_matrix <- function(x, arg, call) {
  if (is.data.frame(x) && length(x) > 0 && all(vapply(x, is.numeric, NA))) x <- as.matrix(x)
  if (is.numeric(x) && is.null(dim(x))) x <- matrix(x, nrow = 1L)
  if (!is.matrix(x) || !is.numeric(x)) {
    bert_abort("{.arg {arg}} must be embeddings, a matrix with a row for each.", "input", call = call)
  }
  x
}

compared <- function(left, right, similarity, engine, call) {
  rows <- which(!is.na(rowSums(left)))
  columns <- which(!is.na(rowSums(right)))
  result <- matrix(NA_real_, nrow(left), nrow(right))
  a <- left[rows, , drop = FALSE]
  b <- right[columns, , drop = FALSE]
  result[rows, columns] <- if (is.null(engines[[engine]]$similarity)) {
    SIMILARITIES[[similarity]](a, b)
  } else {
    read_floats(engine_ask(engine, "similarity", a, b, similarity, call = call)$values)
  }
  if (!is.null(rownames(left)) || !is.null(rownames(right))) dimnames(result) <- list(rownames(left), rownames(right))
  result
}

# Where no Python computes them: as it does (runtime/vectors/similarity.py), in double precision.
SIMILARITIES <- list(
  cosine = function(a, b) {
    lengths <- lapply(list(a, b), function(x) pmax(sqrt(rowSums(x^2)), 1e-12))
    as_float32(tcrossprod(a, b) / lengths[[1]] / rep(lengths[[2]], each = nrow(a)))
  },
  dot = function(a, b) as_float32(tcrossprod(a, b)),
  euclidean = function(a, b) {
    squares <- rowSums(a^2) - 2 * tcrossprod(a, b) + rep(rowSums(b^2), each = nrow(a))
    -as_float32(sqrt(pmax(squares, 0)))
  },
  manhattan = function(a, b) {
    sums <- vapply(seq_len(nrow(b)), function(j) colSums(abs(t(a) - b[j, ])), numeric(nrow(a)))
    -as_float32(matrix(sums, nrow(a), nrow(b)))
  }
)

# The nearest float32 of each number.
as_float32 <- function(x) {
  x[] <- readBin(writeBin(as.double(x), raw(), size = 4L), "double", length(x), size = 4L)
  x
}
