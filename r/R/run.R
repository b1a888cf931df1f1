# One prediction: texts to Python, columns back, chunk by chunk as Python's engine forms them.

# Calls `take(columns, started)` for each chunk, and returns `started`: the `kinds` of the columns by
# name, the `levels` of factors, the `width` of a matrix. `texts` comes from as_text() or as_pairs();
# what is NA in there never crosses, and rows keep their numbers.
run_chunks <- function(
  model, table, texts, take, top = 0L, aggregation = "simple", prompt = NULL, no_answer = FALSE,
  raw_scores = FALSE, progress = NULL, call
) {
  handle <- live_handle(model, call)
  present <- texts$present
  started <- unwrap(
    handle$start(
      table,
      crossing(texts$values[present]),
      if (!is.null(texts$pair)) crossing(texts$pair[present]),
      if (length(present) < texts$n) as.list(present),
      top,
      aggregation,
      if (!is.null(prompt)) enc2utf8(prompt),
      no_answer,
      raw_scores
    ),
    call
  )
  on.exit(suspendInterrupts(started$run$close()), add = TRUE)
  started$kinds <- stats::setNames(as.character(unlist(started$kinds)), as.character(unlist(started$names)))
  started$levels <- as.character(unlist(started$levels))
  bar <- progress_bar(length(present), progress)
  cut <- 0
  repeat {
    chunk <- unwrap(started$run$chunk(), call)
    the$predicting <- the$predicting + chunk$seconds
    cut <- cut + chunk$cut
    if (length(chunk$columns) > 0) take(chunk$columns, started)
    if (chunk$texts == 0) break
    bar(chunk$texts)
  }
  if (cut > 0) warn_cut(cut, length(present), model$info$max_length, call)
  started
}

# Once a call, whatever the number of texts.
warn_cut <- function(cut, texts, limit, call) {
  cli::cli_warn(
    c(
      "{cut} of {texts} text{?s} {?was/were} cut to {limit} tokens.",
      "i" = "{.code bert_load(long_text = \"stride\")} reads texts whole, in windows."
    ),
    class = c("bertonnx_warning_truncated", "bertonnx_warning"),
    call = call
  )
}

# As run_chunks(), with the columns of all chunks bound together, as what they are in R.
run_table <- function(model, table, texts, ...) {
  chunks <- list()
  started <- run_chunks(model, table, texts, function(columns, started) {
    chunks[[length(chunks) + 1L]] <<- unpacked(columns, started$kinds)
  }, ...)
  kinds <- c(row = "int", started$kinds)
  lapply(stats::setNames(nm = names(kinds)), function(name) {
    parts <- lapply(chunks, `[[`, name)
    column <- c(prototype(kinds[[name]]), unlist(parts, use.names = FALSE))
    as_kind(column, kinds[[name]], started$levels)
  })
}

# Fills a matrix with a row for each text, NA where there is none.
run_matrix <- function(model, table, texts, ...) {
  result <- NULL
  run_chunks(model, table, texts, function(columns, started) {
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
  dimnames(result) <- list(texts$names, dimension_names(ncol(result)))
  result
}

unpacked <- function(columns, kinds) {
  kinds <- c(row = "int", kinds)
  Map(function(column, kind) {
    switch(
      kind,
      float = read_floats(column),
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

# reticulate makes a str of a vector of length 1.
crossing <- function(x) {
  if (length(x) > 1L) x else as.list(x)
}

# Rows of NA in between, so that what went in as NA comes out as NA; in the order of the input.
with_na_rows <- function(columns, texts) {
  missing <- setdiff(seq_len(texts$n), texts$present)
  if (length(missing) > 0) {
    columns <- lapply(columns, function(column) c(column, column[NA_integer_][rep(1L, length(missing))]))
    n <- length(columns$row)
    columns$row[(n - length(missing) + 1L):n] <- missing
    order <- order(columns$row)
    columns <- lapply(columns, `[`, order)
  }
  names(columns)[names(columns) == "row"] <- ".row"
  tibble::new_tibble(columns, nrow = length(columns$.row))
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
