# A wheel of no dependencies, so that nothing is downloaded.
tiny_wheel <- function(python, .local_envir = parent.frame()) {
  folder <- withr::local_tempdir(.local_envir = .local_envir)
  script <- file.path(folder, "wheel.py")
  writeLines(c(
    "import sys, zipfile",
    "with zipfile.ZipFile(sys.argv[1], 'w') as wheel:",
    "    wheel.writestr('bertonnx/__init__.py', '')",
    "    info = 'bertonnx-7.8.9.dist-info/'",
    "    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: bertonnx\\nVersion: 7.8.9\\n')",
    "    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')",
    "    wheel.writestr(info + 'RECORD', '')"
  ), script)
  wheel <- file.path(folder, "bertonnx-7.8.9-py3-none-any.whl")
  run_python(python, shQuote(c(script, wheel)))
  wheel
}

test_that("an environment is made, found again, and made anew", {
  skip_on_os("windows")
  python <- tryCatch(python_to_build_with(NULL), error = function(error) skip("no Python that R could load"))
  skip_if_not(
    identical(run_python(python, c("-c", shQuote("import ensurepip; print(1)"))), "1"),
    "this Python cannot make environments; on Debian: apt-get install python3-venv"
  )
  home <- withr::local_tempdir()
  withr::local_envvar(WORKON_HOME = home, BERTONNX_PYTHON_PACKAGE = tiny_wheel(python))
  options <- c("--no-index", "--no-deps")
  made <- suppressMessages(bert_install(pip_options = options))
  expect_identical(made, file.path(home, "r-bertonnx", "bin", "python"))
  expect_identical(examine_python(made)$bertonnx, "7.8.9")
  expect_identical(own_python(), made)

  old <- file.path(home, "r-bertonnx", "old")
  file.create(old)
  suppressMessages(bert_install(pip_options = options))
  expect_true(file.exists(old))
  suppressMessages(bert_install(python = python, force = TRUE, pip_options = options))
  expect_false(file.exists(old))

  withr::local_envvar(BERTONNX_PYTHON_PACKAGE = "no-such-package-at-all")
  error <- expect_bert_error(suppressMessages(bert_install(pip_options = options)), "install", "could not be installed")
  expect_match(paste(error$output, collapse = "\n"), "no-such-package-at-all")
  expect_bert_error(bert_install(python = "/nowhere/python", force = TRUE), "no_python", "not a Python that runs")
  expect_identical(own_python(), made)
})

test_that("one ONNX Runtime is not installed over the other", {
  expect_false(is_for(NULL, FALSE))
  expect_true(is_for(list(onnxruntime = "", gpu = ""), TRUE))
  expect_true(is_for(list(onnxruntime = "1.30", gpu = "1.30"), TRUE))
  expect_false(is_for(list(onnxruntime = "1.30", gpu = "1.30"), FALSE))
  expect_false(is_for(list(onnxruntime = "1.30", gpu = ""), TRUE))
})

test_that("what stands in the way of the new environment is said", {
  expect_match(what_next("/own/python", "/another/python"), "RETICULATE_PYTHON.*comes first")
  expect_match(what_next("/own/python", "/own/python"), "bert_load")
})

test_that("an environment that could not be made leaves the old one, or none", {
  skip_on_os("windows")
  python <- tryCatch(python_to_build_with(NULL), error = function(error) skip("no Python that R could load"))
  # As Debian's without python3-venv: venv makes a folder with a Python in it, and then fails.
  broken <- withr::local_tempfile(lines = c(
    "#!/bin/sh",
    "if [ \"$1\" != -m ]; then exec \"$REAL_PYTHON\" \"$@\"; fi",
    "mkdir -p \"$3/bin\" && touch \"$3/bin/python\"",
    "echo 'ensurepip is not available: apt install python3-venv'; exit 1"
  ))
  Sys.chmod(broken)
  home <- withr::local_tempdir()
  withr::local_envvar(WORKON_HOME = home, REAL_PYTHON = python)
  expect_bert_error(suppressMessages(bert_install(broken)), "install", "could not be made.*apt install python3-venv")
  expect_identical(list.files(home), character())
  dir.create(file.path(home, "r-bertonnx"))
  file.create(file.path(home, "r-bertonnx", "old"))
  expect_bert_error(suppressMessages(bert_install(broken, force = TRUE)), "install")
  expect_identical(list.files(home, recursive = TRUE), "r-bertonnx/old")
})

