test_that("a file becomes a file, with Python's rows", {
  skip_if_not_installed("jsonlite")
  model <- tiny("sentiment")
  texts <- c("fine", "awful, \"really\"", "caf\u00e9 \U1F600")
  input <- withr::local_tempfile(fileext = ".jsonl")
  writeLines(vapply(texts, function(x) jsonlite::toJSON(list(review = x), auto_unbox = TRUE), ""), input, useBytes = TRUE)
  out <- withr::local_tempfile(fileext = ".jsonl")
  report <- bert_run(model, input, out, text = "review", progress = FALSE)
  expect_identical(report[c("rows", "errors", "truncated", "resumed")], tibble::tibble(rows = 3, errors = 0, truncated = 0, resumed = 0))
  lines <- lapply(readLines(out), jsonlite::fromJSON)
  expect_identical(vapply(lines, `[[`, "", "label"), as.character(bert_classify(model, texts)$label))
  scores <- as_float32(vapply(lines, `[[`, 0, "score"))
  expect_identical(scores, bert_classify(model, texts)$score)
  # There is nothing left to do.
  expect_identical(bert_run(model, input, out, text = "review", resume = TRUE)$resumed, 3)
  table <- withr::local_tempfile(fileext = ".csv")
  bert_run(tiny("nli"), input, table, text = "review", labels = c("good", "bad"), multi_label = TRUE, threshold = 0.1)
  expect_identical(nrow(utils::read.csv(table)), 3L)
})

test_that("rows that fail, and texts that were cut, are said once", {
  input <- withr::local_tempfile(fileext = ".txt", lines = c("a [MASK]", "none", strrep("word ", 200)))
  out <- withr::local_tempfile(fileext = ".jsonl")
  expect_warning(bert_run(tiny("words"), input, out), "2 of 3 rows", class = "bertonnx_warning_rows")
  expect_bert_error(bert_run(tiny("words"), input, out, on_error = "fail"), "row", "row 1")
  expect_warning(bert_run(tiny("embeddings"), input, out), "1 of 3 texts", class = "bertonnx_warning_truncated")
})

test_that("Parquet, where pyarrow is", {
  skip_without_python()
  skip_if_not(reticulate::py_module_available("pyarrow"), "pyarrow is not installed; bert_install(extras = 'arrow')")
  input <- withr::local_tempfile(fileext = ".txt", lines = c("one", "two"))
  out <- withr::local_tempfile(fileext = ".parquet")
  bert_run(tiny("embeddings"), input, out)
  again <- withr::local_tempfile(fileext = ".npy")
  expect_identical(bert_nearest(out, bert_embed(tiny("embeddings"), "two"), top_n = 1)$.row, 2L)
})

test_that("what cannot be run is refused in R's words", {
  model <- tiny("sentiment")
  input <- withr::local_tempfile(fileext = ".csv", lines = c("review,stars", "fine,5"))
  out <- withr::local_tempfile(fileext = ".jsonl")
  error <- expect_bert_error(bert_run(model, "nowhere.csv", out), "input", "nowhere.csv")
  expect_no_match(conditionMessage(error), "standard input")
  error <- expect_bert_error(bert_run(model, input, out, text = "no"), "input", "no column 'no'.*review, stars")
  expect_r_words(error)
  expect_bert_error(bert_run(model, input, sub("jsonl", "docx", out)), "usage")
  expect_bert_error(bert_run(model, input, out, on_error = "skip"), "input", "on_error")
  expect_bert_error(bert_run(model, input, out, text = 3), "input", "`text`")
  expect_bert_error(bert_run(model, input, out, query = "x", text = "review"), "usage", "query = \"x\" is for text-ranking")
})

test_that("an interrupt ends a run, and it can be resumed", {
  skip_on_os("windows")
  folder <- withr::local_tempdir()
  found <- in_fresh_r(function(path, folder) {
    model <- bertonnx::bert_load(path)
    input <- file.path(folder, "in.txt")
    out <- file.path(folder, "out.jsonl")
    when_a_work_is(function(state) isTRUE(file.size(out) > 0), interrupt_this_r)
    # Where all was written before R looked, once more, with more.
    for (rows in 8000 * 4^(0:3)) {
      writeLines(sprintf("text number %d of so many words", seq_len(rows)), input)
      unlink(out)
      what <- tryCatch(bertonnx::bert_run(model, input, out), interrupt = function(interrupt) "interrupted")
      if (identical(what, "interrupted")) break
    }
    # What is under way is written first; until then the output is still taken.
    resumed <- NULL
    wait_until(function() {
      resumed <<- tryCatch(
        bertonnx::bert_run(model, input, out, resume = TRUE),
        bertonnx_error_output = function(error) NULL
      )
      !is.null(resumed)
    })
    list(what = what, resumed = resumed, rows = rows, written = length(readLines(out)))
  }, list(model_file("embeddings"), folder))
  expect_identical(found$what, "interrupted")
  expect_equal(found$written, found$rows)
  expect_identical(found$resumed$rows, found$rows)
  expect_gt(found$resumed$resumed, 0)
})
