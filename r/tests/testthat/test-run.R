test_that("vectors of length 1 cross as lists", {
  expect_identical(crossing("a"), list("a"))
  expect_identical(crossing(character()), list())
  expect_identical(crossing(c("a", "b")), c("a", "b"))
})

test_that("many chunks are put together in order", {
  model <- tiny("embeddings")
  texts <- sprintf("text number %d", 1:3000)
  all <- bert_embed(model, texts)
  some <- c(1, 2, 1023, 1024, 1025, 2048, 2049, 3000)
  expect_identical(all[some, ], bert_embed(model, texts[some]))
  # More than cross at once: the last rows come in another block.
  more <- rep_len(texts, 17000)
  some <- c(1, 3001, 16384, 16385, 16386, 17000)
  expect_identical(bert_embed(model, more)[some, ], bert_embed(model, more[some]))
  gaps <- replace(texts, c(1, 1024, 3000), NA)
  with_gaps <- bert_embed(model, gaps)
  expect_identical(which(is.na(with_gaps[, 1])), c(1L, 1024L, 3000L))
  expect_identical(with_gaps[-c(1, 1024, 3000), ], all[-c(1, 1024, 3000), ])
})

test_that("one text that fails is named by its element", {
  error <- expect_bert_error(bert_fill_mask(tiny("words"), c("[MASK]", NA, "no mask here")), "row", "row 3")
  expect_identical(error$row_kind, "no-mask")
  expect_s3_class(error$python, "bertonnx_python_RowError")
})

test_that("rows of NA stand where they stood", {
  texts <- list(n = 4L, present = c(2L, 4L))
  table <- with_na_rows(list(row = c(2L, 2L, 4L), label = as_levels(c(1, 2, 1), c("a", "b"))), texts)
  expect_identical(table$.row, 1:4 |> rep(c(1, 2, 1, 1)))
  expect_identical(table$label, factor(c(NA, "a", "b", NA, "a"), c("a", "b")))
  none <- with_na_rows(list(row = integer(), x = double()), list(n = 2L, present = integer()))
  expect_identical(none, tibble::tibble(.row = 1:2, x = c(NA_real_, NA_real_)))
})

test_that("progress is shown if asked for, and not if not", {
  withr::local_options(cli.dynamic = FALSE)
  model <- tiny("embeddings")
  quiet <- bert_embed(model, c("a", "b"), progress = FALSE)
  expect_identical(bert_embed(model, c("a", "b"), progress = TRUE), quiet)
  expect_identical(bert_embed(model, c("a", "b")), quiet)
  expect_identical(dim(bert_embed(model, character(), progress = TRUE)), c(0L, 32L))
  expect_bert_error(bert_embed(model, "a", progress = NA), "input", "progress")
  expect_identical(bert_classify(tiny("sentiment"), "a", progress = TRUE), bert_classify(tiny("sentiment"), "a"))
  expect_identical(bert_entities(tiny("entities"), "a", progress = TRUE), bert_entities(tiny("entities"), "a"))
  expect_identical(bert_fill_mask(tiny("words"), "[MASK]", progress = TRUE), bert_fill_mask(tiny("words"), "[MASK]"))
  expect_identical(bert_answer(tiny("answers"), "a", "b", progress = TRUE), bert_answer(tiny("answers"), "a", "b"))
  expect_bert_error(bert_classify(tiny("sentiment"), "a", progress = NA), "input", "progress")
})

