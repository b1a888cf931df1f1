#' How texts reach a model
#'
#' @inheritParams bert_embed
#' @param model A model of any task, from [bert_load()].
#' @param pair Second texts: as many as `text`, or one.
#' @return A tibble with a row for each token: `.row` (which text), `position`, `token`, `id`,
#'   `type_id` (0 for the text, 1 for the pair, where the model tells them apart), `start` and `end`,
#'   so that `substring(text[.row], start, end)` is what each token stands for (of a pair's token, in `pair`),
#'   and `special`. `start` and `end` are `NA` for tokens that stand for no text. What a model would
#'   cut is not there; where it reads in windows, they follow one another.
#' @examplesIf file.exists("embeddings.onnx") && bert_available()
#' model <- bert_load("embeddings.onnx")
#' bert_tokenize(model, "A caf\u00e9 in Z\u00fcrich")
#' @export
bert_tokenize <- function(model, text, pair = NULL, prompt = NULL) {
  call <- rlang::current_env()
  check_model(model, call)
  check_prompt(prompt, call)
  texts <- as_pairs(as_text(text), pair)
  with_na_rows(bound(engine_tokenize(model, texts, prompt, call), model, texts, NULL, call), texts)
}
