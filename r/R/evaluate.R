#' Measure a model on labelled texts
#'
#' @param model A model for text classification or token classification, from [bert_load()].
#' @param data A data frame with texts and labels, or the path of a file, as in [bert_train()].
#' @param text,label,pair The names of its columns, as in [bert_train()].
#' @param min_f1 The least macro F1 that is enough (of a regression, the least correlation); `$enough` then says
#'   whether it was reached.
#' @param report A `.html` or `.json` file to write the whole report to; `NULL` for none.
#' @param x,object What was measured.
#' @param type What to draw: `"confusion"`, `"calibration"`, `"labels"`, or `"amounts"` of a regression; by default the
#'   first that there is.
#' @param ... Not used.
#' @return An object of class `bert_evaluation`, a list of tibbles: `metrics` (`metric`, `value`, and `low` and `high`,
#'   the bounds of its 95% interval), `labels` (`label`, `precision`, `recall`, `f1`, `rows`), `confusion` (`actual`,
#'   `predicted`, `rows`), `calibration` (`rows`, `confidence`, `accuracy`, in tenths), `baselines` (`baseline`,
#'   `metric`, `value`, and `better`: whether the model is better, beyond chance) and `mistakes` (`.row`, which
#'   row of the data, `text`, `label`, `predicted`, `score`) and `amounts` (of a regression, `actual` and `predicted` of up to
#'   1,000 rows); and `kind`, `rows`, `ece` (the calibration error), `enough` and `notes`.
#'   `summary()` gives `metrics`.
#' @examplesIf file.exists("sentiment.onnx") && bert_available()
#' model <- bert_load("sentiment.onnx")
#' data <- data.frame(
#'   text = c("fine", "awful", "so so", "great"),
#'   label = c("positive", "negative", "neutral", "positive")
#' )
#' measured <- try(bert_evaluate(model, data), silent = TRUE) # takes scikit-learn
#' measured
#' @export
bert_evaluate <- function(model, data, text = NULL, label = NULL, pair = NULL, min_f1 = NULL, report = NULL) {
  call <- rlang::current_env()
  check_model(model, call)
  given <- as_data(data, list(column = text, pair_column = pair, label_column = label), "data", call)
  on.exit(given$remove())
  options <- c(given$columns, list(
    min_f1 = if (!is.null(min_f1)) check_number(min_f1),
    report = if (!is.null(report)) path.expand(check_string(report))
  ))
  options <- options[!vapply(options, is.null, NA)]
  work <- engine_of_model(model, "evaluate", given$path, options, given$named, call = call)$work
  measured <- engine_wait(engine_of(model), work, function(state) invisible(), call)
  if (measured$truncated > 0) warn_cut(measured$truncated, measured$rows, model, call)
  as_evaluation(measured)
}

as_evaluation <- function(found) {
  text <- function(x) as.character(unlist(x))
  number <- function(x) {
    x <- as.double(unlist(x))
    replace(x, is.nan(x), NA_real_)
  }
  labels <- text(found$labels)
  n <- length(found$confusion) > 0
  structure(
    list(
      kind = found$kind,
      rows = found$rows,
      metrics = tibble::tibble(
        metric = text(found$metrics), value = number(found$values), low = number(found$low), high = number(found$high)
      ),
      labels = tibble::tibble(
        label = factor(labels, labels), precision = number(found$precision), recall = number(found$recall),
        f1 = number(found$f1), rows = number(found$of_label)
      ),
      confusion = tibble::tibble(
        actual = factor(if (n) rep(labels, each = length(labels)), labels),
        predicted = factor(if (n) rep(labels, length(labels)), labels),
        rows = number(found$confusion)
      ),
      calibration = tibble::tibble(
        rows = number(found$bin_rows), confidence = number(found$bin_confidence), accuracy = number(found$bin_accuracy)
      ),
      baselines = tibble::tibble(
        baseline = text(found$baselines), metric = text(found$baseline_metrics), value = number(found$baseline_values),
        better = nzchar(text(found$better))
      ),
      amounts = tibble::tibble(actual = number(found$actual), predicted = number(found$predicted)),
      mistakes = tibble::tibble(
        .row = as.integer(number(found$mistake_rows)), text = text(found$mistake_texts),
        label = text(found$mistake_labels), predicted = text(found$mistake_predicted),
        score = number(found$mistake_scores)
      ),
      ece = number(found$ece),
      enough = isTRUE(found$enough),
      notes = text(found$notes)
    ),
    class = "bert_evaluation"
  )
}

#' @rdname bert_evaluate
#' @export
format.bert_evaluation <- function(x, ...) {
  bounds <- ifelse(is.na(x$metrics$low), "", sprintf(" (95%%: %.3f to %.3f)", x$metrics$low, x$metrics$high))
  c(
    sprintf("<bert_evaluation: %s, %d rows>", gsub("_", " ", x$kind), as.integer(x$rows)),
    sprintf("%s %.3f%s", format(x$metrics$metric), x$metrics$value, bounds),
    if (length(x$notes) > 0) paste("note:", x$notes)
  )
}

