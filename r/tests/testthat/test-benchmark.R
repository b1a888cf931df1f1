test_that("both sides are measured, in turn", {
  measured <- bert_benchmark(tiny("embeddings"), n = c(1, 50), times = 2)
  expect_s3_class(measured, c("bert_benchmark", "tbl_df"), exact = FALSE)
  expect_named(measured, c("engine", "n", "run", "seconds", "outside", "texts_per_second"))
  expect_identical(nrow(measured), 8L)
  expect_true(all(measured$seconds > 0))
  expect_true(all(measured$outside < measured$seconds))
  expect_equal(measured$texts_per_second, measured$n / measured$seconds)
  medians <- summary(measured)
  expect_named(medians, c("n", "python", "r", "ratio", "outside", "texts_per_second"))
  expect_identical(medians$n, c(1L, 50L))
  expect_equal(medians$ratio, medians$r / medians$python)
})

test_that("a benchmark can be drawn", {
  measured <- bert_benchmark(tiny("sentiment"), text = c("mine", NA), n = c(2, 4), times = 1)
  withr::local_pdf(withr::local_tempfile())
  expect_identical(plot(measured), measured)
  skip_if_not_installed("ggplot2")
  drawing <- ggplot2::autoplot(measured)
  expect_s3_class(drawing, "ggplot")
  expect_identical(nrow(ggplot2::layer_data(drawing, 1)), 4L)
})

test_that("every task but question answering is measured", {
  for (name in c("entities", "words")) expect_identical(nrow(bert_benchmark(tiny(name), n = 2, times = 1)), 2L)
  expect_bert_error(bert_benchmark(tiny("answers")), "task")
  expect_bert_error(bert_benchmark(tiny("words"), text = NA_character_, n = 1), "input", "no text")
})
