# The one way from this package to what computes. All functions of R ask an engine, by the names below,
# and none of them knows whether it is Python (engine-python.R), a server (engine-server.R), or, in
# tests, a few lines of R (tests/testthat/helper-engine.R).
#
# An engine is a list of functions. It need not have all of them: what it lacks is an error that says so.
#
# | function | answer |
# |---|---|
# | `ready(call)` | (not an answer) raises what stands in the way of asking anything |
# | `open(arguments)` | `handle`, `info`: an open model, and what it says of itself |
# | `alive(handle)` | (not an answer) whether the handle can be used in this process |
# | `close(handle)` | |
# | `start(handle, table, texts, pairs, places, options, method)` | `run`, `names`, `kinds`, `levels`, `width` |
# | `hidden(handle, texts, places, layers, words, prompt)` | as `start` |
# | `chunk(run)` | `texts`, `cut`, `seconds`, `columns` |
# | `stop(run)` | |
# | `timed(handle, texts)` | `seconds`: a prediction without R |
# | `fingerprint(handle, texts, pairs)` | `md5`, `table`: of a prediction without R |
# | `similarity(a, b, name)`, `search(vectors, queries, top, name, encoding, column, handle)` | of matrices |
# | `run_file(handle, input, path, options)`, `evaluate(handle, data, options, named)`, `train(python, request, named)` | `work`; `named` is what messages call the files of data frames |
# | `write_rows(path, columns)` | adds rows of a data frame to a file |
# | `progress(work)`, `result(work)`, `cancel(work)` | what is done in the background |
# | `golden(path)`, `asked(path)`, `verify(path, device)`, `signature(path, key)` | of a file |
# | `weights(source)`, `values(weights, place)`, `compare_weights(path, source)` | of a source |
#
# An answer is `list(ok = TRUE, ...)`, or `list(ok = FALSE, error = list(type, message, kind, expected,
# traceback))`, or `list(ok = TRUE, pending)`, whose `wait()` answers later (conditions.R). Texts are UTF-8 and never NA; whole numbers and floats cross as bytes, little-endian, of
# four each, so that no bit is lost; places and spans are R's own.

# Asks an engine, and returns its answer or raises its error.
engine_ask <- function(engine, what, ..., call) {
  unwrap(engine_function(engine, what, call)(...), call)
}

engine_function <- function(engine, what, call) {
  ready <- engines[[engine]]$ready
  if (!is.null(ready)) ready(call)
  found <- engines[[engine]][[what]]
  if (is.null(found)) {
    bert_abort(
      c(
        "A model of the engine {.val {engine}} cannot do this ({what}).",
        "i" = "It takes a file on this machine: {.code bert_load(\"model.onnx\")}."
      ),
      "task",
      call = call
    )
  }
  found
}

# The engine of a model; those that were saved before there were several have no name.
engine_of <- function(model) {
  model$engine %||% "python"
}

engine_open <- function(engine, arguments, call) {
  engine_ask(engine, "open", arguments, call = call)
}

# As `engine_ask()`, of an open model.
engine_of_model <- function(model, what, ..., call) {
  handle <- live_handle(model, call)
  engine_ask(engine_of(model), what, handle, ..., call = call)
}

# Starts a prediction; `texts` comes from as_text() or as_pairs(), and what is NA in there never crosses.
# `options` are those of Python's `DecodeOptions`, by its names; those that are NULL are left out.
engine_run <- function(model, table, texts, options = list(), method = NULL, call) {
  present <- texts$present
  pairs <- if (!is.null(texts$pair)) texts$pair[present]
  options <- options[!vapply(options, is.null, NA)]
  started <- engine_of_model(
    model, "start", table, texts$values[present], pairs, crossing_places(texts), options, method,
    call = call
  )
  prepared(started, model)
}

engine_hidden <- function(model, texts, layers, words, prompt, call) {
  values <- texts$values[texts$present]
  started <- engine_of_model(
    model, "hidden", values, crossing_places(texts), layers, words, prompt,
    call = call
  )
  prepared(started, model)
}

engine_tokenize <- function(model, texts, prompt, call) {
  engine_run(model, "tokens", texts, list(prompt = prompt), call = call)
}

engine_chunk <- function(started, call) {
  engine_ask(started$engine, "chunk", started$run, call = call)
}

# Waits for a work in the background, and returns its result; an interrupt ends it. `heard(progress)` is
# told how far it is: `said`, lines for people, and `done` of `total`.
engine_wait <- function(engine, work, heard, call) {
  finished <- FALSE
  on.exit(if (!finished) suspendInterrupts(engines[[engine]]$cancel(work)))
  repeat {
    progress <- engine_ask(engine, "progress", work, call = call)
    heard(progress)
    if (isTRUE(progress$finished)) break
    # The engine has waited a while. Here R notices an interrupt, and the end of its time.
    Sys.sleep(SHORTEST_PAUSE)
  }
  finished <- TRUE
  engine_ask(engine, "result", work, call = call)
}

# Never an error: it is what happens on the way out of one.
engine_stop <- function(started) {
  suspendInterrupts(engines[[started$engine]]$stop(started$run))
}

crossing_places <- function(texts) {
  if (length(texts$present) < texts$n) texts$present
}

prepared <- function(started, model) {
  started$engine <- engine_of(model)
  started$kinds <- stats::setNames(as.character(unlist(started$kinds)), as.character(unlist(started$names)))
  started$levels <- as.character(unlist(started$levels))
  started
}
