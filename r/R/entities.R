#' Entities in texts
#'
#' @inheritParams bert_embed
#' @param model A model for token classification, from [bert_load()].
#' @param aggregation How tokens become entities: `"simple"` joins neighbors of one kind;
#'   `"first"`, `"average"` and `"max"` also give all parts of a word one kind; `"none"` gives every
#'   token by itself.
#' @return A tibble with a row for each entity: `.row` (which text), `entity` (a factor of the
#'   model's kinds), `text`, `score`, `start` and `end`, so that `substring(text[.row], start, end)`
#'   are the entities. A text without entities has no row; `NA` has a row of `NA`.
#' @examplesIf file.exists("entities.onnx") && bert_available()
#' model <- bert_load("entities.onnx")
#' text <- c("Ada Lovelace lived in London.", "Nobody was there.")
#' bert_entities(model, text)
#' @export
bert_entities <- function(model, text, aggregation = "simple", progress = NULL) {
  call <- rlang::current_env()
  check_task(model, "token-classification", call)
  ways <- c("none", "simple", "first", "average", "max")
  if (!rlang::is_string(aggregation, ways)) {
    bert_abort("{.arg aggregation} must be {.or {.val {ways}}}.", "input", call = call)
  }
  if (!is.null(progress)) check_flag(progress)
  texts <- as_text(text)
  with_na_rows(run_table(model, "entities", texts, list(aggregation = aggregation), progress = progress, call = call), texts)
}
