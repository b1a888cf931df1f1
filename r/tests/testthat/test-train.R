reviews <- data.frame(
  review = paste(rep(c("a good", "a bad", "a lovely", "an awful"), 6), "film", 1:24),
  mood = rep(c("up", "down"), 12)
)

skip_without_sklearn <- function() {
  skip_without_python()
  there <- reticulate::py_module_available("sklearn") && reticulate::py_module_available("onnx")
  skip_if_not(there, "training takes scikit-learn and onnx; bert_install(extras = 'train')")
}

test_that("a head is trained on a data frame, and the model is loaded with its report", {
  skip_without_sklearn()
  path <- withr::local_tempfile(fileext = ".onnx")
  model <- suppressMessages(bert_train(tiny("embeddings"), reviews, path, text = "review", label = "mood", seed = 3))
  expect_s3_class(model, c("bert_trained", "bert_text_classification", "bert_model"), exact = FALSE)
  expect_identical(model$info$labels, c("down", "up"))
  expect_identical(nrow(bert_classify(model, c("a good film", NA))), 2L)
  expect_s3_class(model$report, "bert_evaluation")
  expect_true(all(c("majority") %in% model$report$baselines$baseline))
  withr::local_pdf(withr::local_tempfile())
  expect_identical(plot(model), model)
  expect_output(print(model), "bert_evaluation")
  # The same rows and seed give the same model.
  other <- withr::local_tempfile(fileext = ".onnx")
  again <- suppressMessages(bert_train(tiny("embeddings")$path, reviews, other, text = "review", label = "mood", seed = 3))
  expect_identical(bert_classify(again, reviews$review, top_n = 2), bert_classify(model, reviews$review, top_n = 2))
  expect_bert_error(
    bert_train(tiny("embeddings"), reviews, path, text = "review", label = "mood"), "output", "force = TRUE"
  )
})

test_that("what cannot be trained is refused in R's words", {
  skip_without_sklearn()
  path <- withr::local_tempfile(fileext = ".onnx")
  train <- function(...) suppressMessages(bert_train(tiny("embeddings"), path = path, ...))
  expect_bert_error(train(reviews, text = "review", label = "stars"), "input", "no column \"stars\"")
  expect_bert_error(train(reviews, text = "review", label = "mood", epochs = 0), "input", "epochs")
  expect_bert_error(train(reviews, text = "review", label = "mood", class_weights = "most"), "input", "class_weights")
  expect_bert_error(train(reviews, text = "review", label = "mood", validation_share = 2), "usage", "validation_share = 2")
  expect_bert_error(train(reviews, text = "review", label = "mood", lora = 4L), "usage", "lora")
  error <- expect_bert_error(train(data.frame(x = 1:3, y = 3:5)), "input")
  expect_r_words(error)
  expect_bert_error(train(reviews[0, ], text = "review", label = "mood"), "input", "`data` has no rows")
  expect_bert_error(
    train(reviews, text = "review", label = "mood", python = "/nowhere/python"), "missing_dependency", "does not start"
  )
  expect_bert_error(bert_train(tiny("words"), reviews, path), "task")
  expect_false(file.exists(path))
})
