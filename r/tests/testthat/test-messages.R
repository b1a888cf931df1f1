# What people read, word for word.

test_that("errors of arguments say what to type", {
  model <- tiny("sentiment")
  reviews <- data.frame(title = "a", body = "b", stars = 1)
  expect_snapshot(error = TRUE, {
    bert_tokenize(model, reviews)
    bert_tokenize(model, reviews$stars)
    bert_tokenize(model, NULL)
    bert_tokenize(model, list("a"))
    predict(model, reviews)
    predict(model, reviews, text = "boby")
    predict(model, reviews["stars"])
    predict(model, "x", type = "numeric")
    augment(model, "a text")
    bert_classify(model, c("a", "b", "c"), pair = c("x", "y"))
    bert_classify(model, "a", top_n = 0)
    bert_embed("model.onnx", "a")
    bert_embed(model, "a")
    bert_relocate(1)
  })
})

test_that("errors of Python's are in R's words", {
  words <- tiny("words")
  embeddings <- tiny("embeddings")
  expect_snapshot(error = TRUE, {
    bert_fill_mask(words, "no such word")
    bert_embed(embeddings, "a", prompt = "quest")
  })
})

test_that("texts that were cut are a warning", {
  model <- bert_load(model_file("embeddings"), max_length = 8)
  folder <- dirname(model$path)
  expect_snapshot(
    dim(bert_embed(model, c(strrep("word ", 50), "short", NA))),
    transform = function(lines) gsub(folder, "FOLDER", lines, fixed = TRUE)
  )
})
