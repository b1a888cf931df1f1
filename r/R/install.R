#' Make the Python environment that does the work
#'
#' Makes a virtual environment called `r-bertonnx` (in `~/.virtualenvs`, or `WORKON_HOME`) and
#' installs the Python package there. Needed once; not needed at all where reticulate is 1.41 or
#' newer, which makes an environment by itself, or where `RETICULATE_PYTHON` names a Python that
#' has the package.
#'
#' @param python A Python (3.10 or newer) to make the environment with. By default the `python3`
#'   that a terminal would start; `/usr/bin/python3` where R's own libraries would otherwise stand
#'   in for that Python's.
#' @param export Whether to install what [bert_export()] needs as well (PyTorch and transformers:
#'   some gigabytes).
#' @param gpu Whether to install ONNX Runtime for an NVIDIA GPU.
#' @param force Whether to begin again where the environment exists already.
#' @param pip_options Further options of `pip install`, such as `c("--no-cache-dir")`.
#' @return The path of the environment's Python, invisibly.
#' @seealso [bert_sitrep()] for what is there.
#' @examples
#' \dontrun{
#' bert_install()
#' bert_sitrep()
#' }
#' @export
bert_install <- function(
  python = NULL,
  export = FALSE,
  gpu = FALSE,
  force = FALSE,
  pip_options = character()
) {
  call <- rlang::current_env()
  check_flag(export)
  check_flag(gpu)
  check_flag(force)
  folder <- environment_folder()
  check_not_running(folder, call)
  python <- if (is.null(python)) python_to_build_with(call) else check_string(python)
  if (force || !file.exists(file.path(folder, python_in_environment()))) {
    make_environment(python, folder, call)
  }
  own <- file.path(folder, python_in_environment())
  package <- python_package(c(if (gpu) "gpu" else "cpu", if (export) "export"))
  cli::cli_inform(c("i" = "Installing {package} into {.file {folder}}."))
  options <- c("-m", "pip", "install", "--upgrade", "--disable-pip-version-check", pip_options, package)
  run_to_the_end(own, options, "install", "The Python package could not be installed.", call)
  cli::cli_inform(c("v" = "Done. Load a model with {.code bert_load(\"model.onnx\")}."))
  invisible(own)
}

check_not_running <- function(folder, call) {
  if (!reticulate::py_available(initialize = FALSE)) {
    return(invisible())
  }
  used <- reticulate::py_config()$python
  if (startsWith(normalizePath(dirname(used)), normalizePath(folder, mustWork = FALSE))) {
    bert_abort(
      c("This environment is in use by this R session.", "i" = "Restart R and type it again."),
      "install",
      call = call
    )
  }
}

make_environment <- function(python, folder, call) {
  if (dir.exists(folder)) {
    unlink(folder, recursive = TRUE)
  }
  cli::cli_inform(c("i" = "Making {.file {folder}} with {.file {python}}."))
  problem <- "The Python environment could not be made."
  run_to_the_end(python, c("-m", "venv", folder), "install", problem, call)
}

# The python3 of the terminal, unless R would load another libpython in its place.
python_to_build_with <- function(call) {
  found <- unname(Sys.which(c("python3", "python")))
  candidates <- c(found[nzchar(found)], "/usr/bin/python3")
  for (python in unique(candidates)) {
    seen <- examine_python(python)
    if (!is.null(seen) && recent_enough(seen$python) && is.null(shadowing_libpython(seen))) {
      return(seen$executable)
    }
  }
  bert_abort(
    c(
      "No Python of at least 3.10 was found that R could load.",
      "i" = "Install one ({.code apt-get install python3-venv}, or from python.org), or name one:
             {.code bert_install(python = \"/path/to/python3\")}."
    ),
    "no_python",
    call = call
  )
}

recent_enough <- function(version) {
  numeric_version(sub("[^0-9.].*$", "", version)) >= "3.10"
}

# R's own library path comes first in this process: a libpython of the same name in there is
# loaded instead of the one that the Python was built with. Returns its path, or NULL.
shadowing_libpython <- function(seen, path = Sys.getenv("LD_LIBRARY_PATH")) {
  if (!nzchar(seen$shared %||% "")) {
    return(NULL)
  }
  folders <- strsplit(path, ":", fixed = TRUE)[[1]]
  rivals <- file.path(folders[nzchar(folders)], basename(seen$libpython))
  rivals <- rivals[file.exists(rivals)]
  own <- normalizePath(seen$libpython, mustWork = FALSE)
  rivals <- rivals[normalizePath(rivals) != own]
  if (length(rivals) > 0) rivals[[1]]
}

# Runs a program, says what it says, and raises where it fails.
run_to_the_end <- function(program, args, kind, problem, call) {
  lines <- character()
  status <- run_showing(program, args, function(line) lines <<- c(lines, line))
  if (status == 0L) {
    return(invisible(lines))
  }
  last <- utils::tail(lines[nzchar(lines)], 5L)
  names(last) <- rep(" ", length(last))
  escaped <- gsub("}", "}}", gsub("{", "{{", last, fixed = TRUE), fixed = TRUE)
  bert_abort(
    c(problem, "x" = "It ended with status {status}:", escaped),
    kind,
    status = status,
    output = lines,
    call = call
  )
}

run_showing <- function(program, args, heard) {
  clean <- if (.Platform$OS.type == "unix") "LD_LIBRARY_PATH= PYTHONUNBUFFERED=1 "
  command <- paste0(clean, paste(shQuote(c(program, args)), collapse = " "), " 2>&1")
  connection <- pipe(command, open = "r", encoding = "UTF-8")
  status <- NULL
  on.exit(if (is.null(status)) close(connection))
  while (length(line <- readLines(connection, n = 1L, warn = FALSE)) > 0) {
    heard(line)
    cli::cli_verbatim(line)
  }
  status <- close(connection)
  exit_status(status)
}

# What close() says of a pipe: nothing where all went well, elsewhere what wait(2) says, in which
# the status is the second byte; Windows gives the status itself.
exit_status <- function(closed) {
  if (is.null(closed)) {
    return(0L)
  }
  closed <- as.integer(closed)
  if (.Platform$OS.type == "unix" && closed > 255L) closed %/% 256L else closed
}
