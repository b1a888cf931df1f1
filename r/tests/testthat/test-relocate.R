moved_file <- function(.local_envir = parent.frame()) {
  folder <- withr::local_tempdir(.local_envir = .local_envir)
  path <- file.path(folder, "embeddings.onnx")
  file.copy(model_file("embeddings"), path)
  list(from = path, to = file.path(normalizePath(withr::local_tempdir(.local_envir = .local_envir)), "embeddings.onnx"))
}

move <- function(file) file.rename(file$from, file$to)

test_that("a model, and what holds some, can be told where the file is now", {
  file <- moved_file()
  model <- bert_load(file$from)
  saved <- withr::local_tempfile(fileext = ".rds")
  saveRDS(list(name = "x", parts = list(model, 1:3)), saved)
  move(file)
  expect_bert_error(bert_embed(readRDS(saved)$parts[[1]], "x"), "model_file", "bert_relocate\\(model")
  expected <- bert_embed(tiny("embeddings"), "x")
  for (path in c(file$to, dirname(file$to))) {
    again <- bert_relocate(readRDS(saved), path)
    expect_identical(again$name, "x")
    expect_identical(again$parts[[1]]$path, file$to)
    expect_identical(bert_embed(again$parts[[1]], "x"), expected)
  }
  expect_identical(bert_embed(bert_relocate(model, file$to), "x"), expected)
})

test_that("an RDS file is read, and the model looked for beside it", {
  file <- moved_file()
  saved <- file.path(dirname(file$to), "model.rds")
  saveRDS(bert_load(file$from), saved)
  move(file)
  expect_identical(bert_relocate(saved)$path, file$to)
  expect_bert_error(bert_relocate("/nowhere.rds"), "input", "no file")
  expect_bert_error(bert_relocate(file$to), "input", "no.*rds.*bert_load")
})

test_that("a moved file is found by its name in the folders that are named", {
  file <- moved_file()
  saved <- withr::local_tempfile(fileext = ".rds")
  saveRDS(bert_load(file$from), saved)
  move(file)
  expected <- bert_embed(tiny("embeddings"), "x")
  local({
    withr::local_options(bertonnx.models = dirname(file$to))
    expect_identical(bert_embed(readRDS(saved), "x"), expected)
  })
  local({
    withr::local_envvar(BERTONNX_MODELS = dirname(file$to))
    expect_identical(bert_embed(readRDS(saved), "x"), expected)
  })
  local({
    withr::local_dir(dirname(file$to))
    expect_identical(bert_embed(readRDS(saved), "x"), expected)
  })
})

test_that("another model is not taken for it, and what holds none is refused", {
  model <- tiny("embeddings")
  expect_bert_error(bert_relocate(model, model_file("sentiment")), "model_file", "another model")
  expect_bert_error(bert_relocate(model, "/nowhere"), "model_file", "no .embeddings.onnx. in")
  expect_bert_error(bert_relocate(list(1, "a"), "x.onnx"), "input", "holds no model")
})

test_that("a recipe is relocated as a whole", {
  skip_if_not_installed("recipes")
  file <- moved_file()
  reviews <- data.frame(text = c("fine", "awful"), stars = c(5, 1))
  rec <- recipes::prep(step_bert_embed(recipes::recipe(stars ~ text, reviews), text, model = bert_load(file$from)), reviews)
  saved <- withr::local_tempfile(fileext = ".rds")
  saveRDS(rec, saved)
  baked <- recipes::bake(rec, reviews)
  move(file)
  expect_identical(recipes::bake(bert_relocate(readRDS(saved), file$to), reviews), baked)
  expect_s3_class(bert_relocate(readRDS(saved), file$to), "recipe")
})
