#' How fast a model is, in R and in Python alone
#'
#' Predicts the same texts in R, and in Python without R, several times in turn.
#'
#' Two numbers say what R costs. `ratio` is R's time over Python's, and as noisy as the machine.
#' `outside` is measured within a single run: the share of R's time that was not spent in Python's
#' runtime, but on the way there and back.
#'
#' @param model A model, from [bert_load()], of any task but question answering.
#' @param text Texts to predict, such as your own; the default is short English sentences, all
#'   different.
#' @param n How many texts, one or several numbers; `text` is repeated to be as many. Repeated texts
#'   may take less time than different ones.
#' @param times How often each is measured.
#' @param x,object A benchmark.
#' @param ... Not used.
#' @return `bert_benchmark()`: a tibble of class `bert_benchmark`, with a row for each measurement:
#'   `engine` (a factor: `"python"`, `"r"`), `n`, `run`, `seconds`, `outside` (seconds of R's that were
#'   not Python's) and `texts_per_second`; `summary()` gives medians: `python` and `r` in seconds,
#'   `ratio`, `outside` as a share of `r`, and R's `texts_per_second`. `plot()` draws it, `autoplot()` with
#'   ggplot2.
#' @examplesIf file.exists("embeddings.onnx") && bert_available()
#' model <- bert_load("embeddings.onnx")
#' result <- bert_benchmark(model, n = c(10, 100), times = 2)
#' summary(result)
#' plot(result)
#' @export
bert_benchmark <- function(model, text = NULL, n = c(1, 100, 1000), times = 3L) {
  call <- rlang::current_env()
  check_model(model, call)
  if (isTRUE(model$info$pairs)) {
    bert_abort("A model of text pairs cannot be measured with single texts.", "task", call = call)
  }
  times <- check_count(times)
  n <- vapply(n, check_count, 1L, arg = "n", call = call)
  if (max(n) > MOST_TEXTS) {
    bert_abort("{.arg n} is at most {MOST_TEXTS}: all texts are in memory at once.", "usage", call = call)
  }
  text <- if (is.null(text)) sentences_for(model, max(n)) else as_text(text)$values
  text <- text[!is.na(text)]
  if (length(text) == 0) {
    bert_abort("{.arg text} holds no text.", "input", call = call)
  }
  # The first prediction of a process is slower than all others.
  engine_of_model(model, "timed", text[1], call = call)
  plan <- expand.grid(engine = c("python", "r"), run = seq_len(times), n = n, stringsAsFactors = FALSE)
  measured <- mapply(function(engine, n) {
    texts <- rep_len(text, n)
    if (engine == "python") seconds_in_python(model, texts, call) else seconds_in_r(model, texts)
  }, plan$engine, plan$n)
  result <- tibble::tibble(
    engine = factor(plan$engine, c("python", "r")),
    n = plan$n,
    run = plan$run,
    seconds = measured[1, ],
    outside = measured[2, ],
    texts_per_second = plan$n / measured[1, ]
  )
  class(result) <- c("bert_benchmark", class(result))
  result
}

MOST_TEXTS <- 10000000L

seconds_in_python <- function(model, texts, call) {
  c(engine_of_model(model, "timed", texts, call = call)$seconds, 0)
}

seconds_in_r <- function(model, texts) {
  before <- the$predicting
  started <- Sys.time()
  switch(
    model$info$task,
    "feature-extraction" = bert_embed(model, texts, progress = FALSE),
    "text-classification" = bert_classify(model, texts),
    "token-classification" = bert_entities(model, texts),
    "fill-mask" = bert_fill_mask(model, texts),
    stats::predict(model, texts)
  )
  seconds <- as.double(Sys.time() - started, units = "secs")
  c(seconds, seconds - (the$predicting - before))
}

sentences_for <- function(model, n) {
  who <- c("The old captain", "A young doctor", "Nobody in town", "My neighbour's cat", "The committee")
  what <- c("saw", "had forgotten", "talked about", "was fond of")
  whom <- c("the harbour.", "a letter from Lisbon", "that long, wet and uneventful summer!", "it?")
  sentences <- do.call(paste, expand.grid(who, what, whom, stringsAsFactors = FALSE))
  # All different: a text that comes again need not be predicted again.
  sentences <- paste0("Day ", seq_len(n), ": ", rep_len(sentences, n))
  if (identical(model$info$task, "fill-mask")) paste(sentences, model$info$mask_token) else sentences
}

#' @rdname bert_benchmark
#' @export
summary.bert_benchmark <- function(object, ...) {
  sizes <- sort(unique(object$n))
  medians <- function(engine, values) {
    vapply(sizes, function(n) stats::median(values[object$engine == engine & object$n == n]), 0)
  }
  python <- medians("python", object$seconds)
  r <- medians("r", object$seconds)
  tibble::tibble(
    n = sizes,
    python = python,
    r = r,
    ratio = r / python,
    outside = medians("r", object$outside / object$seconds),
    texts_per_second = sizes / r
  )
}

#' @rdname bert_benchmark
#' @export
plot.bert_benchmark <- function(x, ...) {
  medians <- summary(x)
  colours <- c(python = "#7A7A7A", r = "#276DC3")
  graphics::plot(
    range(x$n), range(x$texts_per_second),
    type = "n", log = "xy", xlab = "texts", ylab = "texts per second", main = "Texts per second"
  )
  for (engine in names(colours)) {
    rows <- x$engine == engine
    graphics::points(x$n[rows], x$texts_per_second[rows], col = colours[[engine]], pch = 19)
    graphics::lines(medians$n, medians$n / medians[[engine]], col = colours[[engine]])
  }
  graphics::legend("topleft", c("Python alone", "R"), col = colours, pch = 19, lty = 1, bty = "n")
  invisible(x)
}

#' @rdname bert_benchmark
#' @exportS3Method ggplot2::autoplot
autoplot.bert_benchmark <- function(object, ...) {
  rlang::check_installed("ggplot2", "for autoplot().")
  ggplot2::ggplot(
    object,
    ggplot2::aes(x = .data[["n"]], y = .data[["texts_per_second"]], colour = .data[["engine"]])
  ) +
    ggplot2::geom_point() +
    ggplot2::stat_summary(fun = stats::median, geom = "line") +
    ggplot2::scale_x_log10() +
    ggplot2::scale_y_log10() +
    ggplot2::labs(x = "texts", y = "texts per second", colour = NULL)
}

#' @importFrom rlang .data
NULL
