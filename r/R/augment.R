#' Predictions beside the data
#'
#' `augment()` gives a data frame back with what a model predicts for its texts in further columns, one row
#' for each that there was. `bert_augment()` does the same with the data first, for pipes, and takes columns by
#' their bare names.
#'
#' @param x,model A model, from [bert_load()].
#' @param new_data,.data A data frame.
#' @param text Which column holds the texts (the questions, for question answering): for `augment()` its name,
#'   for `bert_augment()` an expression of columns, such as `review` or `paste(title, body)`. By default the
#'   column called `text` (`question`), or the only one of text.
#' @param pair The same of the second texts (the contexts, for question answering). By default the column called
#'   `pair` (`context`), if there is one.
#' @param ... For `bert_augment()`: not used. For `augment()`: as for the model's function, such as
#'   `aggregation` for entities.
#' @return A tibble: the data, and of text classification `.pred_class` and a column `.pred_<label>` for each
#'   label, of regression `.pred`, of embeddings a column `.dim_1`, ... for each dimension, of question answering
#'   `.answer`, `.score`, `.start` and `.end`; of entities and masked words a list of tibbles, `.entities` or
#'   `.masks`; of ranking `.score`; of other tasks a list of tibbles, `.results`. Groups stay as they are.
#' @examplesIf file.exists("sentiment.onnx") && bertonnx::bert_available()
#' model <- bert_load("sentiment.onnx")
#' reviews <- data.frame(id = 1:2, review = c("What a lovely film!", "It was far too long."))
#' augment(model, reviews)
#' reviews |> bert_augment(model, toupper(review))
#' @name augment.bert_model
NULL

#' @importFrom generics augment
#' @export
generics::augment

#' @rdname augment.bert_model
#' @export
augment.bert_model <- function(x, new_data, ..., text = NULL, pair = NULL) {
  call <- rlang::current_env()
  check_frame(new_data, "new_data", call)
  usual <- usual_columns(x)
  texts <- text_of(new_data, text, usual[["text"]], "text", call)
  pairs <- pair_of(new_data, pair, usual[["pair"]], call)
  with_columns(new_data, added_columns(x, texts, pairs, ..., call = call), call)
}

#' @rdname augment.bert_model
#' @export
bert_augment <- function(.data, model, text = NULL, ..., pair = NULL) {
  rlang::check_dots_empty()
  call <- rlang::current_env()
  check_model(model, call)
  check_frame(.data, ".data", call)
  usual <- usual_columns(model)
  texts <- column_values(rlang::enquo(text), .data, "text", call)
  pairs <- column_values(rlang::enquo(pair), .data, "pair", call)
  texts <- text_of(if (is.null(texts)) .data else texts, NULL, usual[["text"]], "text", call)
  pairs <- if (is.null(pairs)) pair_of(.data, NULL, usual[["pair"]], call) else pairs
  with_columns(.data, added_columns(model, texts, pairs, call = call), call)
}

abort_no_context <- function(arg, call) {
  bert_abort(
    c(
      "Nothing says where to look for the answers.",
      "i" = "Give {.arg {arg}}: of a data frame the name of the column, by default {.val context}."
    ),
    "input",
    call = call
  )
}

check_frame <- function(x, arg, call) {
  if (!is.data.frame(x)) {
    what <- class(x)[[1]]
    bert_abort("{.arg {arg}} must be a data frame, and it is of class {.cls {what}}.", "input", call = call)
  }
}

# A bare name or an expression; a text that names a column stands for it.
column_values <- function(quosure, data, arg, call) {
  values <- rlang::try_fetch(rlang::eval_tidy(quosure, data), error = function(error) {
    bert_abort(
      c("{.arg {arg}} cannot be made of the columns.", "i" = "There are {.val {names(data)}}."),
      "input",
      parent = error, call = call
    )
  })
  if (rlang::is_string(values) && values %in% names(data)) data[[values]] else values
}

usual_columns <- function(model) {
  if (inherits(model, "bert_question_answering")) {
    c(text = "question", pair = "context")
  } else {
    c(text = "text", pair = "pair")
  }
}

# A list of columns of as many elements as there are texts. Each predicts once, so that what was cut is said once.
added_columns <- function(model, texts, pairs, ..., call) {
  UseMethod("added_columns")
}

#' @export
added_columns.bert_feature_extraction <- function(model, texts, pairs, ..., call) {
  values <- unname(bert_embed(model, unname(texts), ...))
  columns_of(values, dimension_names(ncol(values), ".dim_"))
}

#' @export
added_columns.bert_text_classification <- function(model, texts, pairs, ..., call) {
  rlang::check_dots_empty(call = call)
  input <- as_pairs(as_text(texts, "text", call), pairs, call = call)
  if (identical(model$info$problem_type, "regression")) {
    return(unclass_columns(predict_scores(model, input, numeric_names(model), call)))
  }
  labels <- model$info$labels
  # All labels of each text, best first: the scores and, by their order, what is predicted.
  found <- bert_classify(model, texts, pair = pairs, top_n = length(labels))
  scores <- matrix(NA_real_, input$n, length(labels))
  here <- !is.na(found$label)
  scores[cbind(found$.row[here], as.integer(found$label)[here])] <- found$score[here]
  several <- identical(model$info$problem_type, "multi_label_classification")
  classes <- if (several) classes_above(found, input$n) else found$label[match(seq_len(input$n), found$.row)]
  c(list(.pred_class = classes), columns_of(scores, paste0(".pred_", labels)))
}

# Those that predict() gives, in its order, which is the model's.
classes_above <- function(found, n) {
  lapply(seq_len(n), function(row) {
    mine <- found[found$.row == row, ]
    above <- mine$label[is.na(mine$label) | mine$score > 0.5]
    above[order(as.integer(above))]
  })
}

#' @export
added_columns.bert_token_classification <- function(model, texts, pairs, ..., call) {
  list(.entities = nested(bert_entities(model, unname(texts), ...), length(texts)))
}

#' @export
added_columns.bert_fill_mask <- function(model, texts, pairs, ..., call) {
  list(.masks = nested(bert_fill_mask(model, unname(texts), ...), length(texts)))
}

#' @export
added_columns.bert_question_answering <- function(model, texts, pairs, ..., call) {
  if (is.null(pairs)) {
    abort_no_context("pair", call)
  }
  found <- bert_answer(model, unname(texts), unname(pairs), ...)
  dotted(found[match(seq_along(texts), found$.row), ])
}

#' @export
added_columns.default <- function(model, texts, pairs, ..., call) {
  found <- stats::predict(model, unname(texts), pair = unname(pairs), ...)
  if (is.matrix(found)) {
    return(columns_of(found, paste0(".", colnames(found))))
  }
  # Also where each text happens to have one: the columns do not depend on what is in the texts.
  list(.results = nested(found, length(texts)))
}

dotted <- function(found) {
  found <- unclass(found)[setdiff(names(found), ".row")]
  attributes(found) <- list(names = paste0(".", names(found)))
  found
}

# A tibble for each text, with no row where nothing was found.
nested <- function(found, n) {
  rows <- factor(found$.row, seq_len(n))
  unname(split(found[setdiff(names(found), ".row")], rows))
}

#' @export
levels.bert_model <- function(x) {
  labels <- x$info$labels
  if (!inherits(x, "bert_token_classification")) {
    return(if (length(labels) > 0) labels)
  }
  # As those of bert_entities(): "B-PER" and "I-PER" are one kind.
  setdiff(unique(sub("^[^-]*-", "", labels)), "O")
}
