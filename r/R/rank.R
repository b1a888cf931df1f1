#' Rank documents for a query
#'
#' @param model A model for ranking (a cross-encoder), or of many vectors for a text (ColBERT), from
#'   [bert_load()] or [bert_remote()].
#' @param query What to rank for: one text, or several, each of which ranks all documents.
#' @param document A character vector: the texts to rank.
#' @param top_n How many of the best to give for each query; by default all.
#' @param raw_scores Whether scores are logits, as before sigmoid or what else the model makes scores with.
#' @return A tibble with a row for each query and document, the best first: `.query` (which query), `rank`,
#'   `.row` (which document; of equal scores, the first comes first) and `score`. A document that is `NA`
#'   comes last, with a score of `NA`; a query that is `NA` has `NA` for all.
#' @examplesIf file.exists("ranker.onnx") && bert_available()
#' model <- bert_load("ranker.onnx")
#' documents <- c("Paris is the capital of France.", "Cats sleep a lot.")
#' found <- bert_rank(model, "What is the capital of France?", documents)
#' documents[found$.row]
#' @export
bert_rank <- function(model, query, document, top_n = NULL, raw_scores = FALSE) {
  call <- rlang::current_env()
  check_model(model, call)
  top <- if (!is.null(top_n)) check_count(top_n) else Inf
  raw_scores <- check_flag(raw_scores)
  queries <- as_text(query)
  documents <- as_text(document)
  ranked <- lapply(queries$values, function(query) {
    scores <- rep(NA_real_, documents$n)
    if (!is.na(query)) {
      options <- list(query = query, raw_scores = raw_scores)
      found <- run_table(model, "ranks", documents, options, "rank", call = call)
      scores[found$row] <- found$score
    }
    # Of equal scores, the first document stays first.
    places <- utils::head(order(-scores), top)
    list(.row = places, score = scores[places])
  })
  lengths <- vapply(ranked, function(one) length(one$.row), 1L)
  tibble::tibble(
    .query = rep(seq_along(ranked), lengths),
    rank = sequence(lengths),
    .row = as.integer(unlist(lapply(ranked, `[[`, ".row"))),
    score = as.double(unlist(lapply(ranked, `[[`, "score")))
  )
}
