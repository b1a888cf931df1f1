#' Make the Python environment that does the work
#'
#' Makes a virtual environment called `r-bertonnx` (in `~/.virtualenvs`, or `WORKON_HOME`) and
#' installs the Python package there. Needed once; not needed at all where reticulate is 1.41 or
#' newer, which makes an environment by itself, or where `RETICULATE_PYTHON` names a Python that
#' has the package.
#'
#' A new environment is made beside one that is there, and takes its place when it is complete and
#' works. Where that fails, or is interrupted, all stays as it was.
#'
#' Without `source`, the Python package comes from where the environment variable
#' `BERTONNX_PYTHON_PACKAGE` says; else from the copy of the repository that this R package, or the
#' environment that is there, was installed from; else from the package index. Set the variable in
#' `~/.Renviron` to have reticulate 1.41 or newer take it from there as well.
#'
#' @param python A Python (3.11 or newer) to make the environment with. By default the `python3`
#'   that a terminal would start; `/usr/bin/python3` where R's own libraries would otherwise stand
#'   in for that Python's.
#' @param source Where the Python package is: a folder with a copy of the repository, a wheel, an
#'   address, or a version (`"bertonnx==0.1.0"`).
#' @param export Whether to install what [bert_export()] needs as well (PyTorch and transformers:
#'   some gigabytes).
#' @param gpu Whether to install ONNX Runtime for an NVIDIA GPU; by default where the environment that
#'   is there has it.
#' @param adapters Whether to install what exporting PEFT adapters needs as well, with `export`.
#' @param extras Further extras of the Python package, such as `"arrow"` (Parquet), `"train"`,
#'   `"evaluate"` or `"tensorflow"`.
#' @param force Whether to leave out what else an environment that is there was made with (`export`,
#'   `gpu`, `adapters`, `extras`); it is installed again otherwise.
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
  gpu = NULL,
  adapters = FALSE,
  extras = character(),
  force = FALSE,
  pip_options = character()
) {
  call <- rlang::current_env()
  flags <- c(export = check_flag(export), adapters = check_flag(adapters))
  extras <- c(names(flags)[flags], check_extras(extras, call))
  if (!is.null(gpu)) check_flag(gpu)
  check_flag(force)
  if (!is.null(source)) check_string(source)
  folder <- environment_folder()
  check_not_running(folder, call)
  restore_environment(folder)
  extras <- all_extras(extras, gpu, folder, force)
  package <- python_package(extras, source %||% default_source())
  check_package(package, call)
  python <- if (is.null(python)) python_to_build_with(call) else check_string(python)
  check_builds(python, call)
  new <- paste0(folder, ".new")
  on.exit(unlink(new, recursive = TRUE))
  fill_environment(new, python, package, extras, pip_options, call)
  put_in_place(new, folder, call)
  own <- file.path(folder, python_in_environment())
  cli::cli_inform(c("v" = "Done.", "i" = what_next(own)))
  invisible(own)
}

check_extras <- function(extras, call) {
  if (!is.character(extras) || anyNA(extras) || !all(grepl("^[a-z]+$", extras))) {
    bert_abort("{.arg extras} must be names of extras, such as {.val arrow}.", "input", call = call)
  }
  extras
}

EXTRAS_FILE <- "bertonnx-extras"

# What is asked for, and what the environment that is there was made with. ONNX Runtime for the CPU and
# the one for GPUs do not go together in one environment.
all_extras <- function(asked, gpu, folder, force) {
  before <- if (!force) extras_of(folder)
  runtime <- if (isTRUE(gpu %||% ("gpu" %in% before))) "gpu" else "cpu"
  unique(c(runtime, asked, setdiff(before, c("cpu", "gpu"))))
}

extras_of <- function(folder) {
  noted <- file.path(folder, EXTRAS_FILE)
  if (file.exists(noted)) {
    return(readLines(noted))
  }
  seen <- examine_python(file.path(folder, python_in_environment()))
  c(if (isTRUE(nzchar(seen$gpu))) "gpu", if (isTRUE(nzchar(seen$torch))) "export")
}

fill_environment <- function(folder, python, package, extras, pip_options, call) {
  unlink(folder, recursive = TRUE)
  cli::cli_inform(c("i" = "Making an environment with {.file {python}}."))
  run_to_the_end(python, c("-m", "venv", folder), "install", "The Python environment could not be made.", call)
  own <- file.path(folder, python_in_environment())
  cli::cli_inform(c("i" = "Installing {package}."))
  options <- c("--upgrade", "--disable-pip-version-check", "--progress-bar", "off", pip_options)
  packages <- c(package, if (any(c("export", "train") %in% extras)) EXPORT_TORCH)
  run_to_the_end(own, c("-m", "pip", "install", options, packages), "install", not_installed(package), call)
  check_protocol(protocol_of(own, call), call)
  writeLines(extras, file.path(folder, EXTRAS_FILE))
}

