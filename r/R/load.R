#' Load a model
#'
#' Opens a model file that [bert_export()] (or `bertonnx export`) made. The file holds all that is
#' needed: the network, the tokenizer, the labels. A folder that `optimum-cli` made works as well.
#'
#' The object can be saved with [saveRDS()], or sent to another process: there it opens the file
#' again, from the same path (see [bert_relocate()] for one that was moved), and makes sure that it is the same model. It cannot be used in a
#' process that was forked after a model was loaded (`parallel::mclapply()`); that is an error.
#'
#' @param path The file, or folder.
#' @param device `"cpu"`; `"cuda"`, which never becomes the CPU silently; or `"auto"`.
#' @param threads How many cores to use; by default all that this process may use.
#' @param max_length A shorter limit than the model's own, in tokens.
#' @param long_text What to do with a longer text: `"truncate"` it, with a warning of class
#'   `bertonnx_warning_truncated`; read it in overlapping windows (`"stride"`); or stop with an
#'   `"error"`. By default as suits the task.
#' @param tf32 Of CUDA: whether fp32 models may multiply in TF32, which is faster and exact to about
#'   three digits.
#' @param gpu_memory Of CUDA: GiB of the GPU's memory to use at most.
#' @return An object of class `bert_model`, and of a class for its task, such as
#'   `bert_feature_extraction`, `bert_text_classification`, `bert_token_classification`,
#'   `bert_question_answering` or `bert_fill_mask`. `summary()` gives a tibble of what the file says of itself.
#' @seealso [bert_embed()], [bert_classify()], [bert_entities()], [bert_answer()],
#'   [bert_fill_mask()], [predict.bert_model()]
#' @examplesIf file.exists("embeddings.onnx") && bert_available()
#' model <- bert_load("embeddings.onnx")
#' model
#' summary(model)
#' @export
bert_load <- function(path, device = "cpu", threads = NULL, max_length = NULL, long_text = NULL, tf32 = FALSE, gpu_memory = NULL) {
  call <- rlang::current_env()
  check_string(path)
  check_device(device, call)
  arguments <- list(
    # The folder may change before the model is opened again.
    path = normalizePath(path.expand(path), mustWork = FALSE),
    device = device,
    threads = if (!is.null(threads)) check_count(threads),
    max_length = if (!is.null(max_length)) check_count(max_length),
    long_text = if (!is.null(long_text)) check_string(long_text),
    tf32 = check_flag(tf32),
    gpu_memory = if (!is.null(gpu_memory)) check_number(gpu_memory)
  )
  collect_models(arguments$path)
  opened_model("python", arguments, call)
}

opened_model <- function(engine, arguments, call) {
  opened <- engine_open(engine, arguments, call)
  task <- paste0("bert_", gsub("-", "_", opened$info$task))
  parts <- list(info = as_info(opened$info), engine = engine, connection = new_connection(opened$handle))
  structure(c(arguments, parts), class = c(task, "bert_model"))
}

# R counts its own memory alone, and would keep models that nothing refers to for long.
collect_models <- function(path) {
  the$opened <- the$opened + max(file.size(path), FEWEST_BYTES, na.rm = TRUE)
  if (the$opened > MOST_BYTES) {
    the$opened <- 0
    gc(verbose = FALSE)
  }
}

# Of models that were opened since R's memory was last looked at.
MOST_BYTES <- 2e8
FEWEST_BYTES <- 2e7

check_device <- function(device, call) {
  if (!rlang::is_string(device, c("cpu", "cuda", "auto"))) {
    bert_abort("{.arg device} must be {.val cpu}, {.val cuda} or {.val auto}.", "input", call = call)
  }
}

# A vector of no elements comes over as a list.
as_info <- function(info) {
  for (name in c("labels", "tables", "matrices", "also", "prompts", "notes", "packages", "versions")) {
    info[[name]] <- as.character(unlist(info[[name]]))
  }
  info
}

# An environment, so that all copies of a model share one handle, also after it was opened again.
new_connection <- function(handle) {
  # This package's own as the parent: where a model is read from a file, the package is loaded with it.
  connection <- new.env(parent = topenv())
  connection$handle <- handle
  connection$pid <- Sys.getpid()
  connection
}

# The handle of an open model; after readRDS(), and in another process, of the file opened again.
live_handle <- function(model, call) {
  check_model(model, call)
  connection <- model$connection
  if (isTRUE(connection$closed)) {
    bert_abort(
      c("This model was closed.", "i" = "Load it again: {.code bert_load(\"{model$path}\")}."),
      "usage",
      call = call
    )
  }
  engine <- engine_of(model)
  if (!identical(connection$pid, Sys.getpid()) || !engine_function(engine, "alive", call)(connection$handle)) {
    if (!is.null(engines[[engine]]$golden)) {
      # The engine reads files, and these may have moved.
      model$path <- present_path(model)
      check_present(model$path, call)
    }
    own <- c("info", "engine", "connection")
    opened <- engine_open(engine, unclass(model)[setdiff(names(model), own)], call)
    check_same_model(model, opened$info, call)
    connection$handle <- opened$handle
    connection$pid <- Sys.getpid()
  }
  connection$handle
}

