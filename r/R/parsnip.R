#' A text model for parsnip
#'
#' Declares a model that is trained by [bert_train()], for parsnip's `fit()` and for workflows: the predictors
#' are one column of text, the outcome is a factor (or a number, with `mode = "regression"`).
#'
#' parsnip is not among the packages that this one is tested with: its tests call what is registered as parsnip
#' does.
#'
#' @param mode `"classification"` or `"regression"`.
#' @param base What is trained: an embedding file, for a head in seconds, or a checkpoint, which is fine-tuned; as
#'   in [bert_train()].
#' @param epochs,learning_rate Of fine-tuning, as in [bert_train()]; `NULL` for its defaults.
#' @param engine `"bertonnx"`, the only one. Further arguments of [bert_train()] are given to
#'   parsnip's `set_engine()`, such as `path`, where the file is to be kept.
#' @return A specification of parsnip's. Its fit holds a model as from [bert_load()].
#' @examples
#' \dontrun{
#' # With the package parsnip attached:
#' fitted <- bert_text(base = "embeddings.onnx") |>
#'   set_engine("bertonnx", path = "topics.onnx") |>
#'   fit(topic ~ text, data = notes)
#' predict(fitted, notes, type = "prob")
#' }
#' @export
bert_text <- function(
  mode = "classification", base = NULL, epochs = NULL, learning_rate = NULL, engine = "bertonnx"
) {
  rlang::check_installed("parsnip", "for a specification of a model.")
  args <- list(
    base = rlang::enquo(base), epochs = rlang::enquo(epochs), learning_rate = rlang::enquo(learning_rate)
  )
  new_model_spec <- getExportedValue("parsnip", "new_model_spec")
  new_model_spec("bert_text", args = args, eng_args = NULL, mode = mode, method = NULL, engine = engine)
}

# As parsnip is loaded, whenever that is. Its functions are arguments, for tests.
register_with_parsnip <- function(parsnip = asNamespace("parsnip")) {
  parsnip$set_new_model("bert_text")
  for (mode in c("classification", "regression")) register_mode(parsnip, mode)
}

register_mode <- function(parsnip, mode) {
  model <- "bert_text"
  engine <- "bertonnx"
  parsnip$set_model_mode(model, mode)
  parsnip$set_model_engine(model, mode, eng = engine)
  parsnip$set_dependency(model, eng = engine, pkg = "bertonnx", mode = mode)
  for (name in c("base", "epochs", "learning_rate")) {
    tuned <- if (name == "learning_rate") "learn_rate" else name
    parsnip$set_model_arg(
      model, eng = engine, parsnip = name, original = name, func = list(pkg = "dials", fun = tuned),
      has_submodel = FALSE
    )
  }
  fit <- c(pkg = "bertonnx", fun = "fit_bert_text")
  parsnip$set_fit(
    model, mode = mode, eng = engine,
    value = list(interface = "data.frame", protect = c("x", "y"), func = fit, defaults = list())
  )
  parsnip$set_encoding(
    model, mode = mode, eng = engine,
    options = list(
      # A text is no set of indicators.
      predictor_indicators = "none", compute_intercept = FALSE, remove_intercept = FALSE, allow_sparse_x = FALSE
    )
  )
  for (type in if (mode == "regression") "numeric" else c("class", "prob")) {
    parsnip$set_pred(model, mode = mode, eng = engine, type = type, value = how_to_predict(type))
  }
}

# A factor, numbers, or a column for each label.
how_to_predict <- function(type) {
  column <- c(class = ".pred_class", numeric = ".pred")
  list(
    pre = NULL,
    post = if (type %in% names(column)) function(x, object) x[[column[[type]]]],
    func = c(fun = "predict"),
    args = list(object = quote(object$fit), new_data = quote(new_data), type = type)
  )
}

#' Fit what [bert_text()] declares
#'
#' Called by parsnip.
#'
#' @param x A data frame with one column of text.
#' @param y The outcome: a factor, or numbers.
#' @param base,epochs,learning_rate As in [bert_text()].
#' @param path The file to write; by default one of this session, which is gone with it.
#' @param ... Further arguments of [bert_train()].
#' @return A model, as from [bert_train()].
#' @keywords internal
#' @export
fit_bert_text <- function(
  x, y, base = NULL, epochs = NULL, learning_rate = NULL, path = tempfile("bert", fileext = ".onnx"), ...
) {
  call <- rlang::current_env()
  if (is.null(base)) {
    bert_abort(
      c("{.fn bert_text} needs something to train.", "i" = "Name it: {.code bert_text(base = \"embeddings.onnx\")}."),
      "input",
      call = call
    )
  }
  column <- column_of(x, NULL, "text", "text", call)
  data <- data.frame(text = as.character(x[[column]]), label = y, stringsAsFactors = FALSE)
  given <- list(epochs = epochs, learning_rate = learning_rate)
  do.call(bert_train, c(list(base, data, path, text = "text", label = "label"), given[lengths(given) > 0], list(...)))
}
