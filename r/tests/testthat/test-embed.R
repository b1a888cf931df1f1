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

test_that("embeddings are cut, normalized and encoded as in Python", {
  model <- tiny("embeddings")
  texts <- c("one text", NA, "caf\u00e9 \U1F600")
  python <- reticulate::import("bertonnx")$load(model$path, "cpu")
  asked <- reticulate::py_eval("lambda m, t, **o: [[float(x) for x in row] for row in m.embed(t, **o)]")
  same <- function(...) {
    found <- bert_embed(model, texts, ...)
    expect_true(all(is.na(found[2, ])))
    expect_equal(unname(found[-2, ]), do.call(rbind, asked(python, as.list(texts[-2]), ...)), tolerance = 0)
    found
  }
  expect_identical(dim(same(dimensions = 8L)), c(3L, 8L))
  short <- same(dimensions = 8L, normalize = TRUE)
  expect_equal(rowSums(short^2)[-2], c(1, 1), tolerance = 1e-6)
  for (encoding in c("int8", "uint8", "binary", "ubinary")) expect_type(same(encoding = encoding), "integer")
  expect_identical(dim(bert_embed(model, character(), encoding = "ubinary")), c(0L, 4L))
  expect_bert_error(bert_embed(model, "a", dimensions = 99), "usage", "dimensions = 99 is more")
  expect_bert_error(bert_embed(model, "a", encoding = "int4"), "input", "encoding")
  expect_bert_error(bert_embed(model, "a", normalize = NA), "input", "normalize")
})

test_that("long texts have an embedding for each window", {
  model <- bert_load(model_file("embeddings"), max_length = 16, long_text = "stride")
  text <- c("short", NA, paste(rep("so many words", 20), collapse = " "))
  found <- bert_embed(model, text, chunks = TRUE)
  expect_named(found, c(".row", "chunk", "start", "end", "embedding"))
  expect_identical(found$chunk[found$.row == 3], seq_len(sum(found$.row == 3)))
  expect_gt(sum(found$.row == 3), 3)
  expect_true(all(is.na(found$embedding[found$.row == 2, ])))
  python <- reticulate::import("bertonnx")$load(model$path, "cpu", max_length = 16L, long_text = "stride")
  plain <- reticulate::py_eval(
    "lambda m, t: [[float(c['start']), float(c['end']), c['embedding'].tolist()] for c in m.embed_chunks([t])[0]]"
  )
  expected <- plain(python, text[[3]])
  own <- found[found$.row == 3, ]
  expect_identical(as.double(own$start), vapply(expected, `[[`, 0, 1) + 1)
  expect_identical(as.double(own$end), vapply(expected, `[[`, 0, 2))
  expect_identical(unname(own$embedding), do.call(rbind, lapply(expected, `[[`, 3)))
})
