test_that("options are those of the command line", {
  given <- list(task = "fill-mask", max_length = 100000, force = TRUE, normalize = FALSE, allow_pickle = FALSE)
  expect_identical(
    exporter_options(given, NULL),
    c("--task", "fill-mask", "--max-length", "100000", "--force", "--no-normalize")
  )
  expect_identical(
    exporter_options(list(ignore_keys = c("a", "config.json: b")), NULL),
    c("--ignore-key", "a", "--ignore-key", "config.json: b")
  )
  expect_bert_error(exporter_options(list(ignore_keys = NA_character_), NULL), "input", "`ignore_keys`")
  expect_null(exporter_options(list(task = NULL), NULL))
  expect_bert_error(exporter_options(list(taks = "x"), NULL), "input", "taks.*task")
  expect_bert_error(exporter_options(list("x"), NULL), "input")
  expect_bert_error(exporter_options(list(force = "yes"), NULL), "input", "`force`")
  expect_bert_error(exporter_options(list(task = c("a", "b")), NULL), "input", "`task`")
})

test_that("a checkpoint becomes a model, outside of R", {
  checkpoint <- file.path(models_folder(), "checkpoint")
  python <- test_python()
  skip_if_not(nzchar(examine_python(python)$torch), "exporting takes PyTorch; bert_install(export = TRUE) installs it")
  path <- file.path(withr::local_tempdir(), "new.onnx")
  expect_message(expect_identical(bert_export(checkpoint, path, hidden_states = "all"), path))
  expect_identical(bert_load(path)$info$weights_sha256, tiny("embeddings")$info$weights_sha256)
  error <- expect_bert_error(suppressMessages(bert_export(checkpoint, path)), "export", "exists.*force = TRUE")
  expect_no_match(paste(error$output, collapse = " "), "--force")
  expect_identical(error$status, 1L)
})

test_that("a checkpoint that is not there is an error that says so", {
  python <- test_python()
  skip_if_not(nzchar(examine_python(python)$torch), "exporting takes PyTorch; bert_install(export = TRUE) installs it")
  path <- file.path(withr::local_tempdir(), "new.onnx")
  error <- expect_bert_error(suppressMessages(bert_export("/nowhere/at all", path)), "export", "not exported")
  expect_match(paste(error$output, collapse = " "), "nowhere")
  expect_false(file.exists(path))
})

test_that("without PyTorch, exporting says what to type", {
  skip_on_os("windows")
  error <- in_fresh_r(function() {
    tryCatch(bertonnx::bert_export("x", "y.onnx"), error = function(error) {
      list(class = class(error), message = gsub("\\s+", " ", rlang::cnd_message(error)))
    })
  }, env = c(nobodys_python(), RETICULATE_PYTHON = "/nowhere/python"))
  expect_true("bertonnx_error_no_python" %in% error$class)
  expect_match(error$message, "bertonnx::bert_install\\(.*export = TRUE\\)")
})

test_that("the command line knows every option", {
  withr::local_envvar(COLUMNS = "300", NO_COLOR = "1", TERM = "dumb")
  help <- paste(run_python(test_python(), c("-m", "bertonnx", "export", "--help")), collapse = " ")
  for (name in c(EXPORT_TEXTS, EXPORT_FLAGS)) {
    expect_match(help, paste0("--", gsub("_", "-", name)), fixed = TRUE)
  }
})