#' @rdname bert_evaluate
#' @export
print.bert_evaluation <- function(x, ...) {
  cat(format(x), sep = "\n")
  invisible(x)
}

#' @rdname bert_evaluate
#' @export
summary.bert_evaluation <- function(object, ...) {
  object$metrics
}

EVALUATION_TYPES <- c("confusion", "calibration", "labels", "amounts")

evaluation_type <- function(x, type, call) {
  # Those that were saved by an older version have no amounts.
  there <- EVALUATION_TYPES[vapply(EVALUATION_TYPES, function(name) NROW(x[[name]]) > 0, NA)]
  if (is.null(type) && length(there) > 0) {
    return(there[[1]])
  }
  if (!rlang::is_string(type, there)) {
    advice <- if (length(there) > 0) "It can be {.or {.val {there}}}." else "Of {gsub('_', ' ', x$kind)} there is none."
    bert_abort(c("There is no such drawing of this evaluation.", "i" = advice), "input", call = call)
  }
  type
}

#' @rdname bert_evaluate
#' @export
plot.bert_evaluation <- function(x, type = NULL, ...) {
  type <- evaluation_type(x, type, rlang::current_env())
  switch(
    type,
    confusion = plot_confusion(x), calibration = plot_calibration(x), labels = plot_labels(x), amounts = plot_amounts(x)
  )
  invisible(x)
}

plot_confusion <- function(x) {
  labels <- levels(x$confusion$actual)
  n <- length(labels)
  counts <- matrix(x$confusion$rows, n, n, byrow = TRUE)
  shares <- counts / pmax(rowSums(counts), 1)
  graphics::image(
    seq_len(n), seq_len(n), t(shares[n:1, , drop = FALSE]),
    zlim = c(0, 1), col = grDevices::hcl.colors(20, "Blues", rev = TRUE),
    axes = FALSE, xlab = "predicted", ylab = "actual", main = "Confusion"
  )
  graphics::axis(1, seq_len(n), labels)
  graphics::axis(2, seq_len(n), rev(labels))
  dark <- as.vector(t(shares[n:1, , drop = FALSE])) > 0.6
  graphics::text(
    rep(seq_len(n), n), rep(seq_len(n), each = n), as.vector(t(counts[n:1, , drop = FALSE])),
    col = ifelse(dark, "white", "black")
  )
}

plot_calibration <- function(x) {
  bins <- x$calibration[x$calibration$rows > 0, ]
  graphics::plot(
    bins$confidence, bins$accuracy,
    xlim = c(0, 1), ylim = c(0, 1), pch = 19, col = "#276DC3", xlab = "score", ylab = "share that is right",
    main = "Calibration"
  )
  graphics::abline(0, 1, lty = 2)
}

plot_labels <- function(x) {
  graphics::barplot(
    stats::setNames(x$labels$f1, as.character(x$labels$label)),
    ylim = c(0, 1), ylab = "F1", col = "#276DC3", main = "F1 of each label"
  )
}

plot_amounts <- function(x) {
  graphics::plot(
    x$amounts$actual, x$amounts$predicted,
    pch = 19, cex = 0.7, col = "#276DC3", xlab = "actual", ylab = "predicted", main = "Predictions"
  )
  graphics::abline(0, 1, lty = 2)
}

#' @rdname bert_evaluate
#' @exportS3Method ggplot2::autoplot
autoplot.bert_evaluation <- function(object, type = NULL, ...) {
  call <- rlang::current_env()
  rlang::check_installed("ggplot2", "for autoplot().")
  type <- evaluation_type(object, type, call)
  data <- object[[type]]
  if (type == "labels") {
    return(
      ggplot2::ggplot(data, ggplot2::aes(x = .data[["label"]], y = .data[["f1"]])) +
        ggplot2::geom_col() +
        ggplot2::coord_cartesian(ylim = c(0, 1)) +
        ggplot2::labs(x = NULL, y = "F1")
    )
  }
  if (type == "calibration") {
    return(
      ggplot2::ggplot(data[data$rows > 0, ], ggplot2::aes(x = .data[["confidence"]], y = .data[["accuracy"]])) +
        ggplot2::geom_abline(linetype = "dashed") +
        ggplot2::geom_point(ggplot2::aes(size = .data[["rows"]])) +
        ggplot2::coord_equal(xlim = c(0, 1), ylim = c(0, 1)) +
        ggplot2::labs(x = "score", y = "share that is right")
    )
  }
  if (type == "amounts") {
    return(
      ggplot2::ggplot(data, ggplot2::aes(x = .data[["actual"]], y = .data[["predicted"]])) +
        ggplot2::geom_abline(linetype = "dashed") +
        ggplot2::geom_point()
    )
  }
  ggplot2::ggplot(data, ggplot2::aes(x = .data[["predicted"]], y = .data[["actual"]], fill = .data[["rows"]])) +
    ggplot2::geom_tile() +
    ggplot2::geom_text(ggplot2::aes(label = .data[["rows"]]), colour = "white") +
    ggplot2::labs(x = "predicted", y = "actual")
}
