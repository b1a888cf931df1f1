data <- data.frame(id = 1:3, text = c("fine", NA, "awful"))

test_that("predictions stand beside the data", {
  model <- tiny("sentiment")
  found <- augment(model, data)
  expect_s3_class(found, "tbl_df")
  expect_named(found, c("id", "text", ".pred_class", ".pred_negative", ".pred_neutral", ".pred_positive"))
  expect_identical(found$.pred_class, predict(model, data)$.pred_class)
  expect_identical(as.list(found[4:6]), as.list(predict(model, data, type = "prob")))
  expect_identical(augment(tiny("stars"), data)$.pred, predict(tiny("stars"), data)$.pred)
  expect_identical(nrow(augment(model, data[0, ])), 0L)
  expect_identical(augment(model, data.frame(review = "fine"))$.pred_class, bert_classify(model, "fine")$label)
})

test_that("each task adds its own columns", {
  topics <- augment(tiny("topics"), data)
  expect_identical(topics$.pred_class, predict(tiny("topics"), data)$.pred_class)
  expect_identical(topics[[".pred_politics"]], predict(tiny("topics"), data, type = "prob")[[".pred_politics"]])
  embedded <- augment(tiny("embeddings"), data)
  expect_identical(unname(as.matrix(embedded[-(1:2)])), unname(bert_embed(tiny("embeddings"), data$text)))
  entities <- augment(tiny("entities"), data)$.entities
  expect_length(entities, 3)
  found <- bert_entities(tiny("entities"), data$text)
  expect_identical(entities[[3]], found[found$.row == 3, -1])
  masks <- augment(tiny("words"), data.frame(text = c("[MASK] a", "b [MASK]")), top_n = 2)$.masks
  expect_identical(masks[[2]]$token, bert_fill_mask(tiny("words"), "b [MASK]", top_n = 2)$token)
  asked <- data.frame(question = c("Who?", NA), context = "Ada was in London.")
  answers <- augment(tiny("answers"), asked)
  expect_identical(answers$.answer, bert_answer(tiny("answers"), asked$question, asked$context)$answer)
  expect_named(answers, c("question", "context", ".answer", ".score", ".start", ".end"))
  expect_bert_error(augment(tiny("answers"), asked["question"]), "input", "Give `pair`")
})

test_that("columns do not depend on how many rows there are, or what is in them", {
  pairs <- data.frame(text = c("one", NA), pair = "another")
  ranked <- augment(tiny("ranker"), pairs)
  expect_identical(ranked$.score, c(bert_rank(tiny("ranker"), "one", "another")$score, NA))
  expect_identical(colnames(predict(tiny("ranker"), pairs)), "score")
  expect_named(augment(tiny("ranker"), pairs[0, ]), names(ranked))
  for (name in c("sparse", "late")) {
    expect_named(augment(tiny(name), data[0, ]), c("id", "text", ".results"))
    expect_named(augment(tiny(name), data), c("id", "text", ".results"))
  }
})

test_that("a grouped tibble stays one", {
  groups <- tibble::new_tibble(list(id = 1:3, .rows = as.list(1:3)), nrow = 3L)
  grouped <- tibble::new_tibble(data, groups = groups, class = "grouped_df", nrow = 3L)
  found <- augment(tiny("sentiment"), grouped)
  expect_s3_class(found, "grouped_df")
  # dplyr, where it is loaded, makes the groups anew.
  expect_identical(attr(found, "groups")$id, 1:3)
})

test_that("data come first where bert_augment() is called, and columns by their names", {
  model <- tiny("sentiment")
  reviews <- data.frame(title = c("a", "b"), body = c("fine", "awful"))
  expected <- augment(model, reviews, text = "body")
  expect_identical(bert_augment(reviews, model, body), expected)
  expect_identical(bert_augment(reviews, model, "body"), expected)
  expect_identical(bert_augment(reviews, model, .data$body), expected)
  both <- bert_augment(reviews, model, paste(title, body))
  expect_identical(both$.pred_class, bert_classify(model, c("a fine", "b awful"))$label)
  expect_identical(bert_augment(data, model), augment(model, data))
  asked <- data.frame(q = c("Who?", "Where?"), where = "Ada was in London.")
  expect_identical(bert_augment(asked, tiny("answers"), q, pair = where)$.answer, bert_answer(tiny("answers"), asked$q, asked$where)$answer)
})

test_that("nothing is overwritten, and what is no data frame is refused", {
  model <- tiny("sentiment")
  once <- augment(model, data)
  expect_bert_error(augment(model, once), "input", ".pred_class")
  expect_bert_error(augment(model, "text"), "input", "data frame.*character")
  expect_bert_error(bert_augment(data, "model.onnx"), "input", "bert_load")
  expect_error(bert_augment(data, model, text, typo = 1), class = "rlib_error_dots_nonempty")
})

test_that("what was cut is said once", {
  model <- bert_load(model_file("sentiment"), max_length = 8)
  long <- data.frame(text = c(strrep("word ", 50), "short"))
  said <- capture_warnings(augment(model, long))
  expect_length(said, 1)
  expect_match(said, "1 of 2 texts")
})

test_that("levels of a model are those of its results", {
  expect_identical(levels(tiny("sentiment")), levels(bert_classify(tiny("sentiment"), "x")$label))
  expect_identical(levels(tiny("entities")), levels(bert_entities(tiny("entities"), "x")$entity))
  expect_identical(levels(tiny("topics")), c("sports", "K\u00fcche & Keller", "politics"))
  expect_null(levels(tiny("embeddings")))
})
