test_that("substr() of the context gives the answer", {
  contexts <- grep("\\w", hard_texts(), value = TRUE)
  found <- bert_answer(tiny("answers"), "Who lived where?", contexts)
  expect_identical(nrow(found), length(contexts))
  expect_identical(substr(contexts, found$start, found$end), found$answer)
})

test_that("questions and contexts are as many, or one", {
  model <- tiny("answers")
  found <- bert_answer(model, c("Who?", NA, "Where?"), "Ada lived in London", top_n = 2)
  expect_named(found, c(".row", "answer", "score", "start", "end"))
  expect_identical(sort(unique(found$.row)), 1:3)
  expect_true(is.na(found$answer[found$.row == 2]))
  expect_identical(found$answer[found$.row == 1], bert_answer(model, "Who?", "Ada lived in London", 2)$answer)
  expect_bert_error(bert_answer(model, c("a", "b", "c"), c("x", "y")), "input", "`context`")
  expect_bert_error(bert_answer(model, "a", NULL), "input", "`context`")
})

test_that("long contexts are read to their end", {
  context <- paste(sprintf("number %d is here.", 1:200), collapse = " ")
  found <- bert_answer(tiny("answers"), "Who?", context, top_n = 500)
  expect_lt(min(found$start), 500)
  expect_gt(max(found$end), nchar(context) - 500)
})

test_that("a question can be left without an answer, and answers have logits", {
  model <- tiny("answers")
  ask <- function(...) bert_answer(model, "Who?", "Ada lived in London.", top_n = 20, ...)
  usual <- ask()
  found <- ask(no_answer = TRUE)
  expect_identical(setdiff(found$answer, usual$answer), "")
  raw <- ask(raw_scores = TRUE)
  expect_setequal(raw$answer, usual$answer)
  expect_true(any(raw$score > 1 | raw$score < 0))
  expect_false(is.unsorted(-raw$score))
  expect_bert_error(ask(no_answer = "yes"), "input", "no_answer")
})