check_model <- function(model, call) {
  if (!inherits(model, "bert_model")) {
    what <- class(model)[[1]]
    bert_abort(
      c(
        "{.arg model} must be a model, and it is of class {.cls {what}}.",
        "i" = "Load one with {.code bert_load(\"model.onnx\")}."
      ),
      "input",
      call = call
    )
  }
}

check_same_model <- function(model, info, call) {
  decisive <- c("task", "weights_sha256", "tokenizer_sha256")
  if (!identical(model$info[decisive], info[decisive])) {
    bert_abort(
      c(
        "{.file {model$path}} is another model now than when this object was made.",
        "i" = "Load it as what it is: {.code bert_load(\"{model$path}\")}."
      ),
      "model_file",
      call = call
    )
  }
}

METHODS <- c(
  "feature-extraction" = "bert_embed",
  "text-classification" = "bert_classify",
  "token-classification" = "bert_entities",
  "question-answering" = "bert_answer",
  "fill-mask" = "bert_fill_mask",
  "text-ranking" = "bert_rank",
  "sparse-embedding" = "bert_embed_sparse",
  "multi-vector" = "bert_hidden"
)

check_task <- function(model, task, call) {
  check_model(model, call)
  if (identical(model$info$task, task)) {
    return(invisible())
  }
  asked <- METHODS[[task]]
  serving <- if (model$info$task %in% names(METHODS)) METHODS[[model$info$task]] else "predict"
  bert_abort(
    c(
      "{.fn {asked}} needs a model for {task}, and this one is for {model$info$task}.",
      "i" = "Call {.fn {serving}}, or export the checkpoint with {.code task = \"{task}\"}."
    ),
    "task",
    call = call
  )
}

#' Close a model
#'
#' Gives back the memory and the threads of a model, without waiting for R to collect what is no longer
#' used. It cannot be used afterwards, and neither can copies of it.
#'
#' @param con A model, from [bert_load()] or [bert_remote()].
#' @param ... Not used.
#' @return `NULL`, invisibly. Closing a model twice does no harm.
#' @examplesIf file.exists("embeddings.onnx") && bert_available()
#' model <- bert_load("embeddings.onnx")
#' close(model)
#' @export
close.bert_model <- function(con, ...) {
  connection <- con$connection
  here <- identical(connection$pid, Sys.getpid()) && !isTRUE(connection$closed)
  connection$closed <- TRUE
  engine <- engine_of(con)
  if (here && engine_function(engine, "alive", NULL)(connection$handle)) {
    engine_ask(engine, "close", connection$handle, call = rlang::current_env())
  }
  connection$handle <- NULL
  invisible()
}

#' @export
format.bert_model <- function(x, ...) {
  info <- x$info
  what <- switch(
    info$task,
    "feature-extraction" = sprintf("%d columns", info$width),
    "text-classification" = ,
    "token-classification" = paste("labels", toString(info$labels, width = 60)),
    "fill-mask" = paste("mask", info$mask_token)
  )
  facts <- c(info$family, info$precision, info$provider, sprintf("up to %d tokens", info$max_length), what)
  c(paste0("<bert_model: ", info$task, ">"), x$path, toString(facts))
}

#' @export
print.bert_model <- function(x, ...) {
  cat(format(x, ...), sep = "\n")
  invisible(x)
}

#' @export
summary.bert_model <- function(object, ...) {
  info <- object$info
  facts <- list(
    path = object$path,
    task = info$task,
    family = info$family,
    source = info$source,
    revision = info$revision,
    labels = toString(info$labels),
    problem_type = info$problem_type,
    width = if (info$width > 0) format(info$width),
    pooling = info$pooling,
    prompts = toString(info$prompts),
    default_prompt = info$default_prompt,
    max_length = format(info$max_length),
    precision = info$precision,
    device = info$provider,
    size = if (!is.na(info$bytes)) paste(format(round(info$bytes / 2^20, 1), nsmall = 1), "MB"),
    weights_sha256 = info$weights_sha256,
    difference_from_pytorch = if (!is.nan(info$parity)) format(info$parity, digits = 3),
    made_with = toString(paste(info$packages, info$versions)),
    note = paste(info$notes, collapse = "; ")
  )
  facts <- facts[vapply(facts, function(fact) isTRUE(nzchar(fact)), NA)]
  tibble::tibble(fact = names(facts), value = unlist(facts, use.names = FALSE))
}
