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

test_that("floats are hashed as their bytes", {
  expect_identical(md5_of_floats(double()), "d41d8cd98f00b204e9800998ecf8427e")
  expect_false(identical(md5_of_floats(1), md5_of_floats(1 + 2^-23)))
})
