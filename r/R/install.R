#' Make the Python environment that does the work
#'
#' Makes a virtual environment called `r-bertonnx` (in `~/.virtualenvs`, or `WORKON_HOME`) and
#' installs the Python package there. Needed once; not needed at all where reticulate is 1.41 or
#' newer, which makes an environment by itself, or where `RETICULATE_PYTHON` names a Python that
#' has the package.
#'
#' The Python package comes from the package index, unless `source`, or the environment variable
#' `BERTONNX_PYTHON_PACKAGE`, says otherwise. Set the variable in `~/.Renviron` to have reticulate 1.41
#' or newer take it from there as well.
#'
#' @param python A Python (3.11 or newer) to make the environment with. By default the `python3`
#'   that a terminal would start; `/usr/bin/python3` where R's own libraries would otherwise stand
#'   in for that Python's.
#' @param source Where the Python package is: a folder with a copy of the repository, a wheel, an
#'   address, or a version (`"bertonnx==0.1.0"`).
#' @param export Whether to install what [bert_export()] needs as well (PyTorch and transformers:
#'   some gigabytes).
#' @param gpu Whether to install ONNX Runtime for an NVIDIA GPU.
#' @param adapters Whether to install what exporting PEFT adapters needs as well, with `export`.
#' @param force Whether to begin again where the environment exists already, as is done where it has
#'   the other ONNX Runtime of the two.
#' @param pip_options Further options of `pip install`, such as `c("--no-cache-dir")`.
#' @return The path of the environment's Python, invisibly.
#' @seealso [bert_sitrep()] for what is there.
#' @examples
#' \dontrun{
#' bert_install()
#' bert_install(source = "path/to/a/copy/of/the/repository")
#' bert_sitrep()
#' }
#' @export
bert_install <- function(
  python = NULL,
  source = NULL,
  export = FALSE,
  gpu = FALSE,
  adapters = FALSE,
  force = FALSE,
  pip_options = character()
) {
  call <- rlang::current_env()
  check_flag(export)
  check_flag(gpu)
  check_flag(adapters)
  check_flag(force)
  if (!is.null(source)) check_string(source)
  extras <- c(if (gpu) "gpu" else "cpu", if (export) "export", if (adapters) "adapters")
  package <- python_package(extras, source %||% Sys.getenv("BERTONNX_PYTHON_PACKAGE"))
  check_package(package, call)
  folder <- environment_folder()
  check_not_running(folder, call)
  own <- file.path(folder, python_in_environment())
  if (force || !is_for(examine_python(own), gpu)) {
    python <- if (is.null(python)) python_to_build_with(call) else check_string(python)
    make_environment(python, folder, call)
  }
  cli::cli_inform(c("i" = "Installing {package} into {.file {folder}}."))
  options <- c("--upgrade", "--disable-pip-version-check", "--progress-bar", "off", pip_options)
  packages <- c(package, if (export) EXPORT_TORCH)
  pip <- c("-m", "pip", "install", options, packages)
  run_to_the_end(own, pip, "install", not_installed(package), call)
  cli::cli_inform(c("v" = "Done.", "i" = what_next(own)))
  invisible(own)
}

# ONNX Runtime for the CPU and the one for GPUs do not go together in one environment.
is_for <- function(seen, gpu) {
  !is.null(seen) && (!nzchar(seen$onnxruntime) || nzchar(seen$gpu) == gpu)
}

