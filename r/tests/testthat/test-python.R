test_that("the interface is of the number that this package was written for", {
  skip_without_python()
  expect_identical(as.integer(bridge()$PROTOCOL), PROTOCOL)
})

test_that("another number is refused, whichever side is older", {
  expect_null(check_protocol(PROTOCOL, NULL))
  expect_bert_error(check_protocol(PROTOCOL - 1L, NULL), "protocol", "the Python package is older.*bert_install")
  expect_bert_error(check_protocol(PROTOCOL + 1L, NULL), "protocol", "the R package is older")
})

fake_package <- function(bridge, .local_envir = parent.frame()) {
  folder <- withr::local_tempdir(.local_envir = .local_envir)
  dir.create(file.path(folder, "bertonnx", "runtime"), recursive = TRUE)
  file.create(file.path(folder, "bertonnx", c("__init__.py", "runtime/__init__.py")))
  if (!is.null(bridge)) writeLines(bridge, file.path(folder, "bertonnx", "runtime", "r_bridge.py"))
  info <- file.path(folder, "bertonnx-0.0.1.dist-info")
  dir.create(info)
  writeLines(c("Metadata-Version: 2.1", "Name: bertonnx", "Version: 0.0.1"), file.path(info, "METADATA"))
  folder
}

class_of_load <- function() {
  tryCatch(bertonnx::bert_load("any.onnx"), error = function(error) {
    list(class = class(error), message = gsub("\\s+", " ", rlang::cnd_message(error)))
  })
}

test_that("a Python package of another protocol is refused when it is first used", {
  env <- c(RETICULATE_PYTHON = test_python(), PYTHONPATH = fake_package("PROTOCOL = 999"))
  error <- in_fresh_r(class_of_load, env = env)
  expect_true("bertonnx_error_protocol" %in% error$class)
  expect_match(error$message, "protocol 999")
})

test_that("a Python package without the bridge is refused", {
  env <- c(RETICULATE_PYTHON = test_python(), PYTHONPATH = fake_package(NULL))
  error <- in_fresh_r(class_of_load, env = env)
  expect_true("bertonnx_error_no_python" %in% error$class)
  expect_match(error$message, "no package bertonnx that fits")
})

test_that("a Python that is missing, or foreign, is refused before it is in the process", {
  skip_on_os("windows")
  error <- in_fresh_r(class_of_load, env = c(RETICULATE_PYTHON = "/nowhere/python"))
  expect_true("bertonnx_error_no_python" %in% error$class)
  expect_match(error$message, "not a Python that runs")

  python <- unname(Sys.which("python3"))
  skip_if_not(nzchar(python), "no python3 to make a foreign environment with")
  home <- withr::local_tempdir()
  system2(python, c("-m", "venv", "--without-pip", file.path(home, "foreign")), stdout = FALSE)
  foreign <- file.path(home, "foreign", "bin", "python")
  started <- in_fresh_r(function(load) {
    c(load(), list(started = reticulate::py_available()))
  }, list(class_of_load), env = c(RETICULATE_PYTHON = foreign))
  expect_true("bertonnx_error_no_python" %in% started$class)
  expect_match(started$message, "has no package bertonnx")
  expect_match(started$message, "RETICULATE_PYTHON")
  expect_false(started$started)
})

test_that("RETICULATE_PYTHON is respected, and use_python() too", {
  python <- test_python()
  expect_identical(
    in_fresh_r(function() bertonnx:::choose_python(), env = c(RETICULATE_PYTHON = python)),
    list(python = python, source = "RETICULATE_PYTHON")
  )
  chosen <- in_fresh_r(function(python) {
    reticulate::use_python(python, required = TRUE)
    bertonnx:::choose_python()
  }, list(python), env = nobodys_python())
  expect_identical(chosen$python, python)
  expect_match(chosen$source, "use_python")
})

