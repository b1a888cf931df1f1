# Stand-in: parsnip is not in Debian. It notes what is registered, and fits and predicts by it as parsnip does.
noting <- function() {
  noted <- new.env()
  noted$pred <- list()
  list(
    noted = noted,
    functions = list(
      set_new_model = function(model) noted$model <- model,
      set_model_mode = function(model, mode) noted$modes <- c(noted$modes, mode),
      set_model_engine = function(model, mode, eng) noted$engine <- eng,
      set_dependency = function(model, eng, pkg, mode) noted$pkg <- pkg,
      set_model_arg = function(model, eng, parsnip, original, func, has_submodel) noted$args <- union(noted$args, original),
      set_fit = function(model, mode, eng, value) noted$fit <- value,
      set_encoding = function(model, mode, eng, options) noted$encoding <- options,
      set_pred = function(model, mode, eng, type, value) noted$pred[[type]] <- value
    )
  )
}

fitted_by <- function(noted, x, y, ...) {
  fit <- getExportedValue(noted$fit$func[["pkg"]], noted$fit$func[["fun"]])
  list(fit = do.call(fit, c(list(x = x, y = y), list(...))))
}

predicted_by <- function(noted, object, new_data, type) {
  how <- noted$pred[[type]]
  found <- do.call(how$func[["fun"]], lapply(how$args, rlang::eval_bare, rlang::current_env()))
  if (is.null(how$post)) found else how$post(found, object)
}

notes <- utils::read.csv(system.file("extdata", "notes.csv", package = "bertonnx"), stringsAsFactors = TRUE)

test_that("parsnip trains and predicts by what is registered", {
  standing <- noting()
  register_with_parsnip(standing$functions)
  noted <- standing$noted
  expect_identical(noted$modes, c("classification", "regression"))
  expect_identical(noted$args, c("base", "epochs", "learning_rate"))
  expect_true(all(noted$fit$protect %in% names(formals(fit_bert_text))))
  expect_true(all(noted$args %in% names(formals(fit_bert_text))))
  expect_setequal(names(noted$pred), c("class", "prob", "numeric"))

  skip_without_python()
  skip_if_not(
    identical(run_python(test_python(), c("-c", shQuote("import sklearn, onnx; print(1)"))), "1"),
    "training takes scikit-learn and onnx"
  )
  path <- withr::local_tempfile(fileext = ".onnx")
  x <- data.frame(text = as.character(notes$text))
  object <- suppressMessages(fitted_by(noted, x, notes$topic, base = model_file("embeddings"), path = path))
  classes <- predicted_by(noted, object, x[1:3, , drop = FALSE], "class")
  expect_s3_class(classes, "factor")
  expect_setequal(levels(classes), levels(notes$topic))
  expect_identical(classes, predict(bert_load(path), x$text[1:3])$.pred_class)
  scores <- predicted_by(noted, object, x[1:3, , drop = FALSE], "prob")
  expect_setequal(names(scores), paste0(".pred_", levels(notes$topic)))
})

test_that("what cannot be trained is said before anything is", {
  x <- data.frame(text = "a")
  expect_bert_error(fit_bert_text(x, factor("b")), "input", "bert_text\\(base")
  expect_bert_error(fit_bert_text(data.frame(a = "x", b = "y"), factor("b"), base = "x.onnx"), "input", "Several columns")
})
