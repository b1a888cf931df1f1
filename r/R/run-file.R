#' Run a model on a file
#'
#' From file to file, a result for each row, in memory that does not grow with the file. What was interrupted
#' can be resumed.
#'
#' @inheritParams bert_embed
#' @inheritParams bert_zero_shot
#' @param model A model of any task, from [bert_load()].
#' @param input A `.txt` (one text a line), `.csv`, `.tsv`, `.jsonl`, `.parquet` or `.arrow` file.
#' @param path The file to write: `.jsonl`, `.csv`, `.tsv`, `.parquet`, `.arrow` or `.npy`; an existing one is
#'   replaced. Parquet and Arrow take the Python package pyarrow, which `bert_install(extras = "arrow")` brings.
#' @param text,pair The columns, or JSON fields, that hold the text and the second text of a pair; by default
#'   those that are called like one.
#' @param resume Whether to go on with an output that an earlier run did not finish.
#' @param on_error `"record"` writes the error in place of a failed row's result; `"fail"` raises it.
#' @param csv_safe Of CSV: whether texts are written so that a spreadsheet takes none for a formula.
#' @param manifest A file for what was read, with what, and what was written; `NULL` for none.
#' @param top_n How many candidates a result lists; by default as the task has it.
#' @param aggregation,no_answer,raw_scores As in [bert_entities()], [bert_answer()] and [bert_classify()].
#' @param query Of ranking: what each text is scored for.
#' @param task Of a file that serves several tasks, the one to answer.
#' @param labels Of zero-shot classification: what the texts may be about.
#' @param threshold Of several labels, those with a score above it are chosen; by default 0.5.
#' @param progress Whether to show a progress bar; by default where R is used interactively.
#' @return A tibble of one row, invisibly: `path`, `rows`, `errors` (rows that carry one), `truncated` (rows
#'   whose text was cut), `resumed` (rows that were there already) and `seconds`. Errors and texts that were cut
#'   are also said, once.
#' @examplesIf file.exists("sentiment.onnx") && bert_available()
#' model <- bert_load("sentiment.onnx")
#' reviews <- tempfile(fileext = ".csv")
#' write.csv(data.frame(text = c("Lovely!", "Too long.")), reviews, row.names = FALSE)
#' out <- tempfile(fileext = ".csv")
#' bert_run(model, reviews, out)
#' read.csv(out)
#' @export
bert_run <- function(
  model, input, path, text = NULL, pair = NULL, resume = FALSE, on_error = "record", csv_safe = FALSE,
  manifest = NULL, top_n = NULL, aggregation = "simple", prompt = NULL, no_answer = FALSE, raw_scores = FALSE,
  query = NULL, task = NULL, dimensions = NULL, normalize = NULL, encoding = "float32", labels = NULL,
  template = "This example is {}.", multi_label = FALSE, entailment = NULL, threshold = NULL, chunks = FALSE,
  progress = NULL
) {
  call <- rlang::current_env()
  check_model(model, call)
  if (is.data.frame(input)) {
    bert_abort(
      c(
        "{.arg input} must be the path of a file, and it is a data frame.",
        "i" = "{.code augment(model, {typed('input', call)})} gives the results beside its columns."
      ),
      "input",
      call = call
    )
  }
  check_string(input)
  check_string(path)
  if (!file.exists(input)) {
    bert_abort("There is no file {.file {input}}.", "input", call = call)
  }
  check_choice(on_error, c("record", "fail"))
  check_choice(aggregation, AGGREGATIONS)
  if (!is.null(progress)) check_flag(progress)
  check_prompt(prompt, call)
  texts <- list(
    column = text, pair_column = pair, manifest = if (!is.null(manifest)) path.expand(manifest), query = query,
    task = task, entailment = entailment, template = template, aggregation = aggregation, on_error = on_error
  )
  for (name in names(texts)) if (!is.null(texts[[name]])) check_string(texts[[name]], R_NAMES[[name]] %||% name, call)
  options <- c(
    texts,
    embedding_options(prompt, dimensions, normalize, encoding, call),
    list(
      resume = check_flag(resume), csv_safe = check_flag(csv_safe), no_answer = check_flag(no_answer),
      raw_scores = check_flag(raw_scores), multi_label = check_flag(multi_label), chunks = check_flag(chunks),
      top_k = if (!is.null(top_n)) check_count(top_n),
      threshold = if (!is.null(threshold)) check_number(threshold),
      labels = if (!is.null(labels)) as_text(labels)$values
    )
  )
  options <- options[!vapply(options, is.null, NA)]
  work <- engine_of_model(model, "run_file", path.expand(input), path.expand(path), options, call = call)$work
  ran <- engine_wait(engine_of(model), work, bytes_bar(progress), call)
  say_ran(ran, path, model)
  invisible(tibble::tibble(
    path = path, rows = ran$rows, errors = ran$errors, truncated = ran$truncated, resumed = ran$resumed_rows,
    seconds = ran$seconds
  ))
}

AGGREGATIONS <- c("none", "simple", "first", "average", "max")

# What Python calls otherwise.
R_NAMES <- list(column = "text", pair_column = "pair", label_column = "label", group_column = "group")

# Of bytes, since nobody counted the rows.
bytes_bar <- function(progress, .envir = parent.frame()) {
  if (!(progress %||% rlang::is_interactive())) {
    return(function(state) invisible())
  }
  id <- NULL
  function(state) {
    if (is.null(id) && state$total > 0) {
      id <<- cli::cli_progress_bar("Predicting", total = state$total, .envir = .envir)
    }
    if (!is.null(id)) cli::cli_progress_update(set = min(state$done, state$total), id = id, .envir = .envir)
  }
}

say_ran <- function(ran, path, model) {
  for (note in as.character(unlist(ran$notes))) cli::cli_inform(c("i" = "{note}"))
  if (ran$errors > 0) {
    cli::cli_warn(
      "{ran$errors} of {ran$rows} row{?s} of {.file {path}} carr{?ies/y} an error in place of a result.",
      class = c("bertonnx_warning_rows", "bertonnx_warning")
    )
  }
  if (ran$truncated > 0) warn_cut(ran$truncated, ran$rows, model, NULL)
}