# As bert_install() makes it, as far as it is looked at.
own_environment <- function(home) {
  folder <- file.path(home, "r-bertonnx")
  dir.create(file.path(folder, "bin"), recursive = TRUE)
  file.create(file.path(folder, "bin", "python"))
  dir.create(file.path(folder, "lib", "python3.11", "site-packages", "bertonnx-1.dist-info"), recursive = TRUE)
}

test_that("a folder with a pyproject.toml is not taken for a project of Poetry's", {
  folder <- withr::local_tempdir()
  writeLines(c("[tool.ruff]", "line-length = 110"), file.path(folder, "pyproject.toml"))
  warned <- in_fresh_r(function(folder) {
    setwd(folder)
    said <- NULL
    withCallingHandlers(bertonnx::bert_available(), warning = function(warning) said <<- conditionMessage(warning))
    withCallingHandlers(
      tryCatch(bertonnx::bert_load("x.onnx"), error = identity),
      warning = function(warning) said <<- conditionMessage(warning)
    )
    said
  }, list(folder), env = nobodys_python())
  expect_null(warned)
})

test_that("an environment in the working folder never wins silently", {
  folder <- withr::local_tempdir()
  dir.create(file.path(folder, "venv", "bin"), recursive = TRUE)
  found <- file.path(folder, "venv", "bin", "python")
  file.create(found)
  home <- withr::local_tempdir()
  made <- withr::local_tempdir()
  own_environment(made)
  # What reticulate finds there differs from version to version, so it is told here. All in one session: no Python
  # starts in it.
  choose <- function(found, cases) {
    namespace <- asNamespace("bertonnx")
    unlockBinding("discovered", namespace)
    setwd(dirname(dirname(dirname(found))))
    lapply(cases, function(case) {
      assign("discovered", function() list(python = found, forced = case$forced), namespace)
      Sys.setenv(HOME = case$home, WORKON_HOME = case$home)
      chosen <- bertonnx:::choose_python()
      error <- tryCatch(bertonnx:::check_chosen(chosen, NULL), error = function(error) {
        list(class = class(error), message = gsub("\\s+", " ", rlang::cnd_message(error)))
      })
      list(source = chosen$source, error = error, available = bertonnx::bert_available())
    })
  }
  cases <- list(
    list(forced = NULL, home = home),
    list(forced = "'./venv' existing in the current working directory", home = home),
    list(forced = "use_python function", home = home),
    list(forced = NULL, home = made)
  )
  answers <- in_fresh_r(choose, list(found, cases), env = nobodys_python(home))
  for (lying in answers[1:2]) {
    expect_identical(lying$source, "working folder")
    expect_true("bertonnx_error_no_python" %in% lying$error$class)
    expect_match(lying$error$message, "use_virtualenv.*bert_install")
    expect_false(lying$available)
  }
  expect_identical(answers[[3]]$source, "use_python function")
  expect_identical(answers[[4]]$source, "bert_install")
})

test_that("reticulate makes an environment where it can, and nothing else is there or asked for", {
  # What reticulate finds, and whether it can make environments, differs from version to version.
  choose <- function(cases) {
    namespace <- asNamespace("bertonnx")
    for (name in c("discovered", "can_require_python")) unlockBinding(name, namespace)
    lapply(cases, function(case) {
      assign("discovered", function() case$found, namespace)
      assign("can_require_python", function() case$makes, namespace)
      Sys.setenv(HOME = case$home, WORKON_HOME = case$home)
      Sys.unsetenv("RETICULATE_USE_MANAGED_VENV")
      if (!is.null(case$managed)) Sys.setenv(RETICULATE_USE_MANAGED_VENV = case$managed)
      chosen <- bertonnx:::choose_python()
      list(source = chosen$source, python = chosen$python, available = bertonnx::bert_available())
    })
  }
  nobodys <- withr::local_tempdir()
  home <- withr::local_tempdir()
  own_environment(home)
  case <- function(found, makes, managed = NULL, home = nobodys) {
    list(found = found, makes = makes, managed = managed, home = home)
  }
  found <- function(forced, ...) case(list(python = "/x/bin/python", forced = forced), TRUE, ...)
  asked <- c("RETICULATE_PYTHON_ENV", "use_python() function", "use_python function", "VIRTUAL_ENV")
  by_chance <- c("RETICULATE_PYTHON_FALLBACK", "use_python(, required = FALSE)", "PATH", "import(\"bertonnx\")")
  cases <- list(
    case(NULL, TRUE), case(NULL, FALSE), case(NULL, TRUE, "no"), case(NULL, TRUE, home = home),
    case(NULL, TRUE, "yes", home), found("RETICULATE_PYTHON_FALLBACK", home = home)
  )
  # All in one session: no Python starts in it.
  cases <- c(cases, lapply(c(asked, by_chance), found))
  answers <- in_fresh_r(choose, list(cases), env = nobodys_python(nobodys))
  expect_identical(answers[[1]], list(source = "managed", python = NA_character_, available = TRUE))
  expect_identical(answers[[2]], list(source = "none", python = NA_character_, available = FALSE))
  expect_identical(
    vapply(answers[-(1:2)], `[[`, "", "source"),
    c("none", "bert_install", "managed", "bert_install", asked, rep("search", length(by_chance)))
  )
})

