#' Train a model on labelled texts
#'
#' Of an embedding file, a head is fitted on its vectors, which takes seconds and needs no PyTorch. Of a
#' checkpoint, all of it is fine-tuned and exported. Either way one verified file is written, measured on rows
#' that it was not trained on, and loaded.
#'
#' The training runs in a process of its own: PyTorch never enters R.
#'
#' @param base An embedding file, or a model loaded from one; or a checkpoint, as [bert_export()] takes it.
#' @param data A data frame, or the path of a `.csv`, `.tsv`, `.jsonl`, `.parquet` or `.arrow` file; for entities a
#'   CoNLL file.
#' @param path The file to write.
#' @param text,label The names of the columns that hold the texts and their labels; by default those that are
#'   called so. Several names for `label`, of columns of `TRUE` and `FALSE`, are labels of which each may hold, and so
#'   is a list of character vectors. Up to 50 different whole numbers are classes; other numbers are a regression.
#' @param pair The column of second texts, for a model of pairs.
#' @param group The column of what keeps rows together on one side of the split, such as a person.
#' @param problem_type `"single_label_classification"`, `"multi_label_classification"` or `"regression"`; by
#'   default as the labels are.
#' @param validation Data to measure on, as `data`; by default a share of `data`.
#' @param validation_share That share, in which each label has its own.
#' @param seed Of all that is drawn.
#' @param class_weights `"balanced"` lets rare labels count as much as common ones; or `"none"`.
#' @param epochs,batch_size,accumulate,learning_rate,patience Of fine-tuning: how often all rows are seen, at
#'   most; rows of a step; steps whose gradients are added up before the weights change; the rate, by default
#'   5e-5, and 3e-4 with `lora`; epochs without a better figure after which it ends.
#' @param lora Of fine-tuning: rank of adapters that are trained in place of all weights, and then merged.
#' @param resume Of fine-tuning: whether to go on with one that was stopped.
#' @param max_length Longest input in tokens.
#' @param quantize Of fine-tuning: whether to write an INT8 file.
#' @param measure_int8 Of fine-tuning: whether to measure what INT8 would cost.
#' @param force Whether to replace a file that is there.
#' @param revision,trust_remote_code,allow_pickle Of a checkpoint, as in [bert_export()].
#' @param report A `.html` or `.json` file to write the whole report to; `NULL` for none.
#' @param python The Python to train with; by default as [bert_export()] finds it.
#' @return A model, as from [bert_load()], of class `bert_trained`; `model$report` is what was measured, as
#'   [bert_evaluate()] returns it. `plot()` of the model draws it, and `autoplot()` with ggplot2.
#' @examplesIf FALSE
#' model <- bert_train("embeddings.onnx", reviews, "sentiment.onnx", text = "review", label = "stars")
#' model$report
#' plot(model)
#' bert_classify(model, "What a lovely film!")
#' @export
bert_train <- function(
  base, data, path = "model.onnx", text = NULL, label = NULL, pair = NULL, group = NULL, problem_type = NULL,
  validation = NULL, validation_share = 0.2, seed = 0L, class_weights = "none", epochs = 3L, batch_size = 16L,
  accumulate = 1L, learning_rate = NULL, patience = 2L, lora = NULL, resume = FALSE, max_length = NULL,
  quantize = FALSE, measure_int8 = TRUE, force = FALSE, revision = NULL, trust_remote_code = FALSE,
  allow_pickle = FALSE, report = NULL, python = NULL
) {
  call <- rlang::current_env()
  check_string(path)
  check_choice(class_weights, c("none", "balanced"))
  base <- training_base(base, call)
  counts <- list(
    epochs = epochs, batch_size = batch_size, accumulate = accumulate, patience = patience, lora = lora,
    max_length = max_length
  )
  for (name in names(counts)) if (!is.null(counts[[name]])) counts[[name]] <- check_count(counts[[name]], name, call)
  flags <- list(
    resume = resume, quantize = quantize, measure_int8 = measure_int8, force = force,
    trust_remote_code = trust_remote_code, allow_pickle = allow_pickle
  )
  for (name in names(flags)) check_flag(flags[[name]], name, call)
  columns <- list(column = text, pair_column = pair, label_column = label, group_column = group)
  given <- as_data(data, columns, "data", call)
  on.exit(given$remove())
  other <- if (!is.null(validation)) as_data(validation, columns, "validation", call)
  if (!is.null(other)) on.exit(other$remove(), add = TRUE)
  request <- c(
    list(
      base = base, data = given$path, output = path.expand(path), validation = other$path,
      problem_type = problem_type, validation_share = check_number(validation_share), seed = check_whole(seed),
      class_weights = class_weights, learning_rate = if (!is.null(learning_rate)) check_number(learning_rate),
      revision = revision, report = if (!is.null(report)) path.expand(check_string(report))
    ),
    given$columns, counts, flags
  )
  request <- request[!vapply(request, is.null, NA)]
  with_python <- training_python(base, python, call)
  started <- engine_ask("python", "train", with_python, request, c(given$named, other$named), call = call)
  measured <- engine_wait("python", started$work, function(state) {
    for (line in as.character(unlist(state$said))) cli::cli_verbatim(line)
  }, call)
  model <- bert_load(path)
  model$report <- as_evaluation(measured)
  class(model) <- c("bert_trained", class(model))
  model
}

training_base <- function(base, call) {
  if (inherits(base, "bert_model")) {
    if (!identical(base$info$task, "feature-extraction")) {
      bert_abort(
        c(
          "{.arg base} must be a model for feature-extraction, and this one is for {base$info$task}.",
          "i" = "Export the checkpoint with {.code task = \"feature-extraction\"}, or give the checkpoint itself."
        ),
        "task",
        call = call
      )
    }
    return(base$path)
  }
  check_string(base, "base", call)
  if (file.exists(base)) path.expand(base) else base
}

