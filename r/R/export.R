#' Export a checkpoint to one model file
#'
#' Runs `bertonnx export` in a process of its own and shows what it says; PyTorch never enters R.
#' The result is compared with PyTorch before the file appears.
#'
#' @param source A name on the Hugging Face Hub (`"bert-base-uncased"`), a folder with a checkpoint,
#'   a Sentence-Transformers folder, or a TensorFlow checkpoint (`"bert_model.ckpt"`, a SavedModel,
#'   `.h5`, `.keras`), which is read without TensorFlow.
#' @param path The file to write.
#' @param ... Options of the exporter, by name: `task`, `revision`, `quantize`, `precision`, `optimize`,
#'   `max_length`, `pooling`, `normalize`, `activation`, `labels`, `calibration`, `min_agreement`, `target`,
#'   `ignore_keys` and `verify_with` (vectors), `force`, `trust_remote_code`, `allow_pickle`.
#'   See `bertonnx export --help`.
#' @param python The Python to run, with what `bert_install(export = TRUE)` installs; by default the
#'   one that predictions use, or the one that [bert_install()] made.
#' @return `path`, invisibly; ready for [bert_load()].
#' @examples
#' \dontrun{
#' bert_install(export = TRUE)
#' bert_export("sentence-transformers/all-MiniLM-L6-v2", "embeddings.onnx")
#' model <- bert_load("embeddings.onnx")
#' }
#' @export
bert_export <- function(source, path, ..., python = NULL) {
  call <- rlang::current_env()
  check_string(source)
  check_string(path)
  options <- exporter_options(list(...), call)
  python <- if (is.null(python)) python_to_export_with(call) else check_string(python)
  # The name of a TensorFlow checkpoint is how the names of its files begin.
  local <- if (dir.exists(source) || length(Sys.glob(paste0(source, "*"))) > 0) path.expand(source) else source
  args <- c("-m", "bertonnx", "export", local, "--output", path.expand(path), options)
  # The exporter then speaks of what is typed in R.
  with_variables(c(BERTONNX_FACE = "R"), {
    run_to_the_end(python, enc2utf8(args), "export", "The checkpoint was not exported.", call)
  })
  invisible(path)
}

# The Python of predictions, or the one that bert_install() made: whichever has PyTorch.
python_to_export_with <- function(call) {
  chosen <- choose_python()
  for (python in c(chosen$python, own_python())) {
    seen <- examine_python(python)
    if (!is.null(seen) && nzchar(seen$bertonnx) && nzchar(seen$torch)) {
      return(python)
    }
  }
  line <- install_line("export = TRUE")
  bert_abort(
    c(
      "Exporting takes PyTorch, and no Python with it and the package bertonnx was found.",
      "i" = "Type {.run {line}}, once, in a fresh R; or name one: {.arg python}."
    ),
    "no_python",
    call = call
  )
}

EXPORT_TEXTS <- c(
  "task", "revision", "precision", "optimize", "max_length", "pooling", "activation", "labels", "calibration", "min_agreement",
  "target", "calibrate_scores", "dimensions", "hidden_states"
)
# Typed once for each value on the command line, and so named in the singular there.
EXPORT_REPEATED <- c(ignore_keys = "--ignore-key", verify_with = "--verify-with")
EXPORT_FLAGS <- c("quantize", "force", "trust_remote_code", "allow_pickle", "normalize")

exporter_options <- function(given, call) {
  known <- c(EXPORT_TEXTS, names(EXPORT_REPEATED), EXPORT_FLAGS)
  unknown <- setdiff(rlang::names2(given), known)
  if (length(unknown) > 0) {
    bert_abort(
      c("The exporter has no option {.val {unknown}}.", "i" = "It has {.val {known}}, by name."),
      "input",
      call = call
    )
  }
  given <- given[!vapply(given, is.null, NA)]
  unlist(lapply(names(given), function(name) exporter_option(name, given[[name]], call)))
}

exporter_option <- function(name, value, call) {
  option <- gsub("_", "-", name)
  if (name %in% EXPORT_TEXTS) {
    if (!rlang::is_scalar_atomic(value) || is.na(value)) {
      bert_abort("{.arg {name}} must be one value.", "input", call = call)
    }
    return(c(paste0("--", option), format(value, scientific = FALSE)))
  }
  if (name %in% names(EXPORT_REPEATED)) {
    if (!is.character(value) || anyNA(value)) {
      bert_abort("{.arg {name}} must be names.", "input", call = call)
    }
    return(c(rbind(EXPORT_REPEATED[[name]], value)))
  }
  check_flag(value, name, call)
  if (value) paste0("--", option) else if (name == "normalize") "--no-normalize"
}