what_next <- function(own, named = Sys.getenv("RETICULATE_PYTHON")) {
  first <- if (nzchar(named) && named != own) {
    "{.envvar RETICULATE_PYTHON} names another Python, which comes first: take it back with
     {.code Sys.unsetenv(\"RETICULATE_PYTHON\")}. Then load"
  } else if (reticulate::py_available(initialize = FALSE)) {
    "Another Python runs in this session: restart R, and load"
  } else {
    "Load"
  }
  cli::format_inline(paste(first, "a model with {.code bert_load(\"model.onnx\")}."))
}

# An open range would let pip take a build with gigabytes that nobody needs; this one was tested.
EXPORT_TORCH <- "torch==2.13.0"

not_installed <- function(package) {
  advice <- if (is.null(attr(package, "path"))) {
    c("i" = "From a copy of the repository: {.code bert_install(source = \"path/to/it\")}.")
  }
  c("The Python package could not be installed.", advice)
}

# pip would say as much, at greater length, after the environment was made.
check_package <- function(package, call) {
  path <- attr(package, "path")
  if (is.null(path) || !dir.exists(path) || file.exists(file.path(path, "pyproject.toml"))) {
    return(invisible())
  }
  bert_abort(
    c(
      "{.file {path}} holds no Python package: there is no {.file pyproject.toml} in it.",
      "i" = "Give the folder of the repository, in which {.file r} lies."
    ),
    "install",
    call = call
  )
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
  check_builds(python, call)
  before <- paste0(folder, ".before")
  unlink(before, recursive = TRUE)
  if (dir.exists(folder)) file.rename(folder, before)
  cli::cli_inform(c("i" = "Making {.file {folder}} with {.file {python}}."))
  done <- FALSE
  # Half an environment would be taken for a whole one the next time.
  on.exit({
    unlink(if (done) before else folder, recursive = TRUE)
    if (!done && dir.exists(before)) file.rename(before, folder)
  })
  problem <- "The Python environment could not be made."
  run_to_the_end(python, c("-m", "venv", folder), "install", problem, call)
  done <- TRUE
}

check_builds <- function(python, call) {
  seen <- examine_python(python)
  if (suits_r(seen)) {
    return(invisible())
  }
  problem <- if (is.null(seen)) {
    "{.file {python}} is not a Python that runs."
  } else if (!recent_enough(seen$python)) {
    "{.file {python}} is Python {seen$python}, and 3.11 or newer is needed."
  } else if (!nzchar(seen$library)) {
    "{.file {python}} comes without the shared library that R needs to load it."
  } else {
    "R's library path holds another {.file {basename(seen$libpython)}} than that of {.file {python}}."
  }
  bert_abort(
    c(problem, "i" = "Name another, or none: {.code bert_install()} looks for one that fits."),
    "no_python",
    call = call
  )
}

# The python3 of the terminal, unless R would load another libpython in its place.
python_to_build_with <- function(call) {
  found <- unname(Sys.which(c("python3", "python")))
  candidates <- c(found[nzchar(found)], "/usr/bin/python3")
  for (python in unique(candidates)) {
    seen <- examine_python(python)
    if (suits_r(seen)) {
      return(seen$executable)
    }
  }
  bert_abort(
    c(
      "No Python of at least 3.11 was found that R could load.",
      "i" = "Install one ({.code apt-get install python3-venv libpython3-dev}, or from python.org), or
             name one: {.code bert_install(python = \"/path/to/python3\")}."
    ),
    "no_python",
    call = call
  )
}

# R takes Python in as a library, which not every Python comes with.
suits_r <- function(seen) {
  !is.null(seen) && recent_enough(seen$python) && nzchar(seen$library) && is.null(shadowing_libpython(seen))
}

recent_enough <- function(version) {
  numeric_version(sub("[^0-9.].*$", "", version)) >= "3.11"
}

# R's own library path (as it was before reticulate adds to it) comes first in this process: a
# libpython of the same name in there is loaded instead of the one that the Python was built with.
# Returns its path, or NULL.
shadowing_libpython <- function(seen, path = the$library_path) {
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

OUR_ERROR <- "error: "

# Runs a program, says what it says, and raises where it fails.
run_to_the_end <- function(program, args, kind, problem, call) {
  lines <- character()
  # What our own command says last, its error, the condition says: shown here too, it would be there twice.
  status <- run_showing(program, args, function(line) {
    lines <<- c(lines, line)
    !any(startsWith(lines, OUR_ERROR))
  })
  if (status == 0L) {
    return(invisible(lines))
  }
  wrong <- cumsum(startsWith(lines, OUR_ERROR)) > 0
  last <- if (any(wrong)) lines[wrong] else utils::tail(lines[nzchar(lines)], 5L)
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
    if (isTRUE(heard(line))) {
      cli::cli_verbatim(line)
    }
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
