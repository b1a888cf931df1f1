tiny_source <- function() system.file("extdata", "bert-tiny", package = "bertonnx", mustWork = TRUE)

exported_source <- function(source = tiny_source()) {
  skip_if_not(
    nzchar(bertonnx:::examine_python(test_python())$torch),
    "exporting takes PyTorch; bert_install(export = TRUE) installs it"
  )
  path <- withr::local_tempfile(fileext = ".onnx", .local_envir = parent.frame())
  utils::capture.output(suppressMessages(bert_export(source, path, python = test_python())))
  path
}

float_bytes <- function(matrix) writeBin(as.vector(t(matrix)), raw(), size = 4L, endian = "little")

test_that("weights of a checkpoint are arrays by their names", {
  skip_without_python()
  weights <- bert_weights(tiny_source())
  expect_named(weights, c("name", "shape", "dtype", "became", "how", "exact", "values"))
  expect_identical(names(weights$values), weights$name)
  query <- weights$values[["bert/encoder/layer_0/attention/self/query/kernel"]]
  expect_identical(dim(query), c(16L, 16L))
  # As the file has it, row after row.
  data <- readBin(file.path(tiny_source(), "bert_model.ckpt.data-00000-of-00001"), "raw", 1e6)
  expect_length(grepRaw(float_bytes(query), data, fixed = TRUE), 1)
  expect_identical(weights$shape[weights$name == "bert/embeddings/word_embeddings"], "60x16")
  expect_true(all(weights$exact))
  expect_bert_error(bert_weights(tempdir()), "source", "no TensorFlow checkpoint")
})

test_that("weights of a model file are the checkpoint's, and swapped layers are told", {
  path <- exported_source()
  source <- bert_weights(tiny_source())
  file <- bert_weights(path)
  expect_identical(file$name, source$name)
  there <- !vapply(file$values, is.null, NA)
  expect_gt(sum(there), 35)
  expect_identical(file$values[there], source$values[there])

  model <- bert_load(path)
  found <- bert_verify(model, tiny_source())
  expect_true(all(found$ok, na.rm = TRUE), info = paste(found$detail, collapse = "\n"))
  expect_identical(nrow(found), 5L)

  swapped <- withr::local_tempdir()
  file.copy(list.files(tiny_source(), full.names = TRUE), swapped)
  data <- file.path(swapped, "bert_model.ckpt.data-00000-of-00001")
  bytes <- readBin(data, "raw", 1e6)
  names <- sprintf("bert/encoder/layer_1/attention/self/%s/kernel", c("query", "key"))
  parts <- lapply(source$values[names], float_bytes)
  places <- vapply(parts, grepRaw, 1L, x = bytes, fixed = TRUE)
  bytes[places[[1]] + seq_along(parts[[1]]) - 1L] <- parts[[2]]
  bytes[places[[2]] + seq_along(parts[[2]]) - 1L] <- parts[[1]]
  writeBin(bytes, data)
  found <- bert_verify(model, swapped)
  expect_identical(found$ok, c(TRUE, TRUE, TRUE, FALSE, FALSE))
  expect_match(found$detail[[4]], "in place of .*layer_1/attention/self/(query|key)/kernel stands .*(key|query)/kernel")
})
