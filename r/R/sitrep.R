#' Whether predictions can be made, and what is missing
#'
#' `bert_available()` says whether a Python with the Python package is there, without starting it:
#' for `skip_if_not()` and the like. `bert_sitrep()` prints what was found, each problem with the
#' line to type.
#'
#' @return `bert_available()`: `TRUE` or `FALSE`; `TRUE` as well where reticulate makes an environment when
#'   it is needed, which takes a network the first time. `bert_sitrep()`: a tibble with the columns
#'   `finding`, `ok`, `value` and `remedy`, invisibly.
#' @examples
#' bert_available()
#' bert_sitrep()
#' @export
bert_sitrep <- function() {
  findings <- situation()
  for (i in seq_len(nrow(findings))) {
    bullet <- if (findings$ok[[i]]) "v" else "x"
    text <- paste0(findings$finding[[i]], ": ", findings$value[[i]])
    cli::cli_bullets(stats::setNames("{text}", bullet))
    if (!is.na(findings$remedy[[i]])) {
      remedy <- findings$remedy[[i]]
      cli::cli_bullets(c(" " = "{cli::symbol$arrow_right} {remedy}"))
    }
  }
  invisible(findings)
}

#' @rdname bert_sitrep
#' @export
bert_available <- function() {
  if (!is.null(the$bridge)) {
    return(is.null(the$pid) || the$pid == Sys.getpid())
  }
  chosen <- tryCatch(choose_python(), error = function(error) NULL)
  if (is.null(chosen) || chosen$source == "working folder") {
    return(FALSE)
  }
  if (chosen$source == "managed") {
    return(can_require_python())
  }
  seen <- examine_python(chosen$python)
  isTRUE(nzchar(seen$bertonnx) && nzchar(seen$onnxruntime))
}

situation <- function() {
  chosen <- choose_python()
  seen <- if (!is.na(chosen$python)) examine_python(chosen$python)
  do.call(
    rbind,
    c(
      list(found_r(), found_reticulate(), found_choice(chosen, seen)),
      if (!is.null(seen)) found_packages(seen),
      list(found_shadow(seen), found_folder(chosen), found_telemetry())
    )
  )
}

finding <- function(finding, ok, value, remedy = NA_character_) {
  if (ok) remedy <- NA_character_
  tibble::tibble(finding = finding, ok = ok, value = value, remedy = remedy)
}

found_r <- function() {
  finding("R", TRUE, paste0(getRversion(), ", bertonnx ", utils::packageVersion("bertonnx")))
}

found_reticulate <- function() {
  makes <- if (can_require_python()) ", which makes environments by itself" else ""
  finding("reticulate", TRUE, paste0(utils::packageVersion("reticulate"), makes))
}

found_choice <- function(chosen, seen) {
  if (chosen$source == "managed") {
    value <- paste0("made by reticulate, with ", python_package(), ", when it is needed")
    return(finding("Python", TRUE, value))
  }
  if (is.null(seen)) {
    value <- if (is.na(chosen$python)) "none found" else paste(chosen$python, "does not run")
    unset <- if (chosen$source == "RETICULATE_PYTHON") "Sys.unsetenv(\"RETICULATE_PYTHON\"); "
    remedy <- paste0(unset, install_line())
    return(finding("Python", FALSE, value, remedy))
  }
  value <- sprintf("%s, %s (%s)", seen$python, chosen$python, chosen$source)
  finding("Python", recent_enough(seen$python), value, install_line("python = \"/path/to/python3.11\""))
}

found_packages <- function(seen) {
  install <- install_line()
  needed <- c(bertonnx = seen$bertonnx, onnxruntime = seen$onnxruntime, tokenizers = seen$tokenizers)
  rows <- lapply(names(needed), function(name) {
    there <- nzchar(needed[[name]])
    finding(paste("Python package", name), there, if (there) needed[[name]] else "not installed", install)
  })
  wanted <- install_line("export = TRUE")
  torch <- if (nzchar(seen$torch)) seen$torch else sprintf("not installed; %s if you need it", wanted)
  c(rows, list(finding("PyTorch, for bert_export() alone", TRUE, torch)))
}

found_shadow <- function(seen) {
  rival <- if (!is.null(seen)) shadowing_libpython(seen)
  if (is.null(rival)) {
    return(finding("libpython", TRUE, "no other one in R's library path"))
  }
  value <- sprintf("%s may be loaded in place of %s", rival, seen$libpython)
  # It works as long as both are of one minor version, which they are: their names are the same.
  finding("libpython", TRUE, paste0(value, "; if Python crashes, ", install_line("force = TRUE")))
}

found_folder <- function(chosen) {
  names <- c("venv", ".venv", "virtualenv", ".virtualenv")
  here <- names[file.exists(file.path(names, "pyvenv.cfg"))]
  if (length(here) == 0) {
    return(finding("Working folder", TRUE, "no Python environment lies in it"))
  }
  value <- paste0("holds ", paste0(here, "/", collapse = ", "))
  if (chosen$source == "working folder") {
    remedy <- sprintf("%s, or reticulate::use_virtualenv(\"./%s\") if you mean it", install_line(), here[[1]])
    return(finding("Working folder", FALSE, paste0(value, ", which nobody asked for"), remedy))
  }
  finding("Working folder", TRUE, paste0(value, ", which is not used unless it is asked for"))
}

found_telemetry <- function() {
  off <- identical(Sys.getenv("ORT_DISABLE_TELEMETRY"), "1") || is.null(the$bridge)
  finding("ONNX Runtime's telemetry", off, if (off) "off" else "on", "restart R")
}
