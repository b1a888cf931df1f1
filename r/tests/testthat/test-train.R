reviews <- data.frame(
  review = paste(rep(c("a good", "a bad", "a lovely", "an awful"), 6), "film", 1:24),
  mood = rep(c("up", "down"), 12)
)

test_that("a head is trained on a data frame, and the model is loaded with its report", {
  skip_without_sklearn()
  path <- withr::local_tempfile(fileext = ".onnx")
  model <- suppressMessages(bert_train(tiny("embeddings"), reviews, path, text = "review", label = "mood", seed = 3))
  expect_s3_class(model, c("bert_trained", "bert_text_classification", "bert_model"), exact = FALSE)
  expect_identical(model$info$labels, c("down", "up"))
  expect_identical(nrow(bert_classify(model, c("a good film", NA))), 2L)
  expect_s3_class(model$report, "bert_evaluation")
  expect_true(all(c("majority") %in% model$report$baselines$baseline))
  withr::local_pdf(withr::local_tempfile())
  expect_identical(plot(model), model)
  expect_output(print(model), "bert_evaluation")
  # The same rows and seed give the same model.
  other <- withr::local_tempfile(fileext = ".onnx")
  again <- suppressMessages(bert_train(tiny("embeddings")$path, reviews, other, text = "review", label = "mood", seed = 3))
  expect_identical(bert_classify(again, reviews$review, top_n = 2), bert_classify(model, reviews$review, top_n = 2))
  expect_bert_error(
    bert_train(tiny("embeddings"), reviews, path, text = "review", label = "mood"), "output", "force = TRUE"
  )
})

test_that("what cannot be trained is refused in R's words", {
  skip_without_sklearn()
  path <- withr::local_tempfile(fileext = ".onnx")
  train <- function(...) suppressMessages(bert_train(tiny("embeddings"), path = path, ...))
  expect_bert_error(train(reviews, text = "review", label = "stars"), "input", "no column \"stars\"")
  expect_bert_error(train(reviews, text = "review", label = "mood", epochs = 0), "input", "epochs")
  expect_bert_error(train(reviews, text = "review", label = "mood", class_weights = "most"), "input", "class_weights")
  expect_bert_error(train(reviews, text = "review", label = "mood", validation_share = 2), "usage", "validation_share = 2")
  expect_bert_error(train(reviews, text = "review", label = "mood", lora = 4L), "usage", "lora")
  error <- expect_bert_error(train(data.frame(x = 1:3, y = 3:5)), "input")
  expect_r_words(error)
  expect_bert_error(train(reviews[0, ], text = "review", label = "mood"), "input", "`data` has no rows")
  expect_bert_error(
    train(reviews, text = "review", label = "mood", python = "/nowhere/python"), "missing_dependency", "does not start"
  )
  expect_bert_error(bert_train(tiny("words"), reviews, path), "task")
  expect_false(file.exists(path))
})

test_that("interrupts and the end of R's time end a training and an evaluation, and leave nothing behind", {
  skip_on_os("windows")
  skip_without_sklearn()
  folder <- withr::local_tempdir()
  temporary <- withr::local_tempdir()
  found <- in_fresh_r(function(embeddings, sentiment, folder) {
    base <- bertonnx::bert_load(embeddings)
    model <- bertonnx::bert_load(sentiment)
    before <- bertonnx::bert_embed(base, "a text")
    rows <- function(n) data.frame(text = paste("so many words of text", seq_len(n)), label = c("negative", "positive"))
    file <- tempfile(fileext = ".csv")
    utils::write.csv(rows(1e5), file, row.names = FALSE)
    train <- function(data) bertonnx::bert_train(base, data, file.path(folder, "out.onnx"), report = file.path(folder, "a.html"))
    evaluate <- function(data) bertonnx::bert_evaluate(model, data, report = file.path(folder, "b.html"))
    # At once, and in the middle.
    started <- function(state) TRUE
    under_way <- function(state) state$done > 0 || length(state$said) > 0
    interrupted <- function(so_far, code) {
      when_a_work_is(so_far, interrupt_this_r)
      tryCatch({ force(code); "done" }, interrupt = function(interrupt) "interrupted")
    }
    limited <- function(so_far, code) {
      when_a_work_is(so_far, function() setTimeLimit(elapsed = 0.01, transient = TRUE))
      on.exit(setTimeLimit())
      tryCatch({ force(code); "done" }, error = conditionMessage)
    }
    said <- c(
      interrupted(started, train(rows(20000))), limited(under_way, train(file)),
      interrupted(started, evaluate(rows(20000))), limited(under_way, evaluate(file))
    )
    same <- identical(bertonnx::bert_embed(base, "a text"), before)
    threads <- reticulate::import("threading")
    wait_until(function() {
      !any(vapply(threads$enumerate(), function(thread) grepl("bertonnx-r-work", thread$name), NA))
    })
    list(said = said, same = same, left = list.files(c(tempdir(), dirname(tempdir())), "^bertonnx"))
  }, list(model_file("embeddings"), model_file("sentiment"), folder), env = c(TMPDIR = temporary))
  expect_identical(found$said, rep(c("interrupted", "reached elapsed time limit"), 2))
  expect_true(found$same)
  expect_identical(found$left, character())
  expect_identical(list.files(folder, all.files = TRUE, no.. = TRUE), character())
  # All that was there has gone with that R: the training's process, too.
  expect_identical(list.files(temporary, all.files = TRUE, no.. = TRUE), character())
})

test_that("NA in a list of labels is no label, and TRUE is one by its name", {
  skip_without_python()
  lists <- data.frame(text = c("a", "b", "c", "d"))
  lists$label <- list("good", c("good", "odd"), NA, c(NA_character_, "odd"))
  written <- readLines(as_data(lists, list(), "data", rlang::current_env())$path)
  expect_identical(
    sub("^.*label\": ", "", written),
    c("[\"good\"]}", "[\"good\", \"odd\"]}", "[null]}", "[null, \"odd\"]}")
  )
  truths <- data.frame(text = c("a", "b", "c"), label = c(TRUE, NA, FALSE))
  written <- readLines(as_data(truths, list(), "data", rlang::current_env())$path)
  expect_identical(sub("^.*label\": ", "", written), c("\"TRUE\"}", "null}", "\"FALSE\"}"))
})

test_that("a model of another task is no base, in the words of this function", {
  error <- expect_bert_error(bert_train(tiny("sentiment"), data.frame(text = "a", label = "b")), "task", "`base` must be")
  expect_no_match(rlang::cnd_message(error), "bert_embed")
})
