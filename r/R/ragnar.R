#' Embeddings for a store of ragnar's
#'
#' Give it to `ragnar_store_create(embed = )`. The store keeps the path of the model's file, so that
#' it can be connected to from another session; the file is opened once in each.
#'
#' @param x A character vector; a data frame with a column `text`, as ragnar's chunks are; or nothing, for a
#'   function of `x` alone, which is what a store takes.
#' @param model A model for feature extraction, from [bert_load()], or the path of its file.
#' @param prompt As in [bert_embed()]. A store embeds questions and texts with the same function, and so with
#'   the same prompt.
#' @return A matrix with a row for each text; of a data frame, the data frame with such a matrix as its column
#'   `embedding`; of nothing, a function.
#' @examplesIf file.exists("embeddings.onnx") && bertonnx::bert_available()
#' embed <- embed_bertonnx(model = "embeddings.onnx")
#' dim(embed(c("A text", "another")))
#' \dontrun{
#' embed <- embed_bertonnx(model = "embeddings.onnx")
#' # With the package ragnar attached:
#' store <- ragnar_store_create("store.duckdb", embed = embed)
#' }
#' @export
embed_bertonnx <- function(x, model, prompt = NULL) {
  call <- rlang::current_env()
  check_prompt(prompt, call)
  loaded <- if (rlang::is_string(model)) loaded_once(model) else model
  check_task(loaded, "feature-extraction", call)
  if (missing(x) || is.null(x)) {
    # A store takes the function's environment away: what it needs is written into it.
    body <- rlang::call2("embed_bertonnx", quote(x), model = loaded$path, prompt = prompt, .ns = "bertonnx")
    return(rlang::new_function(rlang::pairlist2(x = ), body, baseenv()))
  }
  if (is.data.frame(x)) {
    if (!"text" %in% names(x)) {
      bert_abort(c("{.arg x} has no column {.val text}.", "i" = "It has {.val {names(x)}}."), "input", call = call)
    }
    texts <- as_text(unname(x[["text"]]), "x$text", call)
    x[["embedding"]] <- unname(run_matrix(loaded, "embeddings", texts, list(prompt = prompt), call = call))
    return(x)
  }
  unname(run_matrix(loaded, "embeddings", as_text(x, "x", call), list(prompt = prompt), call = call))
}

# A model of this session for a path, opened again when the file is another.
loaded_once <- function(path) {
  file <- normalizePath(path.expand(path), mustWork = FALSE)
  state <- paste(file, file.size(file), as.numeric(file.mtime(file)))
  if (is.null(the$loaded[[state]])) the$loaded <- stats::setNames(list(bert_load(file)), state)
  the$loaded[[state]]
}
