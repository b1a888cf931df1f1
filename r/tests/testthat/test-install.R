# A wheel of no dependencies, so that nothing is downloaded.
tiny_wheel <- function(python, protocol = PROTOCOL, version = "7.8.9", .local_envir = parent.frame()) {
  folder <- withr::local_tempdir(.local_envir = .local_envir)
  script <- file.path(folder, "wheel.py")
  writeLines(c(
    "import sys, zipfile",
    "path, bridge, version = sys.argv[1:]",
    "with zipfile.ZipFile(path, 'w') as wheel:",
    "    for name in ('bertonnx/__init__.py', 'bertonnx/runtime/__init__.py'): wheel.writestr(name, '')",
    "    wheel.writestr('bertonnx/runtime/r_bridge.py', bridge)",
    "    info = f'bertonnx-{version}.dist-info/'",
    "    wheel.writestr(info + 'METADATA', f'Metadata-Version: 2.1\\nName: bertonnx\\nVersion: {version}\\n')",
    "    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')",
    "    wheel.writestr(info + 'entry_points.txt', '[console_scripts]\\nbertonnx = bertonnx.runtime.r_bridge:main\\n')",
    "    wheel.writestr(info + 'RECORD', '')"
  ), script)
  wheel <- file.path(folder, sprintf("bertonnx-%s-py3-none-any.whl", version))
  bridge <- sprintf("PROTOCOL = %d\ndef main(): print('it runs')\n", protocol)
  run_python(python, shQuote(c(script, wheel, bridge, version)))
  wheel
}

python_for_tests <- function() {
  skip_on_os("windows")
  python <- tryCatch(python_to_build_with(NULL), error = function(error) skip("no Python that R could load"))
  skip_if_not(
    identical(run_python(python, c("-c", shQuote("import ensurepip; print(1)"))), "1"),
    "this Python cannot make environments; on Debian: apt-get install python3-venv"
  )
  python
}

quietly_installed <- function(...) {
  suppressMessages(bert_install(..., pip_options = c("--no-index", "--no-deps")))
}

test_that("an environment is made, and replaced only by one that works", {
  python <- python_for_tests()
  home <- withr::local_tempdir()
  folder <- file.path(home, "r-bertonnx")
  withr::local_envvar(WORKON_HOME = home, BERTONNX_PYTHON_PACKAGE = tiny_wheel(python))
  made <- quietly_installed()
  expect_identical(made, file.path(folder, "bin", "python"))
  expect_identical(examine_python(made)$bertonnx, "7.8.9")
  expect_identical(own_python(), made)
  # Its scripts know where they are now.
  expect_identical(system2(file.path(folder, "bin", "bertonnx"), stdout = TRUE), "it runs")
  expect_identical(extras_of(folder), "cpu")

  # Nothing that fails changes anything: no such package, one that does not work, another protocol.
  for (source in list("no-such-package-at-all", tiny_wheel(python, PROTOCOL + 1L, "9.9.9"))) {
    expect_error(quietly_installed(source = source), class = "bertonnx_error")
    expect_identical(examine_python(own_python())$bertonnx, "7.8.9")
    expect_identical(list.files(home), "r-bertonnx")
  }
  expect_bert_error(quietly_installed(python = "/nowhere/python"), "no_python", "not a Python that runs")
  expect_identical(own_python(), made)

  # A Python that is named is used where there is an environment already.
  link <- file.path(withr::local_tempdir(), "python3")
  file.symlink(python, link)
  quietly_installed(python = link, source = tiny_wheel(python, version = "8.0.0"))
  expect_identical(examine_python(made)$bertonnx, "8.0.0")
  expect_match(readLines(file.path(folder, "pyvenv.cfg")), dirname(link), fixed = TRUE, all = FALSE)
})

test_that("the first installation that fails leaves nothing", {
  python <- python_for_tests()
  home <- withr::local_tempdir()
  withr::local_envvar(WORKON_HOME = home)
  error <- expect_bert_error(quietly_installed(source = "no-such-package-at-all"), "install", "could not be installed")
  expect_match(paste(error$output, collapse = "\n"), "no-such-package-at-all")
  expect_identical(list.files(home), character())
  # As Debian's without python3-venv: venv makes a folder with a Python in it, and then fails.
  broken <- withr::local_tempfile(lines = c(
    "#!/bin/sh",
    "if [ \"$1\" != -m ]; then exec \"$REAL_PYTHON\" \"$@\"; fi",
    "mkdir -p \"$3/bin\" && touch \"$3/bin/python\"",
    "echo 'ensurepip is not available: apt install python3-venv'; exit 1"
  ))
  Sys.chmod(broken)
  withr::local_envvar(REAL_PYTHON = python)
  expect_bert_error(quietly_installed(broken), "install", "could not be made.*apt install python3-venv")
  expect_identical(list.files(home), character())
})

