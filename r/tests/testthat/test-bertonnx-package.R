test_that("loading the package, and asking what is there, starts no Python", {
  started <- in_fresh_r(function() {
    library(bertonnx)
    loaded <- reticulate::py_available()
    bert_available()
    suppressMessages(bert_sitrep())
    c(loaded, reticulate::py_available())
  })
  expect_identical(started, c(FALSE, FALSE))
})

test_that("reticulate is asked for the Python package where it can make environments", {
  newer <- utils::packageVersion("reticulate") >= "1.41"
  expect_identical(can_require_python(), newer)
  expect_identical(python_package(source = ""), "bertonnx[cpu]")
  expect_identical(python_package(c("gpu", "export"), ""), "bertonnx[gpu,export]")
  withr::local_envvar(BERTONNX_PYTHON_PACKAGE = "bertonnx>=0.1")
  expect_identical(python_package(), "bertonnx[cpu]>=0.1")
})
