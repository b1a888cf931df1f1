#' A recipe step: texts become embeddings
#'
#' Each selected column of text (or factors) is replaced by one numeric column for each dimension
#' of the model's embeddings. Nothing is estimated from the training set. The recipe can be saved
#' with [saveRDS()]: it keeps where the model's file is, and opens it again.
#'
#' @param recipe A recipe, from `recipes::recipe()`.
#' @param ... Which columns, as in every step.
#' @param model A model for feature extraction, from [bert_load()].
#' @param prompt As in [bert_embed()].
#' @param role The role of the new columns.
#' @param trained,columns Set by `recipes::prep()`.
#' @param prefix What the new columns' names begin with; the column's name and a number follow.
#' @param keep_original_cols Whether to keep the columns of text.
#' @param skip Whether to leave the step out when new data are baked.
#' @param id A name for the step.
#' @return The recipe, with the step. `recipes::tidy()` of the step gives a tibble with the columns
#'   `terms`, `width`, `path` and `id`.
#' @examplesIf file.exists("embeddings.onnx") && rlang::is_installed("recipes") && bert_available()
#' model <- bert_load("embeddings.onnx")
#' reviews <- data.frame(text = c("What a lovely film!", "Far too long."), stars = c(5, 2))
#' rec <- recipes::recipe(stars ~ text, data = reviews) |>
#'   step_bert_embed(text, model = model) |>
#'   recipes::prep()
#' recipes::bake(rec, new_data = NULL)
#' recipes::tidy(rec, number = 1)
#' @export
step_bert_embed <- function(
  recipe,
  ...,
  model,
  prompt = NULL,
  role = "predictor",
  trained = FALSE,
  columns = NULL,
  prefix = "bert",
  keep_original_cols = FALSE,
  skip = FALSE,
  id = recipes::rand_id("bert_embed")
) {
  call <- rlang::current_env()
  rlang::check_installed("recipes", "for a recipe step.")
  check_task(model, "feature-extraction", call)
  check_prompt(prompt, call)
  step <- recipes::step(
    subclass = "bert_embed",
    terms = rlang::enquos(...),
    model = model,
    prompt = prompt,
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

#' @exportS3Method recipes::prep
prep.step_bert_embed <- function(x, training, info = NULL, ...) {
  prepared_step(x, training, info)
}

prepared_step <- function(x, training, info) {
  x$columns <- unname(recipes::recipes_eval_select(x$terms, training, info))
  for (column in x$columns) {
    as_text(training[[column]], column, rlang::current_env())
  }
  x$trained <- TRUE
  x
}

#' @exportS3Method recipes::bake
bake.step_bert_embed <- function(object, new_data, ...) {
  baked(object, new_data, rlang::current_env())
}

baked <- function(object, new_data, call) {
  absent <- setdiff(object$columns, names(new_data))
  if (length(absent) > 0) {
    bert_abort("{.arg new_data} has no column {.val {absent}}.", "input", call = call)
  }
  for (column in object$columns) {
    new_data <- with_results(object, new_data, column, call)
  }
  tibble::as_tibble(new_data)
}

# Of each kind of step: a named list of columns for a column of texts.
new_columns <- function(step, texts, column, call) {
  UseMethod("new_columns")
}

#' @export
new_columns.step_bert_embed <- function(step, texts, column, call) {
  values <- bert_embed(step$model, unname(texts), prompt = step$prompt)
  columns_of(values, dimension_names(ncol(values), sprintf("%s_%s_", step$prefix, column)))
}

with_results <- function(step, data, column, call) {
  new <- new_columns(step, data[[column]], column, call)
  taken <- intersect(names(new), names(data))
  if (length(taken) > 0) {
    bert_abort(
      c("There are columns of these names already: {.val {taken}}.", "i" = "Set {.arg prefix}."),
      "input",
      call = call
    )
  }
  if (!isTRUE(step$keep_original_cols)) data[[column]] <- NULL
  data[names(new)] <- new
  data
}

#' @export
print.step_bert_embed <- function(x, width = max(20, getOption("width") - 30), ...) {
  title <- "BERT embeddings of "
  recipes::print_step(x$columns, x$terms, x$trained, title, width)
  invisible(x)
}

#' @exportS3Method recipes::tidy
tidy.step_bert_embed <- function(x, ...) {
  terms <- if (recipes::is_trained(x)) x$columns else recipes::sel2char(x$terms)
  n <- length(terms)
  tibble::tibble(
    terms = as.character(terms),
    width = rep(x$model$info$width, n),
    path = rep(x$model$path, n),
    id = rep(x$id, n)
  )
}

#' @exportS3Method recipes::required_pkgs
required_pkgs.step_bert_embed <- function(x, ...) {
  "bertonnx"
}
