#' Labels of texts
#'
#' @inheritParams bert_embed
#' @param model A model for text classification, from [bert_load()].
#' @param pair Second texts, for models that were trained on pairs: as many as `text`, or one.
#' @param top_n How many labels to give for each text, the best first; by default the best one, or of a
#'   multi-label model those with a score above 0.5.
#' @param raw_scores Whether scores are logits, as before softmax or sigmoid.
#' @return A tibble with the columns `.row` (which text), `label` (a factor with the model's labels
#'   as its levels, in the model's order) and `score`. `NA` gives a row of `NA`. Of a multi-label
#'   model, it has a row for each label that it chooses. Of a
#'   regression model, it has a row for each of its outputs.
#' @seealso [predict.bert_model()] for a column for each label.
#' @examplesIf file.exists("sentiment.onnx") && bert_available()
#' model <- bert_load("sentiment.onnx")
#' bert_classify(model, c("What a lovely film!", "It was far too long.", NA))
#' bert_classify(model, "What a lovely film!", top_n = 2)
#' @export
bert_classify <- function(model, text, pair = NULL, top_n = NULL, raw_scores = FALSE, progress = NULL) {
  call <- rlang::current_env()
  check_task(model, "text-classification", call)
  if (!is.null(progress)) check_flag(progress)
  several <- identical(model$info$problem_type, "multi_label_classification")
  # Of several labels, those that the model chooses.
  asked <- if (!is.null(top_n)) check_count(top_n) else if (!several) 1L
  texts <- as_pairs(as_text(text), pair)
  raw_scores <- check_flag(raw_scores)
  options <- list(top_k = asked, raw_scores = raw_scores)
  found <- run_table(model, "labels", texts, options, progress = progress, call = call)
  with_na_rows(found, texts)
}
