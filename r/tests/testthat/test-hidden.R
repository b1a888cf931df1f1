python_tokens <- function(model, texts, ...) {
  python <- reticulate::import("bertonnx")$load(model$path, "cpu")
  plain <- reticulate::py_eval(
    "lambda items: [[i.get('tokens', i.get('words')), [list(map(float, o)) for o in i['offsets']], i['vectors'].tolist()] for i in items]"
  )
  plain(python$embed_tokens(as.list(texts), ...))
}

texts <- c("Ada lived in London", NA, "caf\u00e9 \U1F600 x")

test_that("tokens and their vectors are Python's, of any layer", {
  model <- tiny("embeddings")
  for (layer in c(-1L, -2L, 0L)) {
    found <- bert_hidden(model, texts, layers = layer)
    expected <- python_tokens(model, texts[-2], layer = layer)
    for (row in 1:2) {
      own <- found[found$.row == c(1, 3)[[row]], ]
      expect_identical(own$token, as.character(expected[[row]][[1]]))
      expect_identical(unname(own$vector), do.call(rbind, expected[[row]][[3]]))
    }
    expect_true(all(is.na(found$vector[found$.row == 2, ])))
  }
  known <- found[!is.na(found$start), ]
  expect_identical(tolower(substring(texts[known$.row[1:2]], known$start[1:2], known$end[1:2])), c("ada", "lived"))
  expect_identical(found$position[found$.row == 1], seq_len(sum(found$.row == 1)))
})

test_that("several layers, and a text's tokens, are brought together", {
  model <- tiny("embeddings")
  last <- bert_hidden(model, texts)
  before <- bert_hidden(model, texts, layers = -2)
  both <- bert_hidden(model, texts, layers = c(-2, -1))
  expect_identical(both$vector, cbind(before$vector, last$vector))
  means <- bert_hidden(model, texts, layers = c(-2, -1), aggregate_layers = "mean")
  expect_equal(means$vector, (before$vector + last$vector) / 2)
  pooled <- bert_hidden(model, c(a = "Ada", b = NA), aggregate_tokens = "mean")
  expect_identical(rownames(pooled), c("a", "b"))
  expect_equal(pooled["a", ], colMeans(bert_hidden(model, "Ada")$vector))
  expect_equal(unname(pooled["a", ]), unname(bert_embed(model, "Ada")[1, ]), tolerance = 1e-5)
  expect_true(all(is.na(pooled["b", ])))
  largest <- bert_hidden(model, "Ada lived", aggregate_tokens = "max", special = FALSE)
  tokens <- bert_hidden(model, "Ada lived", special = FALSE)
  expect_false(anyNA(tokens$start))
  expect_identical(largest[1, ], apply(tokens$vector, 2, max))
  expect_identical(dim(bert_hidden(model, character())$vector), c(0L, 32L))
  expect_identical(dim(bert_hidden(model, NA, aggregate_tokens = "mean")), c(1L, 32L))
})

test_that("words in place of tokens, and models of many vectors", {
  model <- tiny("embeddings")
  found <- bert_hidden(model, texts, words = "mean")
  expected <- python_tokens(model, texts[-2], words = "mean")
  expect_identical(found$token[found$.row == 1], c("Ada", "lived", "in", "London"))
  expect_identical(unname(found$vector[found$.row == 1, ]), do.call(rbind, expected[[1]][[3]]))
  late <- bert_hidden(tiny("late"), texts)
  expected <- python_tokens(tiny("late"), texts[-2])
  expect_identical(unname(late$vector[late$.row == 3, ]), do.call(rbind, expected[[2]][[3]]))
})

test_that("a layer that a file does not hold, and what is no layer", {
  expect_bert_error(bert_hidden(tiny("embeddings"), "a", layers = 9), "usage", "layers = 9: .*bert_export")
  expect_bert_error(bert_hidden(tiny("embeddings"), "a", layers = 0.5), "input", "layers")
  expect_bert_error(bert_hidden(tiny("embeddings"), "a", words = "sum"), "input", "words")
  expect_bert_error(bert_hidden(tiny("words"), "a"), "task", "bert_fill_mask")
})
