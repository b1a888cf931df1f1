texts <- c(a = "one text", b = NA, c = "another text", d = "caf\u00e9 \U1F600")

test_that("similarities are Python's, of texts and of embeddings", {
  model <- tiny("embeddings")
  python <- reticulate::import("bertonnx")$load(model$path, "cpu")
  near <- reticulate::py_eval("lambda m, a, b: [[float(x) for x in row] for row in m.similarity(a, b)]")
  expected <- do.call(rbind, near(python, as.list(unname(texts[-2])), list("a third", "fourth")))
  found <- bert_similarity(model, texts, c("a third", "fourth"))
  expect_identical(unname(found[-2, ]), expected)
  expect_identical(rownames(found), names(texts))
  expect_true(all(is.na(found["b", ])))
  x <- bert_embed(model, texts)
  expect_identical(bert_similarity(model, x, bert_embed(model, c("a third", "fourth"))), found)
  expect_identical(bert_similarity(model, texts), bert_similarity(model, x, x))
  expect_identical(dim(bert_similarity(model, character(), "x")), c(0L, 1L))
  expect_bert_error(bert_similarity(model, x[, 1:3], x), "usage", "vectors of 3 numbers")
  expect_bert_error(bert_similarity(tiny("words"), "a"), "task")
})

test_that("R's own arithmetic, for models on servers, agrees with Python's", {
  skip_without_python()
  set.seed(1)
  a <- as_float32(matrix(rnorm(60), 5))
  b <- as_float32(matrix(rnorm(36), 3))
  for (name in names(SIMILARITIES)) {
    python <- read_floats(engine_ask("python", "similarity", a, b, name, call = NULL)$values)
    # Products are summed up by other libraries.
    expect_equal(as.vector(SIMILARITIES[[name]](a, b)), python, tolerance = 1e-6, info = name)
    if (name == "manhattan") expect_identical(as.vector(SIMILARITIES[[name]](a, b)), python)
  }
})

test_that("the nearest are Python's, in a matrix or a file", {
  model <- tiny("embeddings")
  stored <- bert_embed(model, c(sprintf("text number %d", 1:40), NA, "text number 3"))
  queries <- bert_embed(model, c("text number 3", NA, "something else"))
  found <- bert_nearest(stored, queries, top_n = 4)
  expect_named(found, c(".query", "rank", ".row", "score"))
  expect_identical(found$.row[1:2], c(3L, 42L))
  expect_identical(found$.query, c(1L, 1L, 1L, 1L, 2L, 3L, 3L, 3L, 3L))
  expect_true(is.na(found$.row[[5]]))
  search <- reticulate::py_eval(
    "lambda v, q: [[[float(h['index']) for h in hits], [h['score'] for h in hits]] for hits in __import__('bertonnx').search(v, q, top_k=4)]"
  )
  rows <- function(x) lapply(seq_len(nrow(x)), function(i) as.list(unname(x[i, ])))
  expected <- search(rows(replace(stored, is.na(stored), NaN)), rows(queries[-2, ]))
  expect_identical(found$.row[1:4], as.integer(expected[[1]][[1]] + 1))
  expect_identical(found$score[6:9], as.double(expected[[2]][[2]]))
  expect_identical(bert_nearest(stored, c("text number 3", NA, "something else"), model = model, top_n = 4, similarity = "cosine"), found)
  dots <- bert_nearest(stored, queries, top_n = 4, similarity = "dot")
  # That of the model, which says so.
  expect_identical(bert_nearest(stored, queries, model = model, top_n = 4), dots)
  expect_false(identical(dots$score, found$score))
  expect_bert_error(bert_nearest(stored, "text"), "input", "nothing says what embeds it")
  expect_bert_error(bert_nearest("nowhere.npy", queries), "input", "nowhere.npy")
  expect_bert_error(bert_nearest(stored[, 1:3], queries[1, ]), "usage")

  input <- withr::local_tempfile(fileext = ".txt", lines = sprintf("text number %d", 1:40))
  file <- withr::local_tempfile(fileext = ".npy")
  bert_run(model, input, file)
  expect_identical(bert_nearest(file, queries, top_n = 1)$.row, c(3L, NA, bert_nearest(stored[1:40, ], queries[3, ])$.row[[1]]))
})

test_that("vectors of a byte for each dimension, or for eight", {
  model <- tiny("embeddings")
  texts <- sprintf("text number %d", 1:20)
  for (encoding in c("int8", "uint8", "binary", "ubinary")) {
    stored <- bert_embed(model, texts, encoding = encoding)
    expect_type(stored, "integer")
    expect_identical(ncol(stored), if (grepl("binary", encoding)) 4L else 32L)
    found <- bert_nearest(stored, stored[5, , drop = FALSE], encoding = encoding, top_n = 1)
    # Bits of another text may be the same.
    expect_identical(stored[found$.row, ], stored[5, ], info = encoding)
    expect_bert_error(bert_nearest(stored, stored), "input", "encoding")
  }
})
