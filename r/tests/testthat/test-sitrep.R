test_that("all is said to be well where it is", {
  skip_without_python()
  found <- suppressMessages(bert_sitrep())
  expect_named(found, c("finding", "ok", "value", "remedy"))
  expect_true(all(found$ok))
  expect_true(all(is.na(found$remedy)))
})

test_that("every problem comes with what to type", {
  found <- in_fresh_r(function() {
    list(suppressMessages(bertonnx::bert_sitrep()), bertonnx::bert_available())
  }, env = c(RETICULATE_PYTHON = "/nowhere/python"))
  problems <- found[[1]][!found[[1]]$ok, ]
  expect_identical(problems$finding, "Python")
  expect_match(problems$remedy, "Sys.unsetenv.*bert_install")
  expect_false(found[[2]])
})

test_that("missing packages are named", {
  seen <- list(bertonnx = "0.1.0", onnxruntime = "", tokenizers = "", torch = "")
  rows <- do.call(rbind, found_packages(seen))
  expect_identical(rows$ok, c(TRUE, FALSE, FALSE, TRUE))
  expect_identical(rows$remedy, c(NA, install_line(), install_line(), NA))
})

test_that("an environment in the working folder is mentioned", {
  folder <- withr::local_tempdir()
  dir.create(file.path(folder, ".venv"))
  file.create(file.path(folder, ".venv", "pyvenv.cfg"))
  withr::local_dir(folder)
  expect_match(found_folder(choice("x", "search"))$value, "\\.venv/, which is not used")
  taken <- found_folder(choice("x", "working folder"))
  expect_false(taken$ok)
  expect_match(taken$remedy, "use_virtualenv")
})
