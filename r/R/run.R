# One prediction: texts to Python, columns back, chunk by chunk as Python's engine forms them.

# Calls `take(columns, started)` for each chunk, and returns `started`: the `kinds` of the columns by
# name, the `levels` of factors, the `width` of a matrix. `texts` comes from as_text() or as_pairs();
# what is NA in there never crosses, and rows keep their numbers. `options` and `method` as engine_run().
run_chunks <- function(model, table, texts, take, options = list(), method = NULL, progress = NULL, call) {
  take_chunks(engine_run(model, table, texts, options, method, call), model, texts, take, progress, call)
}

take_chunks <- function(started, model, texts, take, progress, call) {
  # What could not be started needs no stop.
  force(started)
  on.exit(engine_stop(started), add = TRUE)
  present <- texts$present
  bar <- progress_bar(length(present), progress)
  cut <- 0
  repeat {
    chunk <- engine_chunk(started, call)
    the$predicting <- the$predicting + chunk$seconds
    cut <- cut + chunk$cut
    if (length(chunk$columns) > 0) take(chunk$columns, started)
    if (chunk$texts == 0) break
    bar(chunk$texts)
  }
  if (cut > 0) warn_cut(cut, length(present), model, call)
  started
}

# Once a call, whatever the number of texts.
warn_cut <- function(cut, texts, model, call) {
  limit <- model$info$max_length
  again <- if (engine_of(model) == "python") sprintf("bert_load(\"%s\", long_text = \"stride\")", model$path)
  advice <- if (!is.null(again)) c("i" = "{.code {again}} reads texts whole, in windows.")
  cli::cli_warn(
    c(
      "{cut} of {texts} text{?s} {?was/were} cut to {limit} tokens.",
      advice
    ),
    class = c("bertonnx_warning_truncated", "bertonnx_warning"),
    call = call
  )
}

# As run_chunks(), with the columns of all chunks bound together, as what they are in R.
run_table <- function(model, table, texts, options = list(), method = NULL, progress = NULL, call) {
  bound(engine_run(model, table, texts, options, method, call), model, texts, progress, call)
}

bound <- function(started, model, texts, progress, call) {
  chunks <- list()
  started <- take_chunks(started, model, texts, function(columns, started) {
    chunks[[length(chunks) + 1L]] <<- unpacked(columns, started$kinds)
  }, progress, call)
  kinds <- c(row = "int", started$kinds)
  lapply(stats::setNames(nm = names(kinds)), function(name) {
    parts <- lapply(chunks, `[[`, name)
    if (kinds[[name]] == "vector") {
      return(bound_vectors(parts, started$width))
    }
    column <- c(prototype(kinds[[name]]), unlist(parts, use.names = FALSE))
    as_kind(column, kinds[[name]], started$levels)
  })
}

# A matrix beside other columns: a row for each of theirs.
bound_vectors <- function(parts, width) {
  parts <- parts[vapply(parts, nrow, 1L) > 0]
  if (length(parts) == 0) matrix(double(), 0, width) else do.call(rbind, parts)
}

# Fills a matrix with a row for each text, NA where there is none.
run_matrix <- function(model, table, texts, ...) {
  result <- NULL
  started <- run_chunks(model, table, texts, function(columns, started) {
    rows <- read_whole(columns$row)
    values <- read_floats(columns[[names(started$kinds)]])
    if (length(rows) == texts$n) {
      # All at once, as they are: copying them would take longer than reading them.
      result <<- values
      dim(result) <<- c(texts$n, started$width)
      return()
    }
    if (is.null(result)) result <<- matrix(NA_real_, texts$n, started$width)
    result[rows, ] <<- values
  }, ...)
  if (is.null(result)) result <- matrix(NA_real_, texts$n, started$width)
  dimnames(result) <- list(texts$names, dimension_names(ncol(result)))
  result
}

unpacked <- function(columns, kinds) {
  kinds <- c(row = "int", kinds)
  rows <- length(columns$row) / 4
  Map(function(column, kind) {
    switch(
      kind,
      float = read_floats(column),
      vector = matrix(read_floats(column), nrow = rows, byrow = TRUE),
      text = as.character(unlist(column)),
      read_whole(column)
    )
  }, columns[names(kinds)], kinds)
}

read_whole <- function(bytes) {
  readBin(bytes, "integer", length(bytes) / 4, size = 4L, endian = "little")
}

read_floats <- function(bytes) {
  readBin(bytes, "double", length(bytes) / 4, size = 4L, endian = "little")
}

prototype <- function(kind) {
  switch(kind, float = double(), text = character(), integer())
}

# The kinds that Python knows (runtime/r_tables.py, Kind); those that are not here are as they came.
as_kind <- function(column, kind, levels) {
  switch(
    kind,
    level = as_levels(column, levels),
    flag = column == 1L,
    place = replace(column, column == 0L, NA_integer_),
    column
  )
}

# Rows of NA in between, so that what went in as NA comes out as NA; in the order of the input.
with_na_rows <- function(columns, texts) {
  missing <- setdiff(seq_len(texts$n), texts$present)
  if (length(missing) > 0) {
    columns <- lapply(columns, with_missing, length(missing))
    n <- length(columns$row)
    columns$row[(n - length(missing) + 1L):n] <- missing
    order <- order(columns$row)
    columns <- lapply(columns, function(column) if (is.matrix(column)) column[order, , drop = FALSE] else column[order])
  }
  names(columns)[names(columns) == "row"] <- ".row"
  tibble::new_tibble(columns, nrow = length(columns$.row))
}

with_missing <- function(column, n) {
  if (is.matrix(column)) {
    return(rbind(column, matrix(column[NA_integer_][[1]], n, ncol(column))))
  }
  c(column, column[NA_integer_][rep(1L, n)])
}

as_levels <- function(index, levels) {
  structure(as.integer(index), levels = levels, class = "factor")
}

# Returns a function that is told how many texts are done. By default cli decides whether to show,
# where somebody looks on.
progress_bar <- function(total, progress, .envir = parent.frame()) {
  if (!(progress %||% rlang::is_interactive()) || total == 0) {
    return(function(done) invisible())
  }
  after <- if (isTRUE(progress)) list(cli.progress_show_after = 0) else list()
  before <- options(after)
  on.exit(options(before))
  id <- cli::cli_progress_bar("Predicting", total = total, .envir = .envir)
  function(done) cli::cli_progress_update(inc = done, id = id, .envir = .envir)
}
