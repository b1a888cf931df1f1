#' Labels of texts
#'
#' @inheritParams bert_embed
#' @param model A model for text classification, from [bert_load()].
#' @param pair Second texts, for models that were trained on pairs: as many as `text`, or one.
#' @param top_n How many labels to give for each text, the best first.
#' @param raw_scores Whether scores are logits, as before softmax or sigmoid.
#' @return A tibble with the columns `.row` (which text), `label` (a factor with the model's labels
#'   as its levels, in the model's order) and `score`. `NA` gives a row of `NA`. Of a multi-label
#'   model, it has a row for each label with a score above 0.5, unless `top_n` is given. Of a
#'   regression model, it has a row for each of its outputs.
#' @seealso [predict.bert_model()] for a column for each label.
#' @examplesIf file.exists("sentiment.onnx") && bert_available()
#' model <- bert_load("sentiment.onnx")
#' bert_classify(model, c("What a lovely film!", "It was far too long.", NA))
#' bert_classify(model, "What a lovely film!", top_n = 2)
#' @export
bert_classify <- function(model, text, pair = NULL, top_n = 1L, raw_scores = FALSE) {
  call <- rlang::current_env()
  check_task(model, "text-classification", call)
  given <- !missing(top_n)
  top <- check_count(top_n)
  several <- identical(model$info$problem_type, "multi_label_classification")
  texts <- as_pairs(as_text(text), pair)
  asked <- if (given || !several) top
  raw_scores <- check_flag(raw_scores)
  options <- list(top_k = asked, raw_scores = raw_scores)
  found <- run_table(model, "labels", texts, options, call = call)
  with_na_rows(found, texts)
}
