texts <- c(x = "fine", y = NA, z = "awful")

test_that("classes and probabilities have tidymodels' names", {
  model <- tiny("sentiment")
  classes <- predict(model, texts)
  expect_named(classes, ".pred_class")
  expect_identical(classes$.pred_class, bert_classify(model, texts)$label)
  prob <- predict(model, texts, type = "prob")
  expect_named(prob, c(".pred_negative", ".pred_neutral", ".pred_positive"))
  expect_equal(unname(rowSums(prob)), c(1, NA, 1), tolerance = 1e-6)
  expect_identical(do.call(pmax, as.list(prob)), bert_classify(model, texts)$score)
  expect_identical(nrow(predict(model, character(), type = "prob")), 0L)
  expect_identical(nrow(predict(model, character())), 0L)
})

test_that("a type that the model does not have is refused", {
  expect_bert_error(predict(tiny("sentiment"), "x", type = "numeric"), "input", "class.*prob")
  expect_bert_error(predict(tiny("stars"), "x", type = "prob"), "input", "numeric")
  expect_error(predict(tiny("sentiment"), "x", typo = "prob"), class = "rlib_error_dots_nonempty")
})

test_that("a multi-label model predicts a list of factors", {
  classes <- predict(tiny("topics"), texts)$.pred_class
  expect_identical(lengths(classes)[[2]], 1L)
  expect_true(is.na(classes[[2]]))
  found <- bert_classify(tiny("topics"), texts)
  expect_identical(classes[[1]], found$label[found$.row == 1])
  expect_identical(classes[[3]], found$label[found$.row == 3])
  expect_true(all(is.na(unlist(predict(tiny("topics"), c(NA, NA))$.pred_class))))
})

test_that("regression predicts .pred", {
  found <- predict(tiny("stars"), texts)
  expect_named(found, ".pred")
  expect_identical(is.na(found$.pred), c(FALSE, TRUE, FALSE))
})

test_that("a task that has no function here predicts its first table", {
  unknown <- function(name) structure(tiny(name), class = "bert_model")
  expect_identical(predict(unknown("sentiment"), texts, top_n = 2), bert_classify(tiny("sentiment"), texts, top_n = 2))
  expect_identical(predict(unknown("embeddings"), texts), bert_embed(tiny("embeddings"), texts))
  expect_identical(predict(unknown("answers"), "Who?", pair = "Ada was."), bert_answer(tiny("answers"), "Who?", "Ada was."))
  expect_identical(predict(unknown("words"), "[MASK]"), bert_fill_mask(tiny("words"), "[MASK]"))
  expect_error(predict(unknown("words"), "[MASK]", typo = 2), class = "rlib_error_dots_nonempty")
  surprise <- unknown("words")
  surprise$info$task <- "surprise"
  expect_bert_error(bert_embed(surprise, "x"), "task", "predict")
})

test_that("other tasks predict what their function gives", {
  expect_identical(predict(tiny("embeddings"), texts), bert_embed(tiny("embeddings"), texts))
  expect_identical(predict(tiny("entities"), texts), bert_entities(tiny("entities"), texts))
  expect_identical(predict(tiny("words"), "[MASK]", top_n = 2), bert_fill_mask(tiny("words"), "[MASK]", top_n = 2))
  expect_identical(
    predict(tiny("answers"), "Who?", context = "Ada was."), bert_answer(tiny("answers"), "Who?", "Ada was.")
  )
})

test_that("data frames are predicted by their column of text", {
  data <- data.frame(id = 1:3, text = unname(texts), other = "x")
  expect_identical(predict(tiny("sentiment"), data), predict(tiny("sentiment"), unname(texts)))
  expect_identical(predict(tiny("sentiment"), data, type = "prob", text = "other")[[1]][[1]], predict(tiny("sentiment"), "x", type = "prob")[[1]])
  only <- data.frame(id = 1:3, review = factor(texts))
  expect_identical(predict(tiny("stars"), only), predict(tiny("stars"), texts))
  expect_identical(predict(tiny("entities"), only), predict(tiny("entities"), unname(texts)))
  wide <- predict(tiny("embeddings"), only)
  expect_s3_class(wide, "tbl_df")
  expect_identical(names(wide)[c(1, 32)], c(".dim_01", ".dim_32"))
  expect_identical(unname(as.matrix(wide)), unname(bert_embed(tiny("embeddings"), texts)))
  asked <- data.frame(question = c("Who?", "Where?"), context = "Ada was in London.")
  expect_identical(predict(tiny("answers"), asked), bert_answer(tiny("answers"), asked$question, asked$context))
})

test_that("a data frame whose texts nobody can guess says what to type", {
  two <- data.frame(title = "a", body = "b", n = 1)
  expect_bert_error(predict(tiny("sentiment"), two), "input", "\"title\" and \"body\".*text = \"title\"")
  expect_bert_error(predict(tiny("sentiment"), two["n"]), "input", "None of the columns is text")
  expect_bert_error(predict(tiny("sentiment"), two, text = "boby"), "input", "no column \"boby\".*\"body\"")
})

test_that("errors name the argument that was given", {
  for (name in c("embeddings", "entities", "words")) {
    error <- expect_bert_error(predict(tiny(name), 1:3), "input", "`new_data` must be a character vector")
    expect_match(rlang::cnd_message(error), "as.character(new_data)", fixed = TRUE)
  }
  expect_bert_error(predict(tiny("answers"), "a\xe9b", context = "c"), "encoding", "`new_data` is not valid UTF-8")
  expect_bert_error(bert_nearest(diag(32) * 1.0, "a\xe9b", model = tiny("embeddings")), "encoding", "`query` is not valid UTF-8")
  expect_bert_error(predict(tiny("sentiment"), data.frame()), "input", "There are none")
})