# By importing it, so that an environment that does not work never takes the place of one that does.
protocol_of <- function(python, call) {
  code <- "from bertonnx.runtime.r_bridge import PROTOCOL; print(PROTOCOL)"
  problem <- "The Python package was installed, and does not work."
  said <- run_to_the_end(python, c("-c", code), "install", problem, call, show = FALSE)
  suppressWarnings(as.integer(said[[length(said)]]))
}

# The folder's name is in some of its files.
put_in_place <- function(new, folder, call) {
  before <- paste0(folder, ".before")
  unlink(before, recursive = TRUE)
  name_anew(new, folder)
  if (dir.exists(folder)) file.rename(folder, before)
  if (suppressWarnings(file.rename(new, folder))) {
    unlink(before, recursive = TRUE)
    return(invisible())
  }
  restore_environment(folder)
  bert_abort(
    c("{.file {folder}} could not be replaced.", "i" = "Close what uses it, such as another R, and type it again."),
    "install",
    call = call
  )
}

name_anew <- function(from, to) {
  scripts <- list.files(dirname(file.path(from, python_in_environment())), full.names = TRUE)
  # Of links to Python itself, nothing is read.
  scripts <- scripts[!nzchar(Sys.readlink(scripts)) & file.size(scripts) < 1e5]
  for (script in scripts) {
    bytes <- readBin(script, "raw", file.size(script))
    if (any(bytes == as.raw(0))) next
    text <- rawToChar(bytes)
    named <- gsub(from, to, text, fixed = TRUE, useBytes = TRUE)
    if (!identical(named, text)) writeBin(charToRaw(named), script)
  }
}

# Where R was killed between taking the old one away and putting the new one there.
restore_environment <- function(folder) {
  before <- paste0(folder, ".before")
  if (!dir.exists(folder) && dir.exists(before)) suppressWarnings(file.rename(before, folder))
}

# Whether pip finds the Python package by its name.
ON_INDEX <- FALSE

# The copy of the repository that this R package is installed from: R CMD INSTALL reads this line there.
COPY <- local({
  above <- dirname(getwd())
  if (file.exists(file.path(above, "pyproject.toml")) && dir.exists(file.path(above, "runtime"))) above else ""
})

default_source <- function(folder = environment_folder()) {
  named <- Sys.getenv("BERTONNX_PYTHON_PACKAGE")
  if (nzchar(named)) {
    return(named)
  }
  if (nzchar(COPY) && file.exists(file.path(COPY, "pyproject.toml"))) {
    return(COPY)
  }
  source_of(folder)
}

# What pip notes of a package that is not from an index; "" where it is.
source_of <- function(folder) {
  noted <- Sys.glob(file.path(package_info(folder), "direct_url.json"))
  if (length(noted) == 0) {
    return("")
  }
  address <- regmatches(text <- paste(readLines(noted[[1]], warn = FALSE), collapse = ""), regexpr("\"url\": *\"[^\"]*\"", text))
  path <- utils::URLdecode(sub("^\"url\": *\"file://([^\"]*)\"$", "\\1", address))
  if (length(path) == 1L && file.exists(path)) path else ""
}

package_info <- function(folder) {
  Sys.glob(file.path(folder, c("lib/python*", "Lib"), "site-packages", "bertonnx-*.dist-info"))
}

