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
#'   `ignore_keys` and `verify_with` (vectors), `dimensions`, `hidden_states`, `calibrate_scores`, `force`, `trust_remote_code`, `allow_pickle`.
#'   `pooling` and `hidden_states` take several values (`hidden_states = c(0, -1)`, or `"all"`), `dimensions` several
#'   numbers, and `labels`, `calibration` and `calibrate_scores` a file.
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
  python <- if (is.null(python)) python_to_export_with(call) else exporting_python(python, call)
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

# One that is named: looked at first, since a shell's own words are for nobody.
exporting_python <- function(python, call) {
  python <- path.expand(check_string(python, "python", call))
  # A name without a folder is looked for as a terminal does.
  found <- if (grepl("[/\\\\]", python)) python else unname(Sys.which(python))
  seen <- examine_python(found)
  if (!is.null(seen) && nzchar(seen$bertonnx)) {
    return(found)
  }
  line <- install_line("export = TRUE")
  bert_abort(
    c(
      if (is.null(seen)) "{.file {python}} is not a Python that runs." else "{.file {python}} has no package bertonnx.",
      "i" = "Name another, or none: {.code {line}} makes one."
    ),
    "no_python",
    call = call
  )
}

EXPORT_TEXTS <- c("task", "revision", "precision", "optimize", "activation", "target")
# Several in one, with commas between them.
EXPORT_JOINED <- c("pooling", "hidden_states")
EXPORT_FILES <- c("labels", "calibration", "calibrate_scores")
EXPORT_NUMBERS <- c("max_length", "min_agreement")
# Typed once for each value on the command line, and so named in the singular there.
EXPORT_REPEATED <- c(ignore_keys = "--ignore-key", verify_with = "--verify-with", dimensions = "--dimensions")
EXPORT_FLAGS <- c("quantize", "force", "trust_remote_code", "allow_pickle", "normalize")

exporter_options <- function(given, call) {
  known <- c(EXPORT_TEXTS, EXPORT_JOINED, EXPORT_FILES, EXPORT_NUMBERS, names(EXPORT_REPEATED), EXPORT_FLAGS)
  names <- rlang::names2(given)
  if (any(names == "")) {
    bert_abort(
      c("Options of the exporter are given by name.", "i" = "Such as {.code task = \"feature-extraction\"}."), "input",
      call = call
    )
  }
  unknown <- setdiff(names, known)
  if (length(unknown) > 0) {
    bert_abort(
      c("The exporter has no option {.val {unknown}}.", "i" = "It has {.val {known}}."),
      "input",
      call = call
    )
  }
  given <- given[!vapply(given, is.null, NA)]
  unlist(lapply(names(given), function(name) exporter_option(name, given[[name]], call)))
}

exporter_option <- function(name, value, call) {
  option <- paste0("--", gsub("_", "-", name))
  if (name %in% EXPORT_FLAGS) {
    check_flag(value, name, call)
    return(if (value) option else if (name == "normalize") "--no-normalize")
  }
  if (name %in% names(EXPORT_REPEATED)) {
    values <- repeated_values(name, value, call)
    return(c(rbind(EXPORT_REPEATED[[name]], values)))
  }
  c(option, one_value(name, value, call))
}

repeated_values <- function(name, value, call) {
  if (name == "dimensions") {
    return(as.character(vapply(value, check_count, 1L, arg = name, call = call)))
  }
  if (!is.character(value) || anyNA(value)) bert_abort("{.arg {name}} must be names.", "input", call = call)
  value
}

one_value <- function(name, value, call) {
  if (name == "max_length") {
    return(as.character(check_count(value, name, call)))
  }
  if (name %in% EXPORT_NUMBERS) {
    return(format(check_number(value, name, call), scientific = FALSE))
  }
  if (name %in% EXPORT_FILES) {
    return(path.expand(check_string(value, name, call)))
  }
  several <- name %in% EXPORT_JOINED
  if (!is.atomic(value) || length(value) == 0 || anyNA(value) || !(several || length(value) == 1L)) {
    bert_abort("{.arg {name}} must be one value{if (several) ', or several'}.", "input", call = call)
  }
  paste(format(value, scientific = FALSE, trim = TRUE), collapse = ",")
}
