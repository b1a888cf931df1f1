#' A model on a server
#'
#' The functions of this package, answered by a server of the project (`bertonnx serve`): the same results, to
#' the last bit. No Python is needed here, only the package curl or httr2, and jsonlite.
#'
#' What needs the file itself ([bert_verify()], [bert_run()], [bert_evaluate()], [bert_benchmark()]) takes a model
#' from [bert_load()].
#'
#' @param url The server's address, such as `"http://127.0.0.1:8080"`.
#' @param model The model's name there; by default the first that the server has.
#' @param api_key The server's key, if it asks for one. It is a part of the object, and of a file that it is saved to;
#'   it is never printed.
#' @param timeout Seconds for an answer, with the time that a server which is too busy asks to wait.
#' @return An object of class `bert_model`, as from [bert_load()].
#' @examplesIf FALSE
#' model <- bert_remote("http://127.0.0.1:8080", "sentiment")
#' bert_classify(model, "What a lovely film!")
#' @export
bert_remote <- function(url, model = NULL, api_key = NULL, timeout = 60) {
  call <- rlang::current_env()
  check_string(url)
  if (!grepl("^https?://[^/]", url)) {
    bert_abort(
      c("{.arg url} must be an address.", "i" = "Such as {.val http://127.0.0.1:8080}."), "input",
      call = call
    )
  }
  if (!is.null(model)) check_string(model)
  if (!is.null(api_key)) check_string(api_key)
  timeout <- check_number(timeout)
  if (timeout <= 0) bert_abort("{.arg timeout} must be over 0.", "input", call = call)
  rlang::check_installed("jsonlite", "for models on servers.")
  arguments <- list(
    path = url, url = url, name = model, api_key = api_key, timeout = timeout, transport = server_transport(call)
  )
  opened_model("server", arguments, call)
}

server_transport <- function(call) {
  for (name in names(TRANSPORTS)) {
    if (requireNamespace(name, quietly = TRUE)) {
      return(name)
    }
  }
  bert_abort(
    c("A model on a server takes the package curl or httr2.", "i" = "Type {.code install.packages(\"curl\")}."),
    "missing_dependency",
    call = call
  )
}
