# One prediction: texts to Python, columns back, chunk by chunk as Python's engine forms them.

# Calls `take(columns)` for each chunk, and returns the names behind indices. `texts` comes from
# as_text() or as_pairs(); what is NA in there never crosses, and rows keep their numbers.
run_chunks <- function(
  model, kind, texts, take, top = 0L, aggregation = "simple", progress = NULL, call
) {
  handle <- live_handle(model, call)
  present <- texts$present
  started <- unwrap(
    handle$start(
      kind,
      crossing(texts$values[present]),
      if (!is.null(texts$pair)) crossing(texts$pair[present]),
      if (length(present) < texts$n) as.list(present),
      top,
      aggregation
    ),
    call
  )
  on.exit(suspendInterrupts(started$run$close()), add = TRUE)
  bar <- progress_bar(length(present), progress)
  repeat {
    chunk <- unwrap(started$run$chunk(), call)
    the$predicting <- the$predicting + chunk$seconds
    if (length(chunk$columns) > 0) take(chunk$columns)
    if (chunk$texts == 0) break
    bar(chunk$texts)
  }
  as.character(unlist(started$levels))
}

# As run_chunks(), with the columns of all chunks bound together; `kinds` says what each one is.
run_table <- function(model, kind, texts, kinds, ...) {
  chunks <- list()
  levels <- run_chunks(
    model, kind, texts, function(columns) chunks[[length(chunks) + 1L]] <<- unpacked(columns, kinds), ...
  )
  columns <- lapply(stats::setNames(nm = c("row", names(kinds))), function(name) {
    parts <- lapply(chunks, `[[`, name)
    c(prototype(c(row = "int", kinds)[[name]]), unlist(parts, use.names = FALSE))
  })
  list(columns = columns, levels = levels)
}

unpacked <- function(columns, kinds) {
  kinds <- c(row = "int", kinds)
  Map(function(column, kind) {
    switch(
      kind,
      int = readBin(column, "integer", length(column) / 4, size = 4L, endian = "little"),
      float = read_floats(column),
      text = as.character(unlist(column))
    )
  }, columns[names(kinds)], kinds)
}

read_floats <- function(bytes) {
  readBin(bytes, "double", length(bytes) / 4, size = 4L, endian = "little")
}

prototype <- function(kind) {
  switch(kind, int = integer(), float = double(), text = character())
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