test_that("a Python that R could not load is refused, with the reason", {
  seen <- list(python = "3.11.2", library = "/lib/libpython3.11.so", shared = "")
  expect_true(suits_r(seen))
  expect_false(suits_r(NULL))
  expect_false(suits_r(replace(seen, "python", "3.9.1")))
  expect_false(suits_r(replace(seen, "library", "")))
})

test_that("the Python package is where one says it is", {
  withr::local_envvar(BERTONNX_PYTHON_PACKAGE = NA)
  folder <- file.path(normalizePath(withr::local_tempdir()), "a copy")
  dir.create(folder)
  expect_match(python_package("cpu", folder), "^bertonnx\\[cpu\\] @ file:///.*/a%20copy$")
  expect_bert_error(bert_install(source = folder), "install", "no Python package.*in which .r. lies")
  expect_bert_error(bert_install(source = NA), "input", "`source`")
  expect_identical(python_package(c("gpu", "export"), "bertonnx==1.0"), "bertonnx[gpu,export]==1.0")
  expect_identical(python_package("cpu", "bertonnx[arrow]"), "bertonnx[arrow]")
  expect_identical(python_package("cpu", "git+https://example.org/x"), "bertonnx[cpu] @ git+https://example.org/x")
})

test_that("a libpython in R's library path that would stand in for another is found", {
  folder <- withr::local_tempdir()
  own <- file.path(folder, "own", "libpython3.11.so.1.0")
  rival <- file.path(folder, "rival", "libpython3.11.so.1.0")
  for (file in c(own, rival)) {
    dir.create(dirname(file))
    file.create(file)
  }
  seen <- list(shared = "yes", libpython = own)
  expect_identical(shadowing_libpython(seen, paste0("/nowhere:", dirname(rival))), rival)
  expect_null(shadowing_libpython(seen, dirname(own)))
  expect_null(shadowing_libpython(seen, ""))
  expect_null(shadowing_libpython(list(shared = "", libpython = own), dirname(rival)))
})

test_that("versions are compared as numbers", {
  expect_true(recent_enough("3.11.0"))
  expect_true(recent_enough("3.14.0rc2"))
  expect_false(recent_enough("3.10.18"))
})

test_that("a program's status and words come back", {
  skip_on_os("windows")
  heard <- character()
  status <- suppressMessages(run_showing("sh", c("-c", "echo 'a {b}'; echo c >&2; exit 3"), function(line) heard <<- c(heard, line)))
  expect_identical(status, 3L)
  expect_identical(sort(heard), c("a {b}", "c"))
  expect_identical(suppressMessages(run_showing("sh", c("-c", "exit 0"), identity)), 0L)
})

test_that("our own error is said once, by the condition", {
  skip_on_os("windows")
  script <- "echo reading; echo 'error: no {such} file'; echo 'type: another'; exit 1"
  shown <- character()
  failed <- withCallingHandlers(
    rlang::catch_cnd(run_to_the_end("sh", c("-c", script), "export", "Not exported.", rlang::current_env()), "error"),
    message = function(said) {
      shown <<- c(shown, conditionMessage(said))
      rlang::cnd_muffle(said)
    }
  )
  expect_match(paste(shown, collapse = ""), "reading")
  expect_no_match(paste(shown, collapse = ""), "such|another")
  expect_match(conditionMessage(failed), "error: no {such} file", fixed = TRUE)
  expect_match(conditionMessage(failed), "type: another", fixed = TRUE)
})
