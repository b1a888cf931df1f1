labelled <- data.frame(
  text = rep(c("fine", "awful", "so so", "great", "good one", "bad one"), 4),
  label = factor(rep(c("positive", "negative", "neutral", "positive", "positive", "negative"), 4))
)

measured <- function() {
  skip_without_python()
  skip_if_not(reticulate::py_module_available("sklearn"), "scikit-learn is not installed; bert_install(extras = 'train')")
  bert_evaluate(tiny("sentiment"), labelled)
}

test_that("figures are those of R's own arithmetic, and Python's", {
  found <- measured()
  predicted <- bert_classify(tiny("sentiment"), labelled$text)$label
  expect_equal(found$metrics$value[found$metrics$metric == "accuracy"], mean(as.character(predicted) == labelled$label))
  counts <- table(factor(labelled$label, levels(found$confusion$actual)), factor(predicted, levels(found$confusion$actual)))
  expect_identical(found$confusion$rows, as.double(t(counts)))
  file <- withr::local_tempfile(fileext = ".csv")
  utils::write.csv(labelled, file, row.names = FALSE)
  python <- reticulate::import("bertonnx")$evaluate(tiny("sentiment")$path, file, provider = "cpu")
  expect_identical(found$metrics$value, as.double(unlist(python$scores)))
  expect_identical(bert_evaluate(tiny("sentiment"), file)$metrics, found$metrics)
  expect_true(all(found$mistakes$label != found$mistakes$predicted))
  expect_identical(labelled$text[found$mistakes$.row], found$mistakes$text)
})

test_that("mistakes are named by their rows of the data, whatever was left out", {
  skip_without_sklearn()
  gaps <- data.frame(text = c("nobody said", NA), label = factor(c(NA, "positive")))
  with_gaps <- rbind(gaps, labelled[1:5, ], gaps, labelled[6:24, ])
  mistakes <- bert_evaluate(tiny("sentiment"), with_gaps)$mistakes
  expect_gt(nrow(mistakes), 0)
  expect_identical(with_gaps$text[mistakes$.row], mistakes$text)
})

test_that("what was measured prints, and is drawn", {
  found <- measured()
  expect_output(print(found), "single label classification, 24 rows")
  expect_identical(summary(found), found$metrics)
  withr::local_pdf(withr::local_tempfile())
  for (type in c("confusion", "calibration", "labels")) expect_identical(plot(found, type = type), found)
  expect_bert_error(plot(found, type = "roc"), "input", "no such drawing")
  skip_if_not_installed("ggplot2")
  for (type in c("confusion", "calibration", "labels")) {
    expect_gt(nrow(ggplot2::layer_data(ggplot2::autoplot(found, type = type))), 0)
  }
})

test_that("a regression is drawn as what is and what is predicted", {
  skip_without_sklearn()
  data <- data.frame(text = c("fine", "awful", "so so", NA), label = c(3.5, 1, 2, 4))
  found <- bert_evaluate(tiny("stars"), data)
  expect_identical(found$amounts$actual, data$label[1:3])
  expect_identical(found$amounts$predicted, predict(tiny("stars"), data$text[1:3])$.pred)
  withr::local_pdf(withr::local_tempfile())
  expect_identical(plot(found), found)
  expect_bert_error(plot(found, type = "confusion"), "input", "It can be \"amounts\"")
  skip_if_not_installed("ggplot2")
  expect_identical(nrow(ggplot2::layer_data(ggplot2::autoplot(found), 2)), 3L)
})

test_that("texts that were cut are a warning of R's, and a note of a training", {
  skip_without_sklearn()
  long <- transform(labelled, text = paste(strrep("word ", 200), text, seq_along(text)))
  expect_silent(said <- capture_warnings(bert_evaluate(tiny("sentiment"), long)))
  expect_match(said, "24 of 24 texts were cut to 96 tokens", all = TRUE)
  expect_length(said, 1)
  path <- withr::local_tempfile(fileext = ".onnx")
  lines <- capture_messages(notes <- bert_train(tiny("embeddings"), long, path, seed = 3)$report$notes)
  for (what in c("train", "measure")) {
    expect_match(notes, sprintf("^([0-9]+) of \\1 texts to %s on were cut to 96 tokens$", what), perl = TRUE, all = FALSE)
  }
  expect_no_match(paste(lines, collapse = ""), "Warning|[.]py")
})

test_that("a model of pairs is measured on the columns of its pairs", {
  skip_without_sklearn()
  pairs <- data.frame(text = "a man sleeps", pair = "someone rests", label = c("neutral", "entailment"))
  found <- bert_evaluate(tiny("nli"), pairs)
  expect_identical(bert_evaluate(tiny("nli"), stats::setNames(pairs, c("text", "body", "label")), pair = "body")$metrics, found$metrics)
})

test_that("least figures, named columns, and what is refused", {
  measured()
  model <- tiny("sentiment")
  other <- stats::setNames(labelled, c("review", "mood"))
  expect_false(bert_evaluate(model, other, text = "review", label = "mood", min_f1 = 1)$enough)
  expect_bert_error(bert_evaluate(model, other, text = "txt", label = "mood"), "input", "no column \"txt\"")
  expect_bert_error(bert_evaluate(model, 3), "input", "data frame")
  expect_bert_error(bert_evaluate(model, labelled, min_f1 = 2), "usage", "min_f1 = 2")
  expect_bert_error(bert_evaluate(tiny("embeddings"), labelled), "task")
  error <- expect_bert_error(bert_evaluate(model, "nowhere.csv"), "input", "nowhere.csv")
  expect_r_words(error)
})
