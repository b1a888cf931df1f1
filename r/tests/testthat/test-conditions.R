test_that("Python's errors become classes of R", {
  expect_identical(kind_of("ModelFileError"), "model_file")
  expect_identical(kind_of("RowError"), "row")
  expect_identical(kind_of("MissingDependencyError"), "missing_dependency")
})

python_error <- function(type, message, expected = "yes") {
  list(type = type, message = message, kind = "", expected = expected, traceback = "Traceback: here")
}

test_that("a Python error keeps its type, message and traceback", {
  answer <- list(ok = FALSE, error = python_error("ModelFileError", "cut at {50}%"))
  error <- expect_bert_error(unwrap(answer, NULL), "model_file", "cut at \\{50\\}%")
  expect_s3_class(error$python, "bertonnx_python_error")
  expect_s3_class(error$python, "bertonnx_python_ModelFileError")
  expect_identical(conditionMessage(error$python), "ModelFileError: cut at {50}%")
  expect_identical(error$python$python_traceback, "Traceback: here")
  expect_identical(error$python_type, "ModelFileError")
})

test_that("an error that nobody foresaw says so", {
  answer <- list(ok = FALSE, error = python_error("ZeroDivisionError", "division by zero", ""))
  error <- expect_bert_error(unwrap(answer, NULL), "python", "not foreseen")
  expect_identical(conditionMessage(error$python), "ZeroDivisionError: division by zero")
})

test_that("an answer without an error is returned", {
  expect_identical(unwrap(list(ok = TRUE, x = 1), NULL)$x, 1)
})

test_that("messages say what an R user types", {
  skip_without_python()
  foreign <- withr::local_tempfile(fileext = ".onnx", lines = "This is no model.")
  model <- tiny("sentiment")
  for (error in list(
    expect_bert_error(bert_load("nowhere.onnx"), "model_file"),
    expect_bert_error(bert_load(foreign), "model_file"),
    expect_bert_error(bert_load(model$path, max_length = 9999L), "usage", "max_length = 9999"),
    expect_bert_error(bert_load(model$path, max_length = 1L), "usage", "max_length"),
    expect_bert_error(bert_fill_mask(tiny("words"), "no such word"), "row", "row 1")
  )) {
    expect_r_words(error)
  }
})
