test_that("a model says its task by its class", {
  classes <- c(
    embeddings = "bert_feature_extraction", sentiment = "bert_text_classification",
    entities = "bert_token_classification", answers = "bert_question_answering", words = "bert_fill_mask"
  )
  for (name in names(classes)) expect_identical(class(tiny(name)), c(classes[[name]], "bert_model"))
})

test_that("a model prints what it is", {
  model <- tiny("sentiment")
  lines <- format(model)
  expect_identical(lines[[1]], "<bert_model: text-classification>")
  expect_identical(lines[[2]], model$path)
  expect_match(lines[[3]], "bert, fp32, cpu, up to 96 tokens, labels negative, neutral, positive")
  expect_output(expect_identical(print(model), model), "bert_model: text-classification")
  facts <- summary(model)
  expect_named(facts, c("fact", "value"))
  expect_true(all(c("path", "task", "labels", "weights_sha256", "difference_from_pytorch") %in% facts$fact))
  expect_match(format(tiny("embeddings"))[[3]], "32 columns")
  expect_match(format(tiny("words"))[[3]], "mask \\[MASK\\]")
})

test_that("arguments are checked first", {
  skip_without_python()
  for (bad in list(NULL, NA_character_, "", 1, c("a", "b"))) expect_bert_error(bert_load(bad), "input", "`path`")
  path <- model_file("embeddings")
  expect_bert_error(bert_load(path, device = "gpu"), "input", "cpu")
  expect_bert_error(bert_load(path, threads = 0), "input", "`threads`")
  expect_bert_error(bert_load(path, max_length = 2^31), "usage", "max_length")
  expect_bert_error(bert_load(path, gpu_memory = "all"), "input", "`gpu_memory`")
  expect_bert_error(bert_load(path, gpu_memory = 2), "usage", 'gpu_memory is of CUDA, .*or ask for device = "cuda"')
  expect_identical(bert_load(path, threads = 1, max_length = 8)$info$max_length, 8)
})

test_that("CUDA never becomes the CPU silently", {
  skip_without_python()
  providers <- unlist(reticulate::import("onnxruntime")$get_available_providers())
  skip_if("CUDAExecutionProvider" %in% providers, "this ONNX Runtime has CUDA")
  expect_bert_error(bert_load(model_file("embeddings"), device = "cuda"), "provider", "cuda")
})

test_that("a file that is missing, cut or foreign is refused, with Python's error in it", {
  skip_without_python()
  error <- expect_bert_error(bert_load("/nowhere/model.onnx"), "model_file", "bert_export")
  expect_s3_class(error$python, "bertonnx_python_ModelFileError")
  path <- model_file("embeddings")
  bytes <- readBin(path, "raw", file.size(path))
  for (length in c(0, 10, length(bytes) %/% 2, length(bytes) - 1)) {
    cut <- withr::local_tempfile(fileext = ".onnx")
    writeBin(bytes[seq_len(length)], cut)
    expect_bert_error(bert_load(cut), "model_file")
  }
  foreign <- withr::local_tempfile(fileext = ".onnx", lines = "This is no model.")
  expect_bert_error(bert_load(foreign), "model_file")
})

test_that("a path with letters of the user's own works", {
  folder <- file.path(withr::local_tempdir(), "J\u00fcrgen \u6771\u4eac \U1F600")
  dir.create(folder)
  path <- file.path(folder, "modèle.onnx")
  file.copy(model_file("embeddings"), path)
  expect_identical(bert_embed(bert_load(path), "text"), bert_embed(tiny("embeddings"), "text"))
})

test_that("a model survives saveRDS, in this session and in another", {
  model <- tiny("embeddings")
  file <- withr::local_tempfile(fileext = ".rds")
  saveRDS(model, file)
  here <- bert_embed(model, c("a text", "another"))
  again <- readRDS(file)
  expect_output(print(again), "feature-extraction")
  expect_identical(bert_embed(again, c("a text", "another")), here)
  there <- in_fresh_r(function(file) {
    model <- readRDS(file)
    first <- bertonnx::bert_embed(model, c("a text", "another"))
    # Opened once, whatever the number of copies.
    copy <- model
    handle <- copy$connection$handle
    list(first, identical(bertonnx::bert_embed(copy, c("a text", "another")), first), identical(handle, model$connection$handle))
  }, list(file))
  expect_identical(there, list(here, TRUE, TRUE))
})

test_that("a callr worker can be sent a model", {
  model <- tiny("sentiment")
  there <- in_fresh_r(function(model, text) bertonnx::bert_classify(model, text), list(model, "fine"))
  expect_identical(there, bert_classify(model, "fine"))
})

test_that("another model in the same place is not taken for the old one", {
  path <- withr::local_tempfile(fileext = ".onnx")
  file.copy(model_file("sentiment"), path)
  saved <- withr::local_tempfile(fileext = ".rds")
  saveRDS(bert_load(path), saved)
  file.copy(model_file("stars"), path, overwrite = TRUE)
  expect_bert_error(bert_classify(readRDS(saved), "text"), "model_file", "another model now")
  unlink(path)
  expect_bert_error(bert_classify(readRDS(saved), "text"), "model_file", "not there any more.*bert_relocate")
})

test_that("a method that the model cannot serve names the one that can", {
  expect_bert_error(bert_embed(tiny("sentiment"), "x"), "task", "bert_classify")
  expect_bert_error(bert_classify(tiny("embeddings"), "x"), "task", "bert_embed")
  expect_bert_error(bert_entities(tiny("words"), "x"), "task", "bert_fill_mask")
  expect_bert_error(bert_answer(tiny("entities"), "x", "y"), "task", "bert_entities")
  expect_bert_error(bert_fill_mask(tiny("answers"), "x"), "task", "bert_answer")
  expect_bert_error(bert_embed("model.onnx", "x"), "input", "bert_load")
})

test_that("memory is given back when models go", {
  skip_if_not(file.exists("/proc/self/status"), "only Linux says how much memory is resident")
  skip_if_not(any(grepl("^RssAnon", readLines("/proc/self/status"))), "this Linux does not say how much is of no file")
  found <- in_fresh_r(function(path) {
    # Not what is read of files: the system takes and gives that as it has room.
    resident <- function() {
      gc()
      line <- grep("^RssAnon", readLines("/proc/self/status"), value = TRUE)
      as.numeric(gsub("[^0-9]", "", line)) / 1024
    }
    # R collects by itself, but for the moment of measuring.
    twenty <- function() for (i in 1:20) bertonnx::bert_embed(bertonnx::bert_load(path), c("a text", "another"))
    twenty()
    alive <- reticulate::py_eval("sum(type(one).__name__ == 'Handle' for one in __import__('gc').get_objects())")
    # What 20 models keep comes to 25 MB each time; what the C library keeps for later comes once.
    for (round in 1:5) {
      before <- resident()
      twenty()
      grown <- resident() - before
      if (grown < 10) break
    }
    list(alive = alive, grown = grown)
  }, list(model_file("embeddings")))
  expect_lt(found$alive, 15)
  expect_lt(found$grown, 10)
})
