test_that("every model of every task is the same in R, in Python and at export", {
  for (name in c("embeddings", "sentiment", "topics", "stars", "entities", "answers", "words", "roberta")) {
    found <- bert_verify(tiny(name))
    expect_named(found, c("check", "ok", "value", "allowed", "detail"))
    expect_true(all(found$ok), info = name)
    expect_gt(found$value[[3]], 0)
  }
})

test_that("a changed file is found out", {
  path <- withr::local_tempfile(fileext = ".onnx")
  bytes <- readBin(model_file("stars"), "raw", file.size(model_file("stars")))
  # The first long run of weights: somewhere in the embeddings, which are most of the file.
  place <- length(bytes) %/% 3
  bytes[place] <- xor(bytes[place], as.raw(1))
  writeBin(bytes, path)
  found <- bert_verify(bert_load(path))
  expect_identical(found$ok, c(TRUE, FALSE, TRUE))
  expect_match(found$detail[[2]], "changed|differently")
})

test_that("a signature is named, verified with a key, and found out where it does not hold", {
  folder <- withr::local_tempdir()
  path <- file.path(folder, "model.onnx")
  file.copy(model_file("stars"), path)
  model <- bert_load(path)
  expect_identical(nrow(bert_verify(model)), 3L)
  writeLines("{}", paste0(path, ".sig"))
  found <- bert_verify(model)
  expect_identical(found$ok, c(TRUE, TRUE, TRUE, NA))
  expect_match(found$detail[[4]], "signed, not verified: it names the key nobody", fixed = TRUE)
  skip_if_not(nzchar(Sys.which("openssl")), "no openssl to make keys with")
  key <- file.path(folder, "key.pem")
  public <- file.path(folder, "key.pub")
  openssl <- function(...) system2("openssl", c(...), stdout = FALSE, stderr = FALSE)
  openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key)
  openssl("ec", "-in", key, "-pubout", "-out", public)
  skip_if_not(reticulate::py_module_available("model_signing"), "no model-signing")
  found <- bert_verify(model, public_key = public)
  expect_identical(found$ok, c(TRUE, TRUE, TRUE, FALSE))
  expect_match(found$detail[[4]], "does not hold")
  reticulate::import("bertonnx")$sign(path, key, force = TRUE)
  found <- bert_verify(model, public_key = public)
  expect_identical(found$ok, rep(TRUE, 4))
  expect_match(found$detail[[4]], "signed by the key")
})

test_that("floats are hashed as their bytes", {
  expect_identical(md5_of_floats(double()), "d41d8cd98f00b204e9800998ecf8427e")
  expect_false(identical(md5_of_floats(1), md5_of_floats(1 + 2^-23)))
})
