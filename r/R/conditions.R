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
#
# Python is called in here (`answer` is a promise), where an interrupt cannot take R out of the
# middle of Python's code, which crashes. Python itself is interrupted, and answers with nothing;
# R's own interrupt is raised afterwards.
unwrap <- function(answer, call) {
  answer <- suspendInterrupts(answer)
  if (is.null(answer)) {
    allowInterrupts(Sys.sleep(0))
    rlang::interrupt()
  }
  if (isTRUE(answer$ok)) {
    return(answer)
  }
  abort_python(answer$error, call)
}

abort_python <- function(error, call) {
  parent <- python_condition(error$type, error$message, error$traceback)
  if (!nzchar(error$expected)) {
    text <- c(
      "Python failed, and this was not foreseen.",
      "i" = "Please report it with {.code rlang::last_error()$parent$python_traceback}."
    )
    bert_abort(text, "python", parent = parent, call = call)
  }
  message <- in_r_words(error$message)
  bert_abort(
    c("{message}"),
    kind_of(error$type),
    python_type = error$type,
    row_kind = error$kind,
    parent = parent,
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

# Python's messages name options of the command line; R users type something else.
in_r_words <- function(message) {
  words <- c(
    "pip install \"bertonnx[cpu]\"" = "bert_install()",
    "bertonnx.load()" = "bert_load()",
    "bertonnx doctor" = "bert_sitrep()",
    "--top-k" = "top_n",
    "top_k" = "top_n",
    "--provider" = "device",
    "provider" = "device"
  )
  clean <- "bert_install(gpu = TRUE, force = TRUE)"
  message <- gsub("pip uninstall -y [a-z -]+ && pip install \"bertonnx\\[gpu\\]\"", clean, message)
  message <- gsub("pip install (--upgrade )?\"bertonnx\\[gpu\\]\"", "bert_install(gpu = TRUE)", message)
  for (python in names(words)) {
    message <- gsub(python, words[[python]], message, fixed = TRUE)
  }
  message <- gsub("bertonnx export SOURCE -o (\\S+)", "bert_export(source, \"\\1\")", message)
  message <- gsub("bertonnx run (\\S+) input.txt", "bert_load(\"\\1\")", message)
  message <- gsub("--([a-z]+)-([a-z]+)", "\\1_\\2", message)
  gsub("(^|[ (])--([a-z]+)", "\\1\\2", message)
}
