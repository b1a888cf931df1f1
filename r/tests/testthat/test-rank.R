test_that("documents are ranked as Python ranks them", {
  documents <- c("one text", NA, "another text", "one text", "caf\u00e9 \U1F600")
  python <- reticulate::import("bertonnx")
  ranked <- reticulate::py_eval(
    "lambda m, q, d: [[float(hit['index']) for hit in m.rank(q, d)], [hit['score'] for hit in m.rank(q, d)]]"
  )
  for (name in c("ranker", "late")) {
    model <- tiny(name)
    found <- bert_rank(model, "which one?", documents)
    expected <- ranked(python$load(model$path, "cpu"), "which one?", as.list(documents[-2]))
    expect_identical(found$.row[1:4], c(1L, 3L, 4L, 5L)[expected[[1]] + 1])
    expect_identical(found$score[1:4], as.double(expected[[2]]))
    expect_identical(found$.row[[5]], 2L)
    expect_identical(found$score[[5]], NA_real_)
    # Of equal scores, the first document comes first.
    expect_lt(match(1L, found$.row), match(4L, found$.row))
  }
})

test_that("several queries, the best of each, and logits", {
  model <- tiny("ranker")
  documents <- c("one text", "another", "a third")
  all <- bert_rank(model, c("first?", NA, "second?"), documents)
  expect_named(all, c(".query", "rank", ".row", "score"))
  expect_identical(all$.query, rep(1:3, each = 3))
  expect_identical(all$rank, rep(1:3, 3))
  expect_true(all(is.na(all$score[4:6])))
  expect_identical(bert_rank(model, c("first?", NA, "second?"), documents, top_n = 1), all[c(1, 4, 7), ])
  raw <- bert_rank(model, "first?", documents, raw_scores = TRUE)
  expect_equal(1 / (1 + exp(-raw$score)), all$score[1:3], tolerance = 1e-6)
  expect_identical(nrow(bert_rank(model, "first?", character())), 0L)
})

test_that("what cannot be ranked is refused in R's words", {
  expect_bert_error(bert_rank(tiny("embeddings"), "q", "d"), "task", "bert_rank\\(\\) needs .*text-ranking.*bert_embed\\(\\)")
  expect_bert_error(bert_rank(tiny("ranker"), "", "d"), "usage", "query is empty")
  expect_bert_error(bert_rank(tiny("ranker"), "q", "d", top_n = 0), "input", "top_n")
  expect_bert_error(bert_classify(tiny("ranker"), "d"), "task", "bert_rank\\(\\)")
})
