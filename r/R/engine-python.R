# The engine that is Python in this process, through reticulate: runtime/r_bridge.py of the Python package.

engines$python <- list(
  ready = function(call) bridge(call),
  open = function(arguments) {
    bridge()$open_model(
      enc2utf8(arguments$path),
      arguments$device,
      arguments$threads,
      arguments$max_length,
      arguments$long_text,
      isTRUE(arguments$tf32),
      arguments$gpu_memory
    )
  },
  asked = function(path) bridge()$asked(enc2utf8(path)),
  alive = function(handle) !reticulate::py_is_null_xptr(handle),
  close = function(handle) handle$close(),
  start = function(handle, table, texts, pairs, places, options, method) {
    handle$start(
      table,
      crossing(texts),
      if (!is.null(pairs)) crossing(pairs),
      if (!is.null(places)) as.list(places),
      crossing_options(options),
      method
    )
  },
  hidden = function(handle, texts, places, layers, words, prompt) {
    handle$hidden(
      crossing(texts),
      if (!is.null(places)) as.list(places),
      as.list(layers),
      words,
      if (!is.null(prompt)) enc2utf8(prompt)
    )
  },
  chunk = function(run) run$chunk(),
  stop = function(run) run$close(),
  timed = function(handle, texts) handle$timed(crossing(texts)),
  fingerprint = function(handle, texts, pairs) {
    handle$fingerprint(crossing(texts), if (!is.null(pairs)) crossing(pairs))
  },
  similarity = function(a, b, name) bridge()$similarity(crossing_matrix(a), crossing_matrix(b), name),
  search = function(vectors, queries, top, name, encoding, column, handle) {
    stored <- if (is.character(vectors)) enc2utf8(vectors) else crossing_matrix(vectors, encoding)
    bridge()$search(stored, crossing_matrix(queries, encoding), top, name, encoding, column, handle)
  },
  run_file = function(handle, input, path, options) {
    handle$run_file(enc2utf8(input), enc2utf8(path), crossing_options(options))
  },
  evaluate = function(handle, data, options, named) {
    handle$evaluate(enc2utf8(data), crossing_options(options), crossing_options(named))
  },
  train = function(python, request, named) bridge()$train(python, crossing_options(request), crossing_options(named)),
  write_rows = function(path, columns) {
    bridge()$write_rows(enc2utf8(path), crossing(names(columns)), unname(lapply(columns, crossing_column)))
  },
  progress = function(work) work$progress(),
  result = function(work) work$result(),
  cancel = function(work) work$stop(),
  golden = function(path) bridge()$golden(enc2utf8(path)),
  verify = function(path, device) bridge()$verify(enc2utf8(path), device),
  signature = function(path, key) bridge()$signature(enc2utf8(path), if (!is.null(key)) enc2utf8(key)),
  weights = function(source) bridge()$weights(enc2utf8(source)),
  values = function(weights, place) weights$values(place),
  compare_weights = function(path, source) bridge()$compare_weights(enc2utf8(path), enc2utf8(source))
)

# reticulate makes a str of a vector of length 1.
crossing <- function(x) {
  if (length(x) > 1L) x else as.list(x)
}

# By columns, as R has them: float32, or the bytes of an encoding where the numbers are whole.
crossing_matrix <- function(x, encoding = NULL) {
  whole <- is.integer(x) && !is.null(encoding) && encoding != "float32"
  bytes <- if (whole) {
    writeBin(as.vector(x), raw(), size = 1L)
  } else {
    writeBin(as.double(x), raw(), size = 4L, endian = "little")
  }
  list(bytes = bytes, rows = nrow(x), columns = ncol(x), encoding = if (whole) encoding)
}

# Of a data frame; NA is None, also in a list, where reticulate would make True of it, or a text.
crossing_column <- function(x) {
  if (is.factor(x)) x <- as.character(x)
  lapply(seq_along(x), function(i) {
    one <- x[[i]]
    if (is.list(x) && !is.list(one)) crossing_column(one) else if (is.list(x)) one else if (!is.na(one)) one
  })
}

# Of no options it makes a list, and of a named one a dict; labels are a list, however few.
crossing_options <- function(options) {
  if (length(options) == 0) {
    return(NULL)
  }
  options[] <- lapply(options, function(value) if (is.character(value)) enc2utf8(value) else value)
  if (!is.null(options$labels)) options$labels <- as.list(options$labels)
  options
}
