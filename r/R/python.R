# Which Python, and the bridge into it. Python starts with the first model, never before.

# The number of the interface that this package was written for (runtime/r_bridge.py, PROTOCOL).
PROTOCOL <- 10L

# Seconds that a call waits for Python at most. What takes longer, R asks for again.
PATIENCE <- 0.005

ENVIRONMENT <- "r-bertonnx"

bridge <- function(call = rlang::caller_env()) {
  check_not_forked(call)
  if (is.null(the$bridge)) {
    # What was interrupted while it was imported (NumPy, for one) cannot be imported again in this process.
    suspendInterrupts({
      start_python(call)
      module <- import_bridge(call)
      check_protocol(module$PROTOCOL, call)
      module$heed(PATIENCE)
      the$bridge <- module
      the$pid <- Sys.getpid()
    })
  }
  the$bridge
}

# A forked process has Python's memory without its threads: the first prediction would never end.
check_not_forked <- function(call) {
  if (is.null(the$pid) || the$pid == Sys.getpid()) {
    return(invisible())
  }
  bert_abort(
    c(
      "Python was started before this process was forked, and does not survive that.",
      "i" = "Use processes of their own: {.code parallel::makePSOCKcluster()}, {.code callr::r()} or
             {.code future::plan(\"multisession\")}. A model can be sent there; it opens its file again.",
      "i" = "One process already uses all cores, so that there is little to win."
    ),
    "fork",
    call = call
  )
}

start_python <- function(call) {
  # ONNX Runtime reports home unless this is set before it is loaded, by whomever.
  Sys.setenv(ORT_DISABLE_TELEMETRY = "1")
  chosen <- choose_python()
  if (chosen$source == "running") {
    return(invisible())
  }
  check_chosen(chosen, call)
  settled <- chosen$source %in% c("managed", "RETICULATE_PYTHON") || is_asked_for(chosen$source)
  variables <- c(
    # Nothing else is as strong in every version of reticulate.
    if (!settled) c(RETICULATE_PYTHON = chosen$python),
    # What is there was looked at; reticulate's own look takes a package from a folder for missing.
    RETICULATE_CHECK_REQUIRED_PACKAGES = "false"
  )
  failure <- with_variables(variables, tryCatch(
    {
      without_poetry(reticulate::py_config())
      NULL
    },
    error = identity
  ))
  if (!is.null(failure)) abort_not_started(chosen, failure, call)
}

# Other processes, and what comes after, have a choice of their own.
with_variables <- function(variables, code) {
  before <- Sys.getenv(names(variables), unset = NA, names = TRUE)
  do.call(Sys.setenv, as.list(variables))
  on.exit({
    Sys.unsetenv(names(before)[is.na(before)])
    if (!all(is.na(before))) do.call(Sys.setenv, as.list(before[!is.na(before)]))
  })
  force(code)
}

abort_not_started <- function(chosen, failure, call) {
  line <- install_line()
  text <- if (chosen$source == "managed") {
    c(
      "reticulate could not make a Python environment with {.val {python_package()}}; what it tried stands above.",
      "i" = "To have one without reticulate's help, type {.run {line}}, once.",
      "i" = "Without a network, an environment that was made before is used where {.envvar UV_OFFLINE} is 1."
    )
  } else {
    c("Python at {.file {chosen$python}} does not start.", "i" = "Type {.run bertonnx::bert_sitrep()}.")
  }
  bert_abort(text, "no_python", parent = failure, call = call)
}

import_bridge <- function(call) {
  tryCatch(
    reticulate::import("bertonnx.runtime.r_bridge", convert = TRUE),
    error = function(error) {
      python <- reticulate::py_config()$python
      line <- install_line()
      bert_abort(
        c(
          "Python at {.file {python}} is running, and it has no package bertonnx that fits.",
          "i" = "Restart R, then type {.run {line}}; or name another Python in the
                 environment variable {.envvar RETICULATE_PYTHON}."
        ),
        "no_python",
        parent = error,
        call = call
      )
    }
  )
}

check_protocol <- function(found, call) {
  if (identical(as.integer(found), PROTOCOL)) {
    return(invisible())
  }
  older <- if (as.integer(found) < PROTOCOL) "Python" else "R"
  advice <- if (older == "Python") {
    line <- install_line()
    c("i" = "Restart R and type {.run {line}} to update the Python package.")
  } else {
    c("i" = "Update the R package bertonnx.")
  }
  bert_abort(
    c(
      "The Python package bertonnx speaks protocol {found}, and the R package speaks {PROTOCOL}:
       the {older} package is older.",
      advice
    ),
    "protocol",
    call = call
  )
}

# Returns `python` (NA where reticulate makes one), and `source`: why it is this one.
choose_python <- function() {
  if (reticulate::py_available(initialize = FALSE)) {
    return(choice(reticulate::py_config()$python, "running"))
  }
  named <- Sys.getenv("RETICULATE_PYTHON")
  if (identical(named, "managed")) {
    return(choice(NA_character_, "managed"))
  }
  if (nzchar(named)) {
    return(choice(path.expand(named), "RETICULATE_PYTHON"))
  }
  found <- discovered()
  if (is_asked_for(found$forced)) {
    return(choice(found$python, found$forced))
  }
  managed <- tolower(Sys.getenv("RETICULATE_USE_MANAGED_VENV"))
  own <- own_python()
  if (!is.null(own) && !managed %in% c("true", "1", "yes")) {
    return(choice(own, "bert_install"))
  }
  if (is.null(found)) {
    makes <- can_require_python() && !managed %in% c("false", "0", "no")
    return(choice(NA_character_, if (makes) "managed" else "none"))
  }
  choice(found$python, if (in_working_folder(found$python)) "working folder" else "search")
}

choice <- function(python, source) {
  list(python = python, source = source)
}

# Without asking, and without making, anything: reticulate may offer Miniconda on the way.
discovered <- function() {
  quiet <- c(RETICULATE_MINICONDA_ENABLED = "FALSE", RETICULATE_AUTOCREATE_PACKAGE_VENV = "no")
  tryCatch(
    without_poetry(with_variables(quiet, reticulate::py_discover_config("bertonnx"))),
    error = function(error) NULL
  )
}

# reticulate takes any pyproject.toml for Poetry's, and warns where there is no Poetry.
without_poetry <- function(code) {
  withCallingHandlers(code, warning = function(warning) {
    said <- conditionMessage(warning)
    if (grepl("Poetry|pyproject.toml", said)) rlang::cnd_muffle(warning)
  })
}

# By use_python() and its like, an environment variable, or the program that started R; not by what
# lies around, nor by what an editor falls back on.
is_asked_for <- function(forced) {
  asked <- c(
    "^use_python\\(\\) ", "^use_python function", "^RETICULATE_PYTHON(_ENV)?$", "^VIRTUAL_ENV$",
    "^PYTHON_SESSION_", "^the current"
  )
  is.character(forced) && any(grepl(paste(asked, collapse = "|"), forced))
}

in_working_folder <- function(python) {
  if (is.null(python)) {
    return(FALSE)
  }
  # Not normalizePath(): the link in a virtual environment leads out of it.
  folder <- file.path(normalizePath(dirname(dirname(python)), mustWork = FALSE), "")
  here <- file.path(normalizePath(getwd()), "")
  startsWith(folder, here) && folder != here
}

# An environment without the package is as good as none.
own_python <- function(folder = environment_folder()) {
  restore_environment(folder)
  python <- file.path(folder, python_in_environment())
  if (file.exists(python) && (length(package_info(folder)) > 0 || isTRUE(nzchar(examine_python(python)$bertonnx)))) {
    python
  }
}

environment_folder <- function(envname = ENVIRONMENT) {
  root <- Sys.getenv("WORKON_HOME", unset = file.path("~", ".virtualenvs"))
  path.expand(file.path(root, envname))
}

python_in_environment <- function() {
  if (.Platform$OS.type == "windows") file.path("Scripts", "python.exe") else file.path("bin", "python")
}

# Asked before it is in the process, from where it cannot be removed again.
check_chosen <- function(chosen, call) {
  if (chosen$source == "managed") {
    return(invisible())
  }
  if (chosen$source == "working folder") {
    abort_working_folder(chosen$python, call)
  }
  seen <- examine_python(chosen$python)
  if (!is.na(chosen$python) && isTRUE(seen$bertonnx != "")) {
    return(invisible())
  }
  bert_abort(c(no_python_because(chosen, seen), no_python_advice(chosen)), "no_python", call = call)
}

no_python_because <- function(chosen, seen) {
  if (is.na(chosen$python)) {
    return("No Python was found.")
  }
  if (is.null(seen)) {
    return(cli::format_inline("{.file {chosen$python}} ({chosen$source}) is not a Python that runs."))
  }
  cli::format_inline(
    "Python {seen$python} at {.file {chosen$python}} ({chosen$source}) has no package bertonnx."
  )
}

no_python_advice <- function(chosen) {
  line <- install_line()
  if (chosen$source %in% c("search", "none", "bert_install")) {
    return(c("i" = cli::format_inline("Type {.run {line}}, once.")))
  }
  undo <- if (chosen$source == "VIRTUAL_ENV") {
    "start R outside of that environment ({.code deactivate})"
  } else {
    "take that choice back ({.code Sys.unsetenv(\"RETICULATE_PYTHON\")}, or no {.code use_python()}), restart R"
  }
  pip <- pip_line(chosen$python)
  c(
    "i" = cli::format_inline("Either install it there: {.code {pip}};"),
    "i" = cli::format_inline(paste("or", undo, "and type {.run {line}}."))
  )
}

# For a terminal.
pip_line <- function(python) {
  package <- python_package()
  if (!ON_INDEX && !grepl(" @ ", package, fixed = TRUE)) package <- "path/to/a/copy/of/the/repository[cpu]"
  sprintf("%s -m pip install \"%s\"", python, package)
}

abort_working_folder <- function(python, call) {
  folder <- dirname(dirname(python))
  line <- install_line()
  bert_abort(
    c(
      "A Python environment lies in the working folder, {.file {folder}}, and nobody asked for it.",
      "i" = "To use it, type {.code reticulate::use_virtualenv(\"{folder}\")} first.",
      "i" = "Not to use it, type {.run {line}}, once."
    ),
    "no_python",
    call = call
  )
}

# Runs a Python on its own and returns what it has, or NULL where it does not run.
examine_python <- function(python) {
  if (is.na(python) || !file.exists(python)) {
    return(NULL)
  }
  script <- system.file("python", "examine.py", package = "bertonnx", mustWork = TRUE)
  lines <- tryCatch(
    suppressWarnings(run_python(python, shQuote(script))),
    error = function(error) character()
  )
  fields <- regmatches(lines, regexpr("=", lines), invert = TRUE)
  fields <- fields[lengths(fields) == 2L]
  if (length(fields) == 0) {
    return(NULL)
  }
  as.list(stats::setNames(vapply(fields, `[[`, "", 2L), vapply(fields, `[[`, "", 1L)))
}

# R's LD_LIBRARY_PATH is not for another program: it may hold another libpython.
run_python <- function(python, args, ...) {
  clean <- if (.Platform$OS.type == "unix") "LD_LIBRARY_PATH=" else character()
  system2(python, args, stdout = TRUE, stderr = FALSE, env = clean, ...)
}

# The Python that answers in this process, for another process.
running_python <- function(call) {
  bridge(call)
  reticulate::py_config()$python
}
