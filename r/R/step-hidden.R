#' A recipe step: texts become the pooled vectors of their tokens
#'
#' Each selected column of text (or factors) is replaced by numeric columns: the vectors of a text's tokens, of one
#' layer or of several, pooled. Nothing is estimated from the training set. [step_bert_embed()] gives what the
#' model itself makes of a text; this step reads what lies beneath, as probing studies do.
#'
#' @inheritParams step_bert_embed
#' @param model A model for feature extraction, from [bert_load()]; for other layers than the last, one that was
#'   exported with `bert_export(hidden_states = "all")`.
#' @param layers,aggregate_layers,special As in [bert_hidden()].
#' @param pooling How a text's tokens become one vector: `"mean"`, `"min"` or `"max"`.
#' @return The recipe, with the step. `recipes::tidy()` of the step gives a tibble with the columns
#'   `terms`, `layers`, `pooling`, `path` and `id`.
#' @examplesIf file.exists("embeddings.onnx") && rlang::is_installed("recipes") && bertonnx::bert_available()
#' model <- bert_load("embeddings.onnx")
#' reviews <- data.frame(text = c("What a lovely film!", "Far too long."), stars = c(5, 2))
#' rec <- recipes::recipe(stars ~ text, data = reviews) |>
#'   step_bert_hidden(text, model = model, pooling = "max") |>
#'   recipes::prep()
#' dim(recipes::bake(rec, new_data = NULL))
#' @export
step_bert_hidden <- function(
  recipe,
  ...,
  model,
  layers = -1L,
  aggregate_layers = "concatenate",
  pooling = "mean",
  special = TRUE,
  prompt = NULL,
  role = "predictor",
  trained = FALSE,
  columns = NULL,
  prefix = "bert",
  keep_original_cols = FALSE,
  skip = FALSE,
  id = recipes::rand_id("bert_hidden")
) {
  call <- rlang::current_env()
  rlang::check_installed("recipes", "for a recipe step.")
  check_model(model, call)
  check_prompt(prompt, call)
  step <- recipes::step(
    subclass = "bert_hidden",
    terms = rlang::enquos(...),
    model = model,
    layers = check_layers(layers),
    aggregate_layers = check_choice(aggregate_layers, c("concatenate", "mean", "min", "max")),
    pooling = check_choice(pooling, c("mean", "min", "max")),
    special = check_flag(special),
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

#' @export
new_columns.step_bert_hidden <- function(step, texts, column, call) {
  values <- bert_hidden(
    step$model, unname(texts),
    layers = step$layers, aggregate_layers = step$aggregate_layers, aggregate_tokens = step$pooling,
    special = step$special, prompt = step$prompt
  )
  columns_of(values, dimension_names(ncol(values), sprintf("%s_%s_", step$prefix, column)))
}

#' @exportS3Method recipes::prep
prep.step_bert_hidden <- function(x, training, info = NULL, ...) {
  prepared_step(x, training, info)
}

#' @exportS3Method recipes::bake
bake.step_bert_hidden <- function(object, new_data, ...) {
  baked(object, new_data, rlang::current_env())
}

#' @export
print.step_bert_hidden <- function(x, width = max(20, getOption("width") - 30), ...) {
  recipes::print_step(x$columns, x$terms, x$trained, "BERT token vectors, pooled, of ", width)
  invisible(x)
}

#' @exportS3Method recipes::tidy
tidy.step_bert_hidden <- function(x, ...) {
  terms <- if (recipes::is_trained(x)) x$columns else recipes::sel2char(x$terms)
  n <- length(terms)
  tibble::tibble(
    terms = as.character(terms),
    layers = rep(list(x$layers), n),
    pooling = rep(x$pooling, n),
    path = rep(x$model$path, n),
    id = rep(x$id, n)
  )
}

#' @exportS3Method recipes::required_pkgs
required_pkgs.step_bert_hidden <- function(x, ...) {
  "bertonnx"
}
