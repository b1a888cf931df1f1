test_that("a matrix comes out, with names, rows of NA, and columns even for no text", {
  model <- tiny("embeddings")
  x <- bert_embed(model, c(a = "one text", b = NA, c = "another text"))
  expect_type(x, "double")
  expect_identical(dim(x), c(3L, 32L))
  expect_identical(rownames(x), c("a", "b", "c"))
  expect_true(all(is.na(x["b", ])))
  expect_false(anyNA(x[c("a", "c"), ]))
  expect_identical(dim(bert_embed(model, character())), c(0L, 32L))
  expect_identical(dim(bert_embed(model, c(NA, NA))), c(2L, 32L))
  expect_identical(dimnames(bert_embed(model, c("a", "b"))), list(NULL, sprintf("dim_%02d", 1:32)))
})

test_that("one text, and a factor, are as good as many texts", {
  model <- tiny("embeddings")
  both <- bert_embed(model, c("one text", "another text"))
  expect_identical(bert_embed(model, "one text"), both[1, , drop = FALSE])
  expect_identical(bert_embed(model, factor(c("one text", "another text"))), both)
})

test_that("the numbers are Python's", {
  model <- tiny("embeddings")
  python <- reticulate::import("bertonnx")$load(model$path, "cpu")
  expected <- reticulate::py_eval("lambda m, t: [[float(x) for x in row] for row in m.embed(t)]")
  texts <- c("one text", "caf\u00e9 \U1F600")
  expect_identical(unname(bert_embed(model, texts)), do.call(rbind, expected(python, texts)))
})

test_that("a prompt is put before each text", {
  model <- tiny("embeddings")
  asked <- bert_embed(model, c("one text", NA, ""), prompt = "query")
  expect_identical(asked[c(1, 3), ], bert_embed(model, c("What is asked: one text", "What is asked: ")))
  expect_true(all(is.na(asked[2, ])))
  expect_identical(predict(model, "one text", prompt = "query"), asked[1, , drop = FALSE])
  expect_identical(bert_embed(model, "one text", prompt = ""), bert_embed(model, "one text"))
  # None is called so, and sentence-transformers then puts nothing there.
  expect_identical(bert_embed(model, "one text", prompt = "document"), bert_embed(model, "one text"))
  expect_bert_error(bert_embed(model, "a", prompt = "quest"), "usage", 'prompt = "quest": .*it has query, document, title')
  expect_bert_error(bert_embed(model, "a", prompt = 3), "input", "prompt")
  facts <- summary(model)
  expect_identical(facts$value[facts$fact == "prompts"], "query, title")
})
