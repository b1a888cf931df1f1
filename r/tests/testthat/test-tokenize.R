test_that("tokens have their place in the text", {
  found <- bert_tokenize(tiny("embeddings"), c("A caf\u00e9", NA))
  expect_named(found, c(".row", "position", "token", "id", "type_id", "start", "end", "special"))
  first <- found[found$.row == 1, ]
  expect_identical(first$position, seq_len(nrow(first)))
  expect_identical(first$token[c(1, nrow(first))], c("[CLS]", "[SEP]"))
  expect_identical(first$special, first$token %in% c("[CLS]", "[SEP]"))
  expect_identical(is.na(first$start), first$special)
  expect_identical(range(first$start, na.rm = TRUE), c(1L, first$start[nrow(first) - 1L]))
  expect_identical(max(first$end, na.rm = TRUE), 6L)
  expect_true(all(is.na(found[found$.row == 2, -1])))
})

test_that("the pieces of plain words are what substr() gives", {
  texts <- c("the quick brown fox", "unbelievable antidisestablishment")
  found <- bert_tokenize(tiny("embeddings"), texts)
  found <- found[!found$special & found$token != "[UNK]", ]
  expect_identical(substr(texts[found$.row], found$start, found$end), sub("^##", "", found$token))
})

test_that("a pair's tokens are told apart", {
  found <- bert_tokenize(tiny("answers"), "Who?", pair = "Ada")
  expect_identical(unique(found$type_id), 0:1)
  ada <- found[found$type_id == 1 & !found$special, ]
  expect_identical(c(min(ada$start), max(ada$end)), c(1L, 3L))
})

test_that("what the model would cut is not there", {
  long <- strrep("word ", 500)
  expect_identical(nrow(bert_tokenize(tiny("embeddings"), long)), 96L)
  windows <- bert_tokenize(tiny("answers"), "Who?", pair = long)
  expect_identical(max(windows$end, na.rm = TRUE), 2499L)
})

test_that("a prompt has tokens, and texts keep their places", {
  found <- bert_tokenize(tiny("embeddings"), "one text", prompt = "query")
  plain <- bert_tokenize(tiny("embeddings"), "one text")
  expect_gt(nrow(found), nrow(plain))
  expect_identical(found$start[!is.na(found$start)], plain$start[!is.na(plain$start)])
})