# What to type to install, with what has to be named: `options` as they are typed.
install_line <- function(options = NULL) {
  known <- ON_INDEX || nzchar(default_source())
  given <- c(if (!known) "source = \"path/to/a/copy/of/the/repository\"", options)
  sprintf("bertonnx::bert_install(%s)", paste(given, collapse = ", "))
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
  advice <- if (!grepl(" @ ", package, fixed = TRUE)) {
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
  line <- install_line()
  bert_abort(
    c(problem, "i" = "Name another, or none: {.code {line}} looks for one that fits."),
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
  line <- install_line("python = \"/path/to/python3\"")
  bert_abort(
    c(
      "No Python of at least 3.11 was found that R could load.",
      "i" = "Install one ({.code apt-get install python3-venv libpython3-dev}, or from python.org), or
             name one: {.code {line}}."
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
run_to_the_end <- function(program, args, kind, problem, call, show = TRUE) {
  lines <- character()
  # What our own command says last, its error, the condition says: shown here too, it would be there twice.
  status <- run_showing(program, args, function(line) {
    lines <<- c(lines, line)
    show && !any(startsWith(lines, OUR_ERROR))
  })
  if (status == 0L) {
    return(invisible(lines))
  }
  wrong <- cumsum(startsWith(lines, OUR_ERROR)) > 0
  said <- if (any(wrong)) {
    ours <- lines[wrong]
    ours[[1]] <- substring(ours[[1]], nchar(OUR_ERROR) + 1L)
    stats::setNames(ours, c("x", rep(" ", length(ours) - 1L)))
  } else {
    last <- utils::tail(lines[nzchar(lines)], 5L)
    c("x" = sprintf("It ended with status %d:", status), stats::setNames(last, rep(" ", length(last))))
  }
  said[] <- gsub("}", "}}", gsub("{", "{{", said, fixed = TRUE), fixed = TRUE)
  bert_abort(
    c(problem, said),
    kind,
    status = status,
    output = lines,
    call = call
  )
}

# Where a pipe is read, R notices no interrupt; so the program writes to a file, which is looked at.
run_showing <- function(program, args, heard) {
  say <- function(lines) {
    for (line in lines) if (isTRUE(heard(line))) cli::cli_verbatim(line)
  }
  if (.Platform$OS.type != "unix") {
    return(run_piped(program, args, say))
  }
  folder <- tempfile("run")
  dir.create(folder)
  status <- NULL
  # By its number, since it does not hear what is typed; what it was about to make is unfinished.
  on.exit(if (is.null(status)) end_program(folder) else unlink(folder, recursive = TRUE))
  # In a file: a line that is longer than the system takes would never start, and nothing would say so.
  script <- file.path(folder, "script")
  writeLines(enc2utf8(shell_script(program, args, folder)), script, useBytes = TRUE)
  system2("/bin/sh", shQuote(script), stderr = FALSE, wait = FALSE)
  status <- followed(file.path(folder, "output"), file.path(folder, "status"), say)
  status
}

# Notes in the folder the program's number, before it is that program, and its status, whole or not at all.
shell_script <- function(program, args, folder) {
  places <- shQuote(file.path(folder, c("output", "pid", "status")))
  command <- paste(shQuote(c(program, args)), collapse = " ")
  sprintf(
    "LD_LIBRARY_PATH= PYTHONUNBUFFERED=1 /bin/sh -c 'echo $$ > \"$0\" && exec \"$@\"' %s %s > %s 2>&1 < /dev/null; echo $? > %s.part; mv %s.part %s",
    places[[2]], command, places[[1]], places[[3]], places[[3]], places[[3]]
  )
}

followed <- function(output, status, say) {
  read <- 0
  rest <- raw()
  repeat {
    ended <- file.exists(status)
    size <- file.size(output)
    if (isTRUE(size > read)) {
      bytes <- c(rest, bytes_of(output, read, size))
      read <- size
      ends <- which(bytes == as.raw(10L))
      whole <- if (length(ends) > 0) max(ends) else 0L
      say(lines_of(bytes[seq_len(whole)]))
      rest <- bytes[-seq_len(whole)]
      if (whole == 0L) rest <- bytes
    }
    if (ended) break
    Sys.sleep(0.05)
  }
  say(lines_of(rest))
  as.integer(readLines(status))
}

bytes_of <- function(path, from, to) {
  connection <- file(path, "rb")
  on.exit(close(connection))
  seek(connection, from)
  readBin(connection, "raw", to - from)
}

lines_of <- function(bytes) {
  if (length(bytes) == 0) {
    return(character())
  }
  text <- rawToChar(bytes[bytes != as.raw(0)])
  Encoding(text) <- "UTF-8"
  lines <- strsplit(enc2utf8(text), "\r?\n", perl = TRUE)[[1]]
  # Of what draws over its own line, the last.
  sub("^.*\r", "", lines)
}

# Whatever moment this is: once the folder has another name, a program that has not noted its number cannot, and so does
# not start.
end_program <- function(folder) suspendInterrupts({
  ended <- paste0(folder, ".ended")
  file.rename(folder, ended)
  place <- file.path(ended, "pid")
  # It may be there, and be written in a moment; never where the disk is full.
  for (attempt in 1:1000) {
    if (!file.exists(place) || file.size(place) > 0) break
    Sys.sleep(0.01)
  }
  pid <- if (file.exists(place)) as.integer(readLines(place))
  if (length(pid) == 1L) tools::pskill(pid)
  unlink(ended, recursive = TRUE)
})

run_piped <- function(program, args, say) {
  command <- paste(paste(shQuote(c(program, args)), collapse = " "), "2>&1")
  connection <- pipe(command, open = "r", encoding = "UTF-8")
  status <- NULL
  on.exit(if (is.null(status)) close(connection))
  while (length(line <- readLines(connection, n = 1L, warn = FALSE)) > 0) say(line)
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
