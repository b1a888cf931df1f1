#' Predict, the tidymodels way
#'
#' @param object A model, from [bert_load()].
#' @param new_data A character vector, or a data frame: the texts are then its column called `text`
#'   (`question`, for question answering), or the only column of text, unless `text` names another.
#' @param type Of text classification, what to predict: `"class"`, the best label, or `"prob"`, the
#'   score of every label; of regression, `"numeric"`, which is the only one.
#' @param pair Second texts, for models that were trained on pairs; of a data frame, the name of their column,
#'   by default `"pair"` if there is one.
#' @param text Of a data frame, the name of the column of texts.
#' @param top_n For a task that has no function here: how many results to list for each text.
#' @param prompt For a task that has no function here: as in [bert_embed()].
#' @param context Of question answering, where to look for the answers; of a data frame, the name of the
#'   column, by default `"context"`.
#' @param ... Arguments of the function for the model's task, where it is another.
#' @return A tibble with a row for each element of `new_data`: `.pred_class` (a factor; of a
#'   multi-label model a list of factors), or a column `.pred_<label>` for each label, or `.pred`.
#'   For models of other tasks, what [bert_embed()], [bert_entities()], [bert_answer()] or
#'   [bert_fill_mask()] returns; where a task has no function here, a tibble (or matrix) of what
#'   its results hold. Of embeddings of a data frame, a tibble with a column `.dim_1`, ... for each dimension.
#' @seealso [augment()] for predictions beside the data.
#' @examplesIf file.exists("sentiment.onnx") && bert_available()
#' model <- bert_load("sentiment.onnx")
#' predict(model, c("What a lovely film!", "It was far too long."))
#' predict(model, c("What a lovely film!", "It was far too long."), type = "prob")
#' @name predict.bert_model
NULL

#' @rdname predict.bert_model
#' @export
predict.bert_text_classification <- function(object, new_data, type = NULL, ..., text = NULL, pair = NULL) {
  rlang::check_dots_empty()
  call <- rlang::current_env()
  types <- prediction_types(object)
  type <- type %||% types[[1]]
  if (!rlang::is_string(type, types)) {
    bert_abort("{.arg type} must be {.or {.val {types}}} for this model.", "input", call = call)
  }
  texts <- new_texts(new_data, text, pair, call)
  switch(
    type,
    class = predict_class(object, texts, call),
    prob = predict_scores(object, texts, paste0(".pred_", object$info$labels), call),
    numeric = predict_scores(object, texts, numeric_names(object), call)
  )
}

#' @rdname predict.bert_model
#' @export
predict.bert_feature_extraction <- function(object, new_data, ..., text = NULL) {
  call <- rlang::current_env()
  if (!is.data.frame(new_data)) {
    return(bert_embed(object, new_text(new_data, text, call = call), ...))
  }
  values <- bert_embed(object, unname(new_text(new_data, text, call = call)), ...)
  tibble::new_tibble(columns_of(values, dimension_names(ncol(values), ".dim_")), nrow = nrow(values))
}

#' @rdname predict.bert_model
#' @export
predict.bert_token_classification <- function(object, new_data, ..., text = NULL) {
  bert_entities(object, new_text(new_data, text), ...)
}

#' @rdname predict.bert_model
#' @export
predict.bert_question_answering <- function(object, new_data, context = NULL, ..., text = NULL) {
  questions <- new_text(new_data, text, "question")
  contexts <- pair_of(new_data, context, "context")
  if (is.null(contexts)) abort_no_context("context", rlang::current_env())
  bert_answer(object, questions, contexts, ...)
}

#' @rdname predict.bert_model
#' @export
predict.bert_fill_mask <- function(object, new_data, ..., text = NULL) {
  bert_fill_mask(object, new_text(new_data, text), ...)
}

#' @rdname predict.bert_model
#' @export
predict.bert_model <- function(object, new_data, ..., text = NULL, pair = NULL, top_n = NULL, prompt = NULL) {
  rlang::check_dots_empty()
  call <- rlang::current_env()
  top <- if (!is.null(top_n)) check_count(top_n)
  check_prompt(prompt, call)
  texts <- new_texts(new_data, text, pair, call)
  predict_table(object, object$info$tables[[1]], texts, list(top_k = top, prompt = prompt), call = call)
}

# For a function that calls what it gets by another name: checked here, an error has the name of it here.
new_text <- function(new_data, text, usual = "text", call = rlang::caller_env()) {
  found <- as_text(text_of(new_data, text, usual, call = call), "new_data", call)
  stats::setNames(found$values, found$names)
}

new_texts <- function(new_data, text, pair, call) {
  texts <- as_text(text_of(new_data, text, call = call), "new_data", call)
  as_pairs(texts, pair_of(new_data, pair, call = call), call = call)
}

# A table of a task, as the matrix or tibble that it is.
predict_table <- function(model, table, texts, ...) {
  if (table %in% model$info$matrices) {
    found <- run_matrix(model, table, texts, ...)
    if (table == "scores") colnames(found) <- score_names(model, ncol(found))
    return(found)
  }
  with_na_rows(run_table(model, table, texts, ...), texts)
}

score_names <- function(model, width) {
  labels <- model$info$labels
  if (width > 1L && length(labels) == width) labels else if (width == 1L) "score" else dimension_names(width, "score_")
}

prediction_types <- function(model) {
  if (identical(model$info$problem_type, "regression")) "numeric" else c("class", "prob")
}

numeric_names <- function(model) {
  labels <- model$info$labels
  if (length(labels) == 1L) ".pred" else paste0(".pred_", labels)
}

predict_scores <- function(model, texts, names, call) {
  scores <- run_matrix(model, "scores", texts, call = call)
  columns <- lapply(seq_along(names), function(j) unname(scores[, j]))
  tibble::new_tibble(stats::setNames(columns, names), nrow = texts$n)
}

predict_class <- function(model, texts, call) {
  several <- identical(model$info$problem_type, "multi_label_classification")
  found <- run_table(model, "labels", texts, list(top_k = if (!several) 1L), call = call)
  labels <- found$label
  predicted <- if (several) {
    lists <- unname(split(labels, factor(found$row, seq_len(texts$n))))
    lists[-texts$present] <- list(labels[NA_integer_])
    if (length(texts$present) == 0) rep(list(labels[NA_integer_]), texts$n) else lists
  } else {
    labels[match(seq_len(texts$n), found$row)]
  }
  tibble::new_tibble(list(.pred_class = predicted), nrow = texts$n)
}
