test_that("labels are factors in the model's order", {
  model <- tiny("sentiment")
  found <- bert_classify(model, c("fine", NA, "awful"))
  expect_s3_class(found, "tbl_df")
  expect_named(found, c(".row", "label", "score"))
  expect_identical(found$.row, 1:3)
  expect_identical(levels(found$label), c("negative", "neutral", "positive"))
  expect_identical(is.na(found$label), c(FALSE, TRUE, FALSE))
  expect_identical(is.na(found$score), c(FALSE, TRUE, FALSE))
})

test_that("top_n gives the best first, and at most all", {
  model <- tiny("sentiment")
  all <- bert_classify(model, c("fine", "awful"), top_n = 3e9)
  expect_identical(all$.row, c(1L, 1L, 1L, 2L, 2L, 2L))
  expect_false(is.unsorted(-all$score[1:3]))
  expect_setequal(as.character(all$label[1:3]), levels(all$label))
  expect_identical(bert_classify(model, c("fine", "awful"), top_n = 2), all[c(1, 2, 4, 5), ])
  expect_identical(bert_classify(model, c("fine", "awful")), all[c(1, 4), ])
  expect_bert_error(bert_classify(model, "fine", top_n = 0), "input", "`top_n`")
})

test_that("no text gives no row, of the same columns", {
  none <- bert_classify(tiny("sentiment"), character())
  expect_identical(dim(none), c(0L, 3L))
  expect_identical(levels(none$label), c("negative", "neutral", "positive"))
})

test_that("pairs are read together", {
  model <- tiny("sentiment")
  pairs <- bert_classify(model, c("fine", "awful", NA), pair = c("one", NA, "three"))
  expect_identical(is.na(pairs$score), c(FALSE, TRUE, TRUE))
  expect_false(identical(pairs$score[[1]], bert_classify(model, "fine")$score))
})

test_that("a multi-label model gives those above one half, or as many as asked for", {
  model <- tiny("topics")
  texts <- c("one text", NA, "another text")
  scores <- as.matrix(predict(model, texts, type = "prob"))
  above <- bert_classify(model, texts)
  expect_identical(above$score[above$.row != 2], t(scores)[which(t(scores) > 0.5)])
  best <- bert_classify(model, texts, top_n = 1)
  expect_identical(best$.row, 1:3)
  expect_identical(best$score, unname(apply(scores, 1, max)))
  expect_identical(levels(best$label)[[2]], "K\u00fcche & Keller")
})

test_that("regression has a row for each output", {
  found <- bert_classify(tiny("stars"), c("one", NA))
  expect_identical(as.character(found$label), c("stars", NA))
  expect_identical(found$score, predict(tiny("stars"), c("one", NA))$.pred)
})

test_that("scores can be logits", {
  model <- tiny("sentiment")
  usual <- bert_classify(model, c("fine", "awful"), top_n = 3)
  raw <- bert_classify(model, c("fine", "awful"), top_n = 3, raw_scores = TRUE)
  expect_identical(raw$label, usual$label)
  softmax <- exp(raw$score[1:3]) / sum(exp(raw$score[1:3]))
  expect_equal(softmax, usual$score[1:3], tolerance = 1e-5)
})
