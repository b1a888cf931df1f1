#' A recipe step: texts become the probabilities of a classifier's labels
#'
#' Each selected column of text (or factors) is replaced by one numeric column for each label of a fine-tuned
#' classifier (of a regression model, for each of its outputs), so that what it says can be weighed with other
#' predictors. Nothing is estimated from the training set.
#'
#' @inheritParams step_bert_embed
#' @param model A model for text classification, from [bert_load()].
#' @return The recipe, with the step. `recipes::tidy()` of the step gives a tibble with the columns
#'   `terms`, `labels`, `path` and `id`.
#' @examplesIf file.exists("sentiment.onnx") && rlang::is_installed("recipes") && bertonnx::bert_available()
#' model <- bert_load("sentiment.onnx")
#' reviews <- data.frame(text = c("What a lovely film!", "Far too long."), stars = c(5, 2))
#' rec <- recipes::recipe(stars ~ text, data = reviews) |>
#'   step_bert_classify(text, model = model) |>
#'   recipes::prep()
#' recipes::bake(rec, new_data = NULL)
#' @export
step_bert_classify <- function(
  recipe,
  ...,
  model,
  role = "predictor",
  trained = FALSE,
  columns = NULL,
  prefix = "bert",
  keep_original_cols = FALSE,
  skip = FALSE,
  id = recipes::rand_id("bert_classify")
) {
  call <- rlang::current_env()
  rlang::check_installed("recipes", "for a recipe step.")
  check_task(model, "text-classification", call)
  step <- recipes::step(
    subclass = "bert_classify",
    terms = rlang::enquos(...),
    model = model,
    role = role,
    trained = trained,
    columns = columns,
    prefix = check_string(prefix),
    keep_original_cols = check_flag(keep_original_cols),
    skip = skip,
    id = id
  )
  recipes::add_step(recipe, step)
}

#' @export
new_columns.step_bert_classify <- function(step, texts, column, call) {
  names <- paste(step$prefix, column, step$model$info$labels, sep = "_")
  unclass_columns(predict_scores(step$model, as_text(unname(texts), column, call), names, call))
}

unclass_columns <- function(data) {
  stats::setNames(lapply(seq_along(data), function(j) data[[j]]), names(data))
}

#' @exportS3Method recipes::prep
prep.step_bert_classify <- function(x, training, info = NULL, ...) {
  prepared_step(x, training, info)
}

#' @exportS3Method recipes::bake
bake.step_bert_classify <- function(object, new_data, ...) {
  baked(object, new_data, rlang::current_env())
}

#' @export
print.step_bert_classify <- function(x, width = max(20, getOption("width") - 30), ...) {
  recipes::print_step(x$columns, x$terms, x$trained, "BERT label probabilities of ", width)
  invisible(x)
}

#' @exportS3Method recipes::tidy
tidy.step_bert_classify <- function(x, ...) {
  terms <- if (recipes::is_trained(x)) x$columns else recipes::sel2char(x$terms)
  n <- length(terms)
  tibble::tibble(
    terms = as.character(terms),
    labels = rep(list(x$model$info$labels), n),
    path = rep(x$model$path, n),
    id = rep(x$id, n)
  )
}

#' @exportS3Method recipes::required_pkgs
required_pkgs.step_bert_classify <- function(x, ...) {
  "bertonnx"
}