test_that("an interrupt in the middle leaves the session usable", {
  skip_on_os("windows")
  found <- in_fresh_r(function(path, begun) {
    model <- bertonnx::bert_load(path)
    before <- bertonnx::bert_embed(model, c("a text", "another"))
    many <- paste("so many words of text", seq_len(2e5))
    chunks <- 0
    at_each_chunk(function(n) {
      chunks <<- chunks + 1
      file.create(begun)
    })
    # Where all were predicted before it came, once more.
    for (attempt in 1:5) {
      unlink(begun)
      chunks <- 0
      what <- NULL
      interrupt_after(begun)
      tryCatch(
        {
          what <- dim(bertonnx::bert_embed(model, many))
          wait_until(function() FALSE)
        },
        interrupt = function(interrupt) NULL
      )
      if (is.null(what)) break
    }
    list(what = what, chunks = chunks, same = identical(bertonnx::bert_embed(model, c("a text", "another")), before))
  }, list(model_file("embeddings"), withr::local_tempfile()))
  expect_null(found$what)
  expect_lt(found$chunks, 2e5 / 1024)
  expect_true(found$same)
})

test_that("the end of R's time is noticed, and leaves the session usable", {
  found <- in_fresh_r(function(path) {
    model <- bertonnx::bert_load(path)
    before <- bertonnx::bert_embed(model, c("a text", "another"))
    many <- paste("so many words of text", seq_len(2e5))
    chunks <- 0
    at_each_chunk(function(n) {
      chunks <<- n
      if (n == 1) setTimeLimit(elapsed = 0.01, transient = TRUE)
    })
    limited <- function() {
      on.exit(setTimeLimit())
      dim(bertonnx::bert_embed(model, many))
    }
    what <- tryCatch(limited(), error = conditionMessage)
    list(
      what = what, chunks = chunks,
      same = identical(bertonnx::bert_embed(model, c("a text", "another")), before)
    )
  }, list(model_file("embeddings")))
  expect_identical(found$what, "reached elapsed time limit")
  expect_lt(found$chunks, 2e5 / 1024)
  expect_true(found$same)
})

test_that("the end of R's time is raised where reticulate swallowed it, once", {
  limit <- gettext("reached elapsed time limit", domain = "R")
  swallowed <- function() {
    try(stop(limit), silent = TRUE)
    list(ok = TRUE)
  }
  error <- expect_error(unwrap(swallowed(), NULL))
  expect_identical(conditionMessage(error), limit)
  swallowed()
  expect_true(unwrap(list(ok = TRUE), NULL)$ok)
  later <- list(ok = TRUE, pending = list(wait = swallowed))
  expect_error(unwrap(later, NULL), limit, fixed = TRUE)
})

test_that("what Python still works on is asked for until it is there", {
  asked <- 0
  still <- list(ok = TRUE, pending = list(wait = function() {
    asked <<- asked + 1
    if (asked < 3) still else list(ok = TRUE, value = 1)
  }))
  expect_identical(unwrap(still, NULL)$value, 1)
  expect_identical(asked, 3)
  interrupted <- list(ok = TRUE, pending = list(wait = function() NULL))
  expect_identical(tryCatch(unwrap(interrupted, NULL), interrupt = function(condition) "interrupted"), "interrupted")
})

test_that("texts that were cut are counted, once a call, and can be read whole", {
  model <- bert_load(model_file("embeddings"), max_length = 16)
  texts <- c(strrep("word ", 50), "short", NA, strrep("more ", 50))
  said <- capture_warnings(bert_embed(model, texts))
  expect_length(said, 1)
  expect_match(said, "2 of 3 texts were cut to 16 tokens")
  expect_warning(bert_embed(model, texts), class = "bertonnx_warning_truncated")
  expect_no_warning(bert_embed(model, texts[2:3]))
  whole <- bert_load(model_file("embeddings"), max_length = 16, long_text = "stride")
  expect_no_warning(x <- bert_embed(whole, texts))
  expect_false(identical(x[1, ], suppressWarnings(bert_embed(model, texts))[1, ]))
  strict <- bert_load(model_file("embeddings"), max_length = 16, long_text = "error")
  expect_bert_error(bert_embed(strict, texts), "row", 'row 1: .*long_text = "truncate" or long_text = "stride"')
  expect_bert_error(bert_load(model_file("embeddings"), long_text = "fold"), "usage", 'long_text = "fold" is unknown')
})
