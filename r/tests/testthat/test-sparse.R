test_that("weights and tokens are Python's", {
  model <- tiny("sparse")
  texts <- c("one text", NA, "caf\u00e9")
  python <- reticulate::import("bertonnx")$load(model$path, "cpu")
  plain <- reticulate::py_eval("lambda m, t: [[[float(x) for x in i['ids']], [float(x) for x in i['weights']]] for i in m.embed_sparse(t)]")
  expected <- plain(python, as.list(texts[-2]))
  found <- bert_embed_sparse(model, texts)
  expect_named(found, c(".row", "token", "id", "weight"))
  for (row in 1:2) {
    own <- found[found$.row == c(1, 3)[[row]], ]
    expect_identical(as.double(own$id), as.double(expected[[row]][[1]]))
    expect_identical(own$weight, as.double(expected[[row]][[2]]))
    expect_false(is.unsorted(-own$weight))
  }
  expect_true(is.na(found$token[found$.row == 2]))
  few <- bert_embed_sparse(model, texts[1], top_n = 3)
  expect_identical(few, found[1:3, ])
  expect_bert_error(bert_embed_sparse(tiny("embeddings"), "a"), "task", "bert_embed_sparse\\(\\) needs")
})