test_that("variables are as they were afterwards", {
  withr::local_envvar(BERTONNX_ONE = "1", BERTONNX_TWO = NA)
  seen <- with_variables(c(BERTONNX_ONE = "a", BERTONNX_TWO = "b"), Sys.getenv(c("BERTONNX_ONE", "BERTONNX_TWO")))
  expect_identical(unname(seen), c("a", "b"))
  expect_identical(Sys.getenv("BERTONNX_ONE"), "1")
  expect_true(is.na(Sys.getenv("BERTONNX_TWO", NA)))
})

test_that("a Python that does not start, or cannot be made, is an error with what to type", {
  error <- expect_bert_error(
    abort_not_started(choice(NA_character_, "managed"), simpleError("no uv"), NULL), "no_python", "bert_install\\("
  )
  expect_identical(conditionMessage(error$parent), "no uv")
  expect_bert_error(abort_not_started(choice("/x/python", "search"), simpleError("x"), NULL), "no_python", "/x/python")
})

test_that("a fork after Python was started is an error, and one before is not", {
  skip_on_os("windows")
  path <- model_file("embeddings")
  found <- in_fresh_r(function(path) {
    forked <- function(code) parallel::mccollect(parallel::mcparallel(code()))[[1]]
    before <- forked(function() sum(bertonnx::bert_embed(bertonnx::bert_load(path), "text")))
    model <- bertonnx::bert_load(path)
    here <- sum(bertonnx::bert_embed(model, "text"))
    after <- forked(function() tryCatch(bertonnx::bert_embed(model, "text"), error = function(error) class(error)))
    list(before = before, here = here, after = after, still = sum(bertonnx::bert_embed(model, "text")))
  }, list(path))
  expect_identical(found$before, found$here)
  expect_identical(found$still, found$here)
  expect_true("bertonnx_error_fork" %in% found$after)
})

test_that("ONNX Runtime's telemetry stays off", {
  home <- withr::local_tempdir()
  found <- in_fresh_r(function(path) {
    bertonnx::bert_embed(bertonnx::bert_load(path), "text")
    list(
      variable = reticulate::import("os")$environ$get("ORT_DISABLE_TELEMETRY"),
      files = list.files(Sys.getenv("HOME"), "onnxruntime|deviceid", all.files = TRUE, recursive = TRUE)
    )
  }, list(model_file("embeddings")), env = c(HOME = home, RETICULATE_PYTHON = test_python()))
  expect_identical(found$variable, "1")
  expect_identical(found$files, character())
})

test_that("what a Python has is read without importing it", {
  seen <- examine_python(test_python())
  expect_match(seen$python, "^3\\.")
  expect_true(nzchar(seen$bertonnx))
  expect_null(examine_python("/nowhere/python"))
  expect_null(examine_python(NA_character_))
  expect_null(examine_python(file.path(R.home("bin"), "R")))
})
