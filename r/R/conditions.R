# Conditions of this package: all of class `bertonnx_error` and one of `bertonnx_error_<kind>`.

bert_abort <- function(message, kind, ..., parent = NULL, call, .envir = parent.frame()) {
  cli::cli_abort(
    message,
    class = c(paste0("bertonnx_error_", kind), "bertonnx_error"),
    ...,
    parent = parent,
    call = call,
    .envir = .envir
  )
}

# Returns what Python answered, or raises its error as an R condition.
unwrap <- function(answer, call) {
  answer <- awaited(answer)
  if (isTRUE(answer$ok)) {
    return(answer)
  }
  abort_python(answer$error, call)
}

# Returns what Python answered, an error as it is. What takes long is done by a thread of Python's, for which R waits a
# moment at a time: between two of them it notices an interrupt and the end of its time (setTimeLimit()).
#
# Python is called in here (`answer` is a promise), where an interrupt cannot take R out of the
# middle of Python's code, which crashes. Python itself is interrupted, and answers with nothing;
# R's own interrupt is raised afterwards.
awaited <- function(answer) {
  answer <- heeding_time(answer)
  repeat {
    # Of no time at all, R would look at nothing.
    allowInterrupts(Sys.sleep(SHORTEST_PAUSE))
    if (is.null(answer)) rlang::interrupt()
    if (is.null(answer$pending)) {
      return(answer)
    }
    answer <- heeding_time(answer$pending$wait())
  }
}

# While Python runs, reticulate has R look at the time now and then, and swallows the error where that is over: R would
# go on for ever. It has left its message behind, with the end of the line that those have which nobody catches.
heeding_time <- function(code) {
  # One of before is no news.
  before <- swallowed_limit()
  if (!is.null(before)) try(stop(paste0(before, ".")), silent = TRUE)
  value <- suspendInterrupts(code)
  limit <- swallowed_limit()
  if (!is.null(limit)) stop(simpleError(limit))
  value
}

swallowed_limit <- function() {
  said <- geterrmessage()
  # In the language of the session, as R says them.
  limits <- c(
    gettext("reached elapsed time limit", domain = "R"), gettext("reached session elapsed time limit", domain = "R"),
    gettext("reached CPU time limit", domain = "R"), gettext("reached session CPU time limit", domain = "R")
  )
  found <- limits[endsWith(said, paste0(limits, "\n"))]
  if (length(found) > 0) found[[1]]
}

# Seconds in which R looks whether it is interrupted. While it waits by itself, Python's threads may stand still.
SHORTEST_PAUSE <- 1e-4

abort_python <- function(error, call) {
  python <- python_condition(error$type, error$message, error$traceback)
  if (!nzchar(error$expected)) {
    text <- c(
      "Python failed, and this was not foreseen.",
      "i" = "Please report it with {.code rlang::last_error()$python$python_traceback}."
    )
    bert_abort(text, "python", python = python, parent = python, call = call)
  }
  # As Python words it for R. As the parent, Python's own error would say it once more.
  message <- error$message
  bert_abort(
    c("{message}"),
    kind_of(error$type),
    python_type = error$type,
    row_kind = error$kind,
    python = python,
    call = call
  )
}

python_condition <- function(type, message, traceback) {
  structure(
    class = c(paste0("bertonnx_python_", type), "bertonnx_python_error", "error", "condition"),
    list(message = paste0(type, ": ", message), call = NULL, type = type, python_traceback = traceback)
  )
}

# "ModelFileError" is `model_file`.
kind_of <- function(type) {
  words <- gsub("([a-z])([A-Z])", "\\1_\\2", sub("Error$", "", type))
  tolower(words)
}