test_that("an environment without the package does not count, and one that was put aside is found", {
  skip_on_os("windows")
  home <- withr::local_tempdir()
  withr::local_envvar(WORKON_HOME = home)
  bin <- file.path(home, "r-bertonnx", "bin")
  dir.create(bin, recursive = TRUE)
  file.create(file.path(bin, "python"))
  expect_null(own_python())
  dir.create(file.path(home, "r-bertonnx", "lib", "python3.11", "site-packages", "bertonnx-1.dist-info"), recursive = TRUE)
  expect_identical(own_python(), file.path(bin, "python"))
  # R was killed in the middle of replacing it.
  file.rename(file.path(home, "r-bertonnx"), file.path(home, "r-bertonnx.before"))
  expect_identical(own_python(), file.path(bin, "python"))
})

test_that("what an environment was made with is kept, unless it is left out", {
  folder <- withr::local_tempdir()
  expect_identical(all_extras(c("export", "arrow"), NULL, folder, FALSE), c("cpu", "export", "arrow"))
  writeLines(c("gpu", "export"), file.path(folder, EXTRAS_FILE))
  expect_identical(all_extras("arrow", NULL, folder, FALSE), c("gpu", "arrow", "export"))
  expect_identical(all_extras("arrow", FALSE, folder, FALSE), c("cpu", "arrow", "export"))
  expect_identical(all_extras("arrow", NULL, folder, TRUE), c("cpu", "arrow"))
  expect_bert_error(bert_install(extras = "a b"), "input", "extras")
})

test_that("what is said to type names a source where none is known", {
  withr::local_envvar(BERTONNX_PYTHON_PACKAGE = "/a/copy", WORKON_HOME = withr::local_tempdir())
  expect_identical(install_line(), "bertonnx::bert_install()")
  expect_identical(install_line("export = TRUE"), "bertonnx::bert_install(export = TRUE)")
  skip_if(nzchar(COPY), "this package was installed from a copy of the repository, which is known")
  withr::local_envvar(BERTONNX_PYTHON_PACKAGE = NA)
  expect_match(install_line(), "source = ", fixed = TRUE)
  expect_match(pip_line("/x/python"), "/x/python -m pip install \"path/to/a/copy", fixed = TRUE)
})

test_that("the source of an environment is found again", {
  folder <- withr::local_tempdir()
  info <- file.path(folder, "lib", "python3.11", "site-packages", "bertonnx-1.dist-info")
  dir.create(info, recursive = TRUE)
  expect_identical(source_of(folder), "")
  copy <- file.path(normalizePath(withr::local_tempdir()), "a copy")
  dir.create(copy)
  address <- sprintf('{"dir_info": {}, "url": "file://%s"}', utils::URLencode(copy))
  writeLines(address, file.path(info, "direct_url.json"))
  expect_identical(source_of(folder), copy)
  writeLines('{"url": "file:///nowhere"}', file.path(info, "direct_url.json"))
  expect_identical(source_of(folder), "")
})

test_that("an interrupt ends the program that runs", {
  skip_on_os("windows")
  pid <- NULL
  limited <- function() {
    on.exit(setTimeLimit())
    # From when it runs, however long that takes.
    run_showing("sh", c("-c", "echo $$; exec sleep 10000"), function(line) {
      pid <<- as.integer(line)
      setTimeLimit(elapsed = 0.01, transient = TRUE)
      FALSE
    })
  }
  expect_error(limited(), "time limit")
  wait_until(function() !tools::pskill(pid, 0L))
  succeed()
})

test_that("a program that was ended before it started does not start", {
  skip_on_os("windows")
  folder <- withr::local_tempdir()
  begun <- file.path(folder, "begun")
  started <- shell_script("sh", c("-c", paste("touch", begun)), file.path(folder, "places"))
  # As where an interrupt comes before the shell was given any time.
  dir.create(file.path(folder, "places"))
  end_program(file.path(folder, "places"))
  system2("/bin/sh", c("-c", shQuote(started)), stderr = FALSE)
  expect_false(file.exists(begun))
  expect_identical(list.files(folder), character())
})

test_that("what stands in the way of the new environment is said", {
  expect_match(what_next("/own/python", "/another/python"), "RETICULATE_PYTHON.*comes first")
  expect_match(what_next("/own/python", "/own/python"), "bert_load")
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

test_that("a line that is too long for the system ends with a status, and is not waited for", {
  skip_on_os("windows")
  withr::defer(setTimeLimit())
  setTimeLimit(elapsed = 30, transient = TRUE)
  expect_gt(suppressMessages(run_showing("sh", c("-c", "exit 0", strrep("word ", 1e5)), identity)), 0L)
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
  expect_match(conditionMessage(failed), "no {such} file", fixed = TRUE)
  expect_no_match(conditionMessage(failed), "error:|status")
  expect_match(conditionMessage(failed), "type: another", fixed = TRUE)
})
