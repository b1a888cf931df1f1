#' BERT models in R, from text to prediction
#'
#' Load a model file with [bert_load()], then ask it for what it was trained for: [bert_embed()],
#' [bert_classify()], [bert_entities()], [bert_answer()] or [bert_fill_mask()]. Matrices, factors
#' and tibbles come out. [bert_install()] makes the Python environment that does the work, once;
#' [bert_sitrep()] says what is missing.
#'
#' @section Conditions:
#' Every error of this package has the class `bertonnx_error` and one that says what happened:
#'
#' | class | when |
#' |---|---|
#' | `bertonnx_error_input` | an argument is of the wrong kind |
#' | `bertonnx_error_encoding` | a text is not valid in its encoding |
#' | `bertonnx_error_usage` | an argument is out of range |
#' | `bertonnx_error_task` | the model was exported for another task |
#' | `bertonnx_error_row` | one text failed |
#' | `bertonnx_error_model_file` | the file is missing, broken, foreign, or was replaced |
#' | `bertonnx_error_provider` | the device cannot be used |
#' | `bertonnx_error_no_python` | no suitable Python, or one without the Python package |
#' | `bertonnx_error_protocol` | the Python package does not fit this R package |
#' | `bertonnx_error_fork` | the model was loaded before the process was forked |
#' | `bertonnx_error_export`, `bertonnx_error_install` | the exporter, or the installer, failed |
#' | `bertonnx_error_python` | anything else that Python raised |
#'
#' Where texts were longer than the model takes and were cut, there is a warning of class
#' `bertonnx_warning_truncated`, once a call.
#'
#' Where Python raised the error, it is the condition's `python`, with its class, its message and
#' its `python_traceback`, which are never shown by themselves.
#'
#' @keywords internal
"_PACKAGE"

# What this session knows: the bridge to Python, the process that started it, and how many seconds
# of all predictions so far were Python's.
the <- new.env(parent = emptyenv())
the$bridge <- NULL
the$pid <- NULL
the$predicting <- 0
the$library_path <- ""
the$loaded <- list()
the$opened <- 0

# What computes, by name (engine.R).
engines <- new.env(parent = emptyenv())

.onLoad <- function(libname, pkgname) {
  the$library_path <- Sys.getenv("LD_LIBRARY_PATH")
  tell_parsnip()
  if (can_require_python()) {
    getExportedValue("reticulate", "py_require")(python_package(), python_version = ">=3.11")
  }
}

# parsnip is told of bert_text() when it is loaded, be that before or after.
tell_parsnip <- function() {
  if (isNamespaceLoaded("parsnip")) {
    register_with_parsnip()
  } else {
    setHook(packageEvent("parsnip", "onLoad"), function(...) register_with_parsnip())
  }
}

can_require_python <- function() {
  "py_require" %in% getNamespaceExports("reticulate")
}

# What pip and uv install: the package of the index, or one of the user's own.
python_package <- function(extras = "cpu", source = default_source()) {
  wanted <- sprintf("bertonnx[%s]", paste(extras, collapse = ","))
  if (!nzchar(source)) {
    return(wanted)
  }
  if (file.exists(source)) {
    path <- normalizePath(source, winslash = "/")
    address <- utils::URLencode(paste0("file://", if (!startsWith(path, "/")) "/", enc2utf8(path)))
    return(structure(paste(wanted, "@", address), path = path))
  }
  if (grepl("^[a-z+]+://", source)) {
    return(paste(wanted, "@", source))
  }
  sub("^bertonnx(?![\\[\\w.-])", wanted, source, perl = TRUE)
}
