test_that("substr() gives the entity, whatever the letters", {
  texts <- c(hard_texts(), NA)
  for (name in c("entities", "roberta")) {
    found <- bert_entities(tiny(name), texts)
    found <- found[!is.na(found$entity), ]
    expect_gt(nrow(found), 200)
    expect_identical(substr(texts[found$.row], found$start, found$end), found$text)
  }
})

test_that("entities are a table with a factor", {
  model <- tiny("entities")
  found <- bert_entities(model, c(NA, "Ada in London"))
  expect_named(found, c(".row", "entity", "text", "score", "start", "end"))
  expect_identical(levels(found$entity), c("PER", "LOC"))
  expect_identical(found$.row[[1]], 1L)
  expect_true(is.na(found$entity[[1]]))
  expect_identical(nrow(bert_entities(model, character())), 0L)
  expect_identical(nrow(bert_entities(model, "")), 0L)
})

test_that("each way of aggregation works", {
  model <- tiny("entities")
  for (way in c("none", "simple", "first", "average", "max")) {
    found <- bert_entities(model, "Ada Lovelace lived in London", aggregation = way)
    expect_identical(substr(rep("Ada Lovelace lived in London", nrow(found)), found$start, found$end), found$text)
  }
  expect_identical(levels(bert_entities(model, "Ada", "none")$entity), c("B-PER", "I-PER", "B-LOC", "I-LOC"))
  expect_bert_error(bert_entities(model, "Ada", "best"), "input", "aggregation")
})
