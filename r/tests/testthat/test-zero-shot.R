test_that("labels and scores are Python's", {
  model <- tiny("nli")
  texts <- c("one text", NA, "caf\u00e9 \U1F600")
  labels <- c("sports", "K\u00fcche & Keller", "politics")
  python <- reticulate::import("bertonnx")$load(model$path, "cpu")
  scores <- reticulate::py_eval(
    "lambda m, t, l, several: [list(item['scores'].values()) for item in m.zero_shot(t, l, multi_label=several)]"
  )
  for (several in c(FALSE, TRUE)) {
    found <- bert_zero_shot(model, texts, labels, multi_label = several, top_n = 3)
    expect_identical(levels(found$label), labels)
    expected <- scores(python, as.list(texts[-2]), as.list(labels), several)
    expect_identical(found$score[found$.row == 1][order(found$label[found$.row == 1])], as.double(expected[[1]]))
    expect_identical(found$score[found$.row == 3][order(found$label[found$.row == 3])], as.double(expected[[2]]))
    expect_true(is.na(found$label[found$.row == 2]))
    expect_identical(bert_zero_shot(model, texts, labels, multi_label = several), found[c(1, 4, 5), ])
  }
  above <- bert_zero_shot(model, texts, labels, multi_label = TRUE, threshold = 0.3)
  all <- bert_zero_shot(model, texts, labels, multi_label = TRUE, top_n = 3)
  expect_setequal(above$score[!is.na(above$score)], all$score[which(all$score > 0.3)])
})

test_that("a template, one label, and what is refused", {
  model <- tiny("nli")
  other <- bert_zero_shot(model, "a text", c("x", "y"), template = "Here is {}.", top_n = 2)
  expect_false(identical(other, bert_zero_shot(model, "a text", c("x", "y"), top_n = 2)))
  expect_identical(nrow(bert_zero_shot(model, "a text", "x")), 1L)
  expect_identical(dim(bert_zero_shot(model, character(), "x")), c(0L, 3L))
  expect_bert_error(bert_zero_shot(model, "a", character()), "input", "labels")
  expect_bert_error(bert_zero_shot(model, "a", c("x", "x")), "usage", 'labels = c\\("x"\\).*more than once')
  expect_bert_error(bert_zero_shot(model, "a", "x", template = "no place"), "usage", "template")
  expect_bert_error(bert_zero_shot(model, "a", c("x", "y"), threshold = 0.2), "usage", "multi_label = TRUE")
  expect_bert_error(bert_zero_shot(tiny("words"), "a", "x"), "task", "bert_zero_shot\\(\\) needs .*bert_fill_mask\\(\\)")
})
