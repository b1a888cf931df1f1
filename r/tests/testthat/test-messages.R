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

test_that("errors of data frames name them and their columns", {
  skip_without_sklearn()
  model <- tiny("sentiment")
  reviews <- data.frame(review = c("a", "b"), mood = factor(c("x", "y")), n = 1:2)
  gaps <- data.frame(text = c(NA, NA), label = c("x", "y"))
  expect_snapshot(error = TRUE, {
    bert_evaluate(model, reviews)
    bert_evaluate(model, reviews, text = "review", label = "mood")
    bert_evaluate(model, reviews, text = "n", label = "mood")
    bert_evaluate(model, gaps)
    bert_run(model, reviews, "out.jsonl")
    bert_augment(reviews, model, nope)
    predict(tiny("answers"), "Who?")
    embed_bertonnx(reviews, model = tiny("embeddings"))
  })
  expect_snapshot(error = TRUE, suppressMessages(bert_train(tiny("embeddings"), reviews, tempfile(fileext = ".onnx"))))
})

test_that("what an exporter or a search cannot take is said in R's words", {
  model <- tiny("embeddings")
  x <- bert_embed(model, "a")
  late <- tiny("late")
  expect_snapshot(error = TRUE, {
    bert_nearest(x, x, column = "emb")
    bert_hidden(tiny("sentiment"), "a")
    bert_hidden(late, "a", layers = 1)
    bert_embed(model, "a", dimensions = 5, encoding = "binary")
    bert_load(model$path, tf32 = TRUE)
    bert_run(model, test_path("helper.R"), "/nowhere/out.jsonl")
    bert_export("checkpoint", "out.onnx", "cls")
    bert_export("checkpoint", "out.onnx", max_length = "long")
    bert_export("checkpoint", "out.onnx", dimensions = c(64, 0))
  })
  expect_bert_error(
    bert_export("checkpoint", "out.onnx", python = "/nowhere/python"), "no_python", "'/nowhere/python' is not a Python that runs"
  )
})

test_that("a column that a file lacks is named as R calls it", {
  skip_without_python()
  skip_if_not(reticulate::py_module_available("pyarrow"), "pyarrow is not installed; bert_install(extras = 'arrow')")
  model <- tiny("embeddings")
  folder <- withr::local_tempdir()
  input <- file.path(folder, "in.txt")
  writeLines("one text", input)
  stored <- file.path(folder, "stored.parquet")
  bert_run(model, input, stored)
  expect_bert_error(bert_nearest(stored, "a", model = model, column = "emb"), "input", "vectors embedding; name a column .* with column$")
})