# A head on a file takes no PyTorch; all else takes what an export takes.
training_python <- function(base, python, call) {
  if (!is.null(python)) {
    return(check_string(python, "python", call))
  }
  if (endsWith(base, ".onnx")) {
    return(running_python(call))
  }
  python_to_export_with(call)
}

check_whole <- function(x, arg = rlang::caller_arg(x), call = rlang::caller_env()) {
  if (!is.numeric(x) || length(x) != 1L || is.na(x) || x != trunc(x) || x < 0 || x > .Machine$integer.max) {
    bert_abort("{.arg {arg}} must be a whole number of at least 0.", "input", call = call)
  }
  as.integer(x)
}

# Labelled rows as a file: `path`, the `columns` that were named, what messages call the file (`named`), and what
# removes it.
as_data <- function(data, columns, arg, call) {
  columns <- named_columns(columns, call)
  if (rlang::is_string(data)) {
    return(list(path = path.expand(data), columns = in_one(columns), remove = function() invisible()))
  }
  if (!is.data.frame(data)) {
    bert_abort("{.arg {arg}} must be a data frame, or the path of a file.", "input", call = call)
  }
  if (nrow(data) == 0) bert_abort("{.arg {arg}} has no rows.", "input", call = call)
  used <- used_columns(data, columns, arg, call)
  folder <- tempfile("bertonnx")
  dir.create(folder)
  # As Python writes it, by which messages know it again.
  path <- file.path(normalizePath(folder, winslash = "/"), paste0(arg, ".jsonl"))
  remove <- function() unlink(folder, recursive = TRUE)
  written <- FALSE
  on.exit(if (!written) remove())
  # Some at a time, between which R notices an interrupt.
  for (rows in split(seq_len(nrow(data)), (seq_len(nrow(data)) - 1L) %/% WRITTEN_ROWS)) {
    engine_ask("python", "write_rows", path, lapply(used, `[`, rows), call = call)
  }
  written <- TRUE
  named <- stats::setNames(list(paste0("`", arg, "`")), path)
  list(path = path, columns = in_one(columns), named = named, remove = remove)
}

# Several labels as Python takes them.
in_one <- function(columns) {
  if (length(columns$label_column) > 0) columns$label_column <- paste(columns$label_column, collapse = ",")
  columns
}

WRITTEN_ROWS <- 10000L

# One name each, but for labels.
named_columns <- function(columns, call) {
  for (name in setdiff(names(columns), "label_column")) {
    if (!is.null(columns[[name]])) check_string(columns[[name]], R_NAMES[[name]], call)
  }
  labels <- columns$label_column
  if (!is.null(labels) && (!is.character(labels) || length(labels) == 0 || anyNA(labels))) {
    bert_abort("{.arg label} must be names of columns.", "input", call = call)
  }
  columns
}

# The columns that are named, or all that can hold texts or labels, as what they are for Python.
used_columns <- function(data, columns, arg, call) {
  named <- unlist(columns[c("column", "pair_column", "label_column", "group_column")], use.names = FALSE)
  absent <- setdiff(named, names(data))
  if (length(absent) > 0) {
    bert_abort(
      c("{.arg {arg}} has no column {.val {absent}}.", "i" = "It has {.val {names(data)}}."),
      "input",
      call = call
    )
  }
  for (name in c("column", "pair_column")) if (!is.null(columns[[name]])) check_texts(data, columns[[name]], arg, call)
  all_named <- length(columns$column) > 0 && length(columns$label_column) > 0
  used <- as.list(if (all_named) data[unique(named)] else data)
  used <- lapply(used, plain_column)
  odd <- vapply(used, is.null, NA)
  if (any(odd & names(used) %in% named)) {
    bert_abort("The column {.val {intersect(named, names(used)[odd])}} of {.arg {arg}} is no vector.", "input", call = call)
  }
  used <- used[!odd]
  texts <- vapply(used, is.character, NA)
  used[texts] <- Map(function(column, name) {
    as_text(column, sprintf("%s$%s", arg, name), call)$values
  }, used[texts], names(used)[texts])
  used
}

# Dates and the like as they print, and nothing of what has rows of its own.
plain_column <- function(column) {
  if (length(dim(column)) > 0) {
    return(NULL)
  }
  if (is.list(column)) {
    return(unclass(column))
  }
  if (is.numeric(column) && !is.object(column)) {
    return(as.vector(column))
  }
  # As R names them: Python would make True of TRUE.
  as.character(column)
}

check_texts <- function(data, name, arg, call) {
  column <- data[[name]]
  if (is.character(column) || is.factor(column) || (is.atomic(column) && all(is.na(column)))) {
    return(invisible())
  }
  what <- class(column)[[1]]
  bert_abort("The column {.val {name}} of {.arg {arg}} must be text, and it is of class {.cls {what}}.", "input", call = call)
}

#' @rdname bert_train
#' @param x,object A trained model.
#' @param ... Arguments of [plot.bert_evaluation()].
#' @export
plot.bert_trained <- function(x, ...) {
  graphics::plot(x$report, ...)
  invisible(x)
}

#' @rdname bert_train
#' @exportS3Method ggplot2::autoplot
autoplot.bert_trained <- function(object, ...) {
  autoplot.bert_evaluation(object$report, ...)
}

#' @export
print.bert_trained <- function(x, ...) {
  NextMethod()
  print(x$report, ...)
  invisible(x)
}
