#' Answers to questions
#'
#' @param model A model for question answering, from [bert_load()].
#' @param question A character vector.
#' @param context Where to look for the answer: as many texts as there are questions, or one for
#'   all. Contexts that are longer than the model takes are read in windows.
#' @param top_n How many answers to give to each question, at most, the best first.
#' @param no_answer Whether a question may be left without an answer, as models that were trained on
#'   SQuAD 2 can tell: `answer` is then empty.
#' @param raw_scores Whether `score` is the sum of the logits of the answer's start and end.
#' @inheritParams bert_embed
#' @return A tibble with the columns `.row` (which question), `answer`, `score`, `start` and `end`,
#'   so that `substring(context[.row], start, end)` are the answers (of one context for all,
#'   `substring(context, start, end)`). `NA` in either gives a row of `NA`.
#' @examplesIf file.exists("answers.onnx") && bert_available()
#' model <- bert_load("answers.onnx")
#' bert_answer(model, "Where did she live?", "Ada Lovelace lived in London.")
#' @export
bert_answer <- function(model, question, context, top_n = 1L, no_answer = FALSE, raw_scores = FALSE, progress = NULL) {
  call <- rlang::current_env()
  check_task(model, "question-answering", call)
  top <- check_count(top_n)
  if (is.null(context)) {
    abort_not_text(context, "context", call)
  }
  texts <- as_pairs(as_text(question), context, "context")
  if (!is.null(progress)) check_flag(progress)
  no_answer <- check_flag(no_answer)
  raw_scores <- check_flag(raw_scores)
  found <- run_table(
    model, "answers", texts, list(top_k = top, no_answer = no_answer, raw_scores = raw_scores),
    progress = progress, call = call
  )
  with_na_rows(found, texts)
}
