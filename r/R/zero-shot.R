#' Labels of your own, without training
#'
#' A classifier of inference (NLI) says how far a text entails a sentence that is made of each label.
#'
#' @inheritParams bert_embed
#' @param model A model for text classification that was trained on inference, from [bert_load()] or
#'   [bert_remote()].
#' @param labels What the texts may be about, each once.
#' @param template What makes a sentence of a label, which stands in place of `{}`, in the language of the
#'   texts.
#' @param multi_label Whether each label is judged by itself, so that several may be true; else the scores of
#'   a text add up to 1. One label alone is always judged by itself.
#' @param entailment The model's own label that means entailment, where its name does not say so.
#' @param threshold With `multi_label`: give all labels with a score above it, which may be none.
#' @param top_n How many labels to give for each text, the best first; by default the best one.
#' @return A tibble with the columns `.row` (which text), `label` (a factor with your labels as its levels, in
#'   their order) and `score`. `NA` gives a row of `NA`.
#' @examplesIf file.exists("nli.onnx") && bert_available()
#' model <- bert_load("nli.onnx")
#' bert_zero_shot(model, "The team won the cup.", c("sports", "politics"), top_n = 2)
#' @export
bert_zero_shot <- function(
  model, text, labels, template = "This example is {}.", multi_label = FALSE, entailment = NULL,
  threshold = NULL, top_n = NULL
) {
  call <- rlang::current_env()
  check_model(model, call)
  labels <- as_text(labels)$values
  if (length(labels) == 0 || anyNA(labels)) {
    bert_abort("{.arg labels} must be at least one text, and none may be {.code NA}.", "input", call = call)
  }
  options <- list(
    labels = labels,
    template = check_string(template),
    multi_label = check_flag(multi_label),
    entailment = if (!is.null(entailment)) check_string(entailment),
    threshold = if (!is.null(threshold)) check_number(threshold),
    top_k = if (!is.null(top_n)) min(check_count(top_n), length(labels))
  )
  # What is as usual is not asked for.
  if (identical(template, "This example is {}.")) options$template <- NULL
  if (!multi_label) options$multi_label <- NULL
  texts <- as_text(text)
  with_na_rows(run_table(model, "zero_shot", texts, options, "zero_shot", call = call), texts)
}
