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

# The same checkpoint in HDF5, with two tensors in each other's places.
swapped_source <- function(names, source = tiny_source()) {
  skip_if_not(
    identical(system2(test_python(), c("-c", shQuote("import h5py")), stdout = FALSE, stderr = FALSE), 0L),
    "Python has no h5py, which writes the file of this test"
  )
  folder <- withr::local_tempdir(.local_envir = parent.frame())
  file.copy(file.path(source, c("bert_config.json", "vocab.txt")), folder)
  code <- "
import sys, bertonnx, h5py
source, target, one, other = sys.argv[1:]
places = {one: other, other: one}
with h5py.File(target, 'w') as file:
    for weight in bertonnx.weights(source):
        file[places.get(weight.name, weight.name)] = weight.values
"
  bertonnx:::run_python(
    test_python(), c("-c", shQuote(code), shQuote(c(source, file.path(folder, "weights.h5"), names)))
  )
  folder
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

  swapped <- swapped_source(sprintf("bert/encoder/layer_1/attention/self/%s/kernel", c("query", "key")))
  found <- bert_verify(model, swapped)
  expect_identical(found$ok, c(TRUE, TRUE, TRUE, FALSE, FALSE))
  expect_match(found$detail[[4]], "in place of .*layer_1/attention/self/(query|key)/kernel stands .*(key|query)/kernel")
})

test_that("what is wrong with weights is told, the worst first", {
  names <- c("a", "b", "c")
  told <- function(...) bertonnx:::weights_detail(names, ...)
  none <- rep(FALSE, 3)
  expect_identical(told(!none, c(TRUE, TRUE, FALSE), c("", "", ""), none), "2 tensors compared, of 3")
  expect_identical(told(none, !none, c("", "c", "b"), none), "in place of b stands c (3 tensors differ)")
  expect_identical(
    told(c(TRUE, FALSE, TRUE), !none, c("", "b", ""), c(FALSE, TRUE, FALSE)),
    "in place of b stands b, transposed (1 tensors differ)"
  )
  expect_identical(told(c(TRUE, TRUE, FALSE), !none, c("", "", ""), none), "c differs (1 tensors differ)")
})
