reviews <- data.frame(text = c("fine", NA, "awful"), stars = c(5, 3, 1))

prepared <- function(...) {
  skip_if_not_installed("recipes")
  rec <- recipes::recipe(stars ~ text, data = reviews)
  recipes::prep(step_bert_embed(rec, text, model = tiny("embeddings"), ...), reviews)
}

test_that("texts become columns", {
  baked <- recipes::bake(prepared(), new_data = NULL)
  expect_identical(ncol(baked), 33L)
  expect_true(all(c("stars", "bert_text_01", "bert_text_32") %in% names(baked)))
  expected <- bert_embed(tiny("embeddings"), reviews$text)
  expect_identical(unname(as.matrix(baked[grep("^bert_", names(baked))])), unname(expected))
  roles <- summary(prepared())
  expect_identical(unique(roles$role[grepl("^bert_", roles$variable)]), "predictor")
})

test_that("columns can be kept, and named", {
  baked <- recipes::bake(prepared(keep_original_cols = TRUE, prefix = "e"), reviews)
  expect_true(all(c("text", "e_text_01") %in% names(baked)))
})

test_that("a step can ask for a prompt", {
  baked <- recipes::bake(prepared(prompt = "title"), reviews)
  expected <- bert_embed(tiny("embeddings"), reviews$text, prompt = "title")
  expect_identical(unname(as.matrix(baked[grep("^bert_", names(baked))])), unname(expected))
})

test_that("the step prints and tidies, before and after", {
  trained <- prepared(id = "mine")
  untrained <- step_bert_embed(recipes::recipe(stars ~ text, reviews), text, model = tiny("embeddings"), id = "mine")
  expect_output(print(trained$steps[[1]]), "BERT embeddings of.*text", )
  expect_output(print(untrained$steps[[1]]), "BERT embeddings of.*text")
  for (rec in list(trained, untrained)) {
    tidied <- recipes::tidy(rec, number = 1)
    expect_named(tidied, c("terms", "width", "path", "id"))
    expect_identical(tidied$terms, "text")
    expect_identical(tidied$width, 32)
    expect_identical(tidied$id, "mine")
  }
  expect_identical(recipes::required_pkgs(trained$steps[[1]]), "bertonnx")
})

test_that("the step survives saveRDS", {
  file <- withr::local_tempfile(fileext = ".rds")
  trained <- prepared()
  saveRDS(trained, file)
  here <- recipes::bake(trained, reviews)
  expect_identical(recipes::bake(readRDS(file), reviews), here)
  there <- in_fresh_r(function(file, reviews) {
    recipes::bake(readRDS(file), reviews)
  }, list(file, reviews))
  expect_identical(as.data.frame(there), as.data.frame(here))
})

test_that("the wrong model, column or data are refused", {
  rec <- recipes::recipe(stars ~ text, data = reviews)
  expect_bert_error(step_bert_embed(rec, text, model = tiny("sentiment")), "task")
  wrong <- step_bert_embed(recipes::recipe(text ~ stars, reviews), stars, model = tiny("embeddings"))
  expect_error(recipes::prep(wrong, reviews), class = "bertonnx_error_input")
  trained <- prepared()$steps[[1]]
  expect_bert_error(recipes::bake(trained, reviews["stars"]), "input", "no column \"text\"")
  taken <- cbind(reviews, bert_text_01 = 1)
  expect_bert_error(recipes::bake(trained, taken), "input", "prefix")
})

test_that("a baked recipe needs no library(bertonnx)", {
  file <- withr::local_tempfile(fileext = ".rds")
  trained <- prepared()
  # As from the console, where the step remembers the user's workspace and not this package's.
  for (i in seq_along(trained$steps[[1]]$terms)) {
    trained$steps[[1]]$terms[[i]] <- rlang::quo_set_env(trained$steps[[1]]$terms[[i]], globalenv())
  }
  saveRDS(trained, file)
  there <- in_fresh_r(function(file, reviews) {
    loaded <- "bertonnx" %in% loadedNamespaces()
    list(loaded, recipes::bake(readRDS(file), reviews))
  }, list(file, reviews))
  expect_false(there[[1]])
  expect_identical(as.data.frame(there[[2]]), as.data.frame(recipes::bake(trained, reviews)))
})

test_that("texts become the scores of labels", {
  skip_if_not_installed("recipes")
  rec <- step_bert_classify(recipes::recipe(stars ~ text, reviews), text, model = tiny("sentiment"), id = "mine")
  expect_output(print(rec$steps[[1]]), "BERT label probabilities of.*text")
  trained <- recipes::prep(rec, reviews)
  baked <- recipes::bake(trained, new_data = NULL)
  expect_named(baked, c("stars", "bert_text_negative", "bert_text_neutral", "bert_text_positive"))
  expect_identical(baked$bert_text_neutral, predict(tiny("sentiment"), reviews$text, type = "prob")$.pred_neutral)
  tidied <- recipes::tidy(trained, number = 1)
  expect_identical(tidied$labels, list(levels(tiny("sentiment"))))
  expect_identical(recipes::required_pkgs(trained$steps[[1]]), "bertonnx")
  expect_bert_error(step_bert_classify(recipes::recipe(stars ~ text, reviews), text, model = tiny("embeddings")), "task")
})

test_that("texts become the pooled vectors of their tokens", {
  skip_if_not_installed("recipes")
  rec <- step_bert_hidden(recipes::recipe(stars ~ text, reviews), text, model = tiny("embeddings"), pooling = "max", id = "mine")
  expect_output(print(rec$steps[[1]]), "BERT token vectors, pooled, of.*text")
  trained <- recipes::prep(rec, reviews)
  baked <- recipes::bake(trained, new_data = NULL)
  expected <- bert_hidden(tiny("embeddings"), reviews$text, aggregate_tokens = "max")
  expect_identical(unname(as.matrix(baked[grep("^bert_", names(baked))])), unname(expected))
  expect_identical(recipes::tidy(trained, number = 1)$pooling, "max")
  expect_identical(recipes::required_pkgs(trained$steps[[1]]), "bertonnx")
  expect_bert_error(step_bert_hidden(recipes::recipe(stars ~ text, reviews), text, model = tiny("embeddings"), pooling = "median"), "input")
})
