test_that("the engine of tests has the interface of the one that is used", {
  fake <- fake_engine()
  for (name in setdiff(names(fake), "ready")) {
    expect_identical(names(formals(fake[[name]])), names(formals(engines$python[[name]])), info = name)
  }
  # All that is said in the table at the top of engine.R, and nothing else.
  expect_setequal(setdiff(names(fake), names(engines$python)), character())
})

test_that("nothing but Python's own files knows of Python", {
  # Of the folder that the tests lie in, or of the one that R CMD check unpacked.
  files <- list.files(test_path("..", "..", c("R", file.path("00_pkg_src", "bertonnx", "R"))), "[.]R$", full.names = TRUE)
  skip_if(length(files) == 0, "the sources are not here")
  speaks <- vapply(files, function(file) any(grepl("reticulate::|bridge\\(", readLines(file))), NA)
  known <- c("engine-python.R", "python.R", "install.R", "bertonnx-package.R", "sitrep.R")
  expect_identical(setdiff(basename(files[speaks]), known), character())
})

test_that("a model of another engine is used as any, and no Python starts", {
  model <- fake_model()
  x <- bert_embed(model, c(a = "one two", b = NA, c = "three", d = "four"))
  expect_identical(unclass(x)[, 1], c(a = 7, b = NA, c = 5, d = 4))
  expect_identical(unname(x), rbind(c(7, 2), c(NA, NA), c(5, 1), c(4, 1)))
  expect_identical(dim(bert_embed(model, character())), c(0L, 2L))
  tokens <- bert_tokenize(model, c("one two", NA, "three"))
  expect_identical(tokens$.row, c(1L, 1L, 2L, 3L))
  expect_identical(tokens$token, c("one", "two", NA, "three"))
  expect_identical(substring("one two", tokens$start[1:2], tokens$end[1:2]), c("one", "two"))
  found <- bert_classify(fake_model("text-classification"), c("a", "abcdef"))
  expect_identical(found$label, factor(c("short", "long"), c("long", "short")))
  expect_identical(found$score[[1]], 1)
  expect_warning(bert_embed(model, c(strrep("x", 30), "y")), "1 of 2 texts", class = "bertonnx_warning_truncated")
  expect_bert_error(bert_embed(model, "bad"), "row", "row 1: bad")
  expect_bert_error(fake_model(path = "nothing"), "model_file", "no such model")
  expect_bert_error(bert_verify(model), "task", "of the engine \"fake\"")
})

test_that("that is so in an R that has no Python at all", {
  helper <- test_path("helper-engine.R")
  started <- in_fresh_r(function(helper) {
    source(helper, local = environment())
    assign("fake", fake_engine(), bertonnx:::engines)
    model <- bertonnx:::opened_model("fake", list(path = "letters", task = "feature-extraction"), NULL)
    list(x = unname(bertonnx::bert_embed(model, c("a b", NA))), python = reticulate::py_available())
  }, list(normalizePath(helper)), env = c(RETICULATE_PYTHON = "/nowhere/python"))
  expect_identical(started, list(x = rbind(c(3, 2), c(NA, NA)), python = FALSE))
})

test_that("a model that is read from a file is opened again by its own engine", {
  model <- fake_model()
  file <- withr::local_tempfile()
  saveRDS(model, file)
  again <- readRDS(file)
  again$connection$pid <- -1L
  expect_identical(unname(bert_embed(again, "ab")), rbind(c(2, 1)))
})

test_that("a closed model says so, and closing it again does no harm", {
  model <- fake_model()
  copy <- model
  expect_null(close(model))
  expect_null(close(copy))
  expect_bert_error(bert_embed(copy, "a"), "usage", "was closed.*bert_load")
})
