# Character vectors into what Python reads: valid UTF-8 without NA, and where each text stood.

as_text <- function(x, arg = rlang::caller_arg(x), call = rlang::caller_env()) {
  x <- as_strings(x, arg, call)
  list(values = unname(x), present = which(!is.na(unname(x))), names = names(x), n = length(x))
}

# Two arguments that go together, one of which may be of length 1; NA in either is NA in both.
as_pairs <- function(text, pair, arg = "pair", call = rlang::caller_env()) {
  if (is.null(pair)) {
    return(c(text, list(pair = NULL)))
  }
  pair <- as_text(pair, arg, call)
  n <- if (text$n == 1L) pair$n else text$n
  if (!pair$n %in% c(1L, n)) {
    bert_abort(
      c(
        "{.arg {arg}} has {pair$n} element{?s}, and {text$n} {?is/are} needed.",
        "i" = "Each text needs its own {.arg {arg}}, or all of them the same one."
      ),
      "input",
      call = call
    )
  }
  values <- rep_len(text$values, n)
  seconds <- rep_len(pair$values, n)
  present <- which(!is.na(values) & !is.na(seconds))
  list(values = values, pair = seconds, present = present, names = if (text$n == n) text$names, n = n)
}

as_strings <- function(x, arg, call) {
  # Of quanteda: a corpus is text already, and tokens are words that stood in one.
  if (inherits(x, "tokens")) {
    x <- vapply(as.list(x), paste, "", collapse = " ")
  }
  if (is.data.frame(x)) {
    abort_data_frame(x, arg, call)
  }
  if (is.factor(x)) {
    x <- structure(as.character(x), names = names(x))
  }
  if (is.atomic(x) && !is.null(x) && !is.raw(x) && !is.character(x) && all(is.na(x))) {
    x <- structure(rep(NA_character_, length(x)), names = names(x))
  }
  if (!is.character(x)) {
    abort_not_text(x, arg, call)
  }
  structure(valid_utf8(as.vector(unclass(x)), arg, call), names = names(x))
}

# What the user wrote for an argument, where it is short enough to be written again.
typed <- function(arg, call) {
  if (!is.environment(call) || !exists(arg, call, inherits = FALSE)) {
    return(arg)
  }
  written <- eval(call("substitute", as.name(arg)), call)
  again <- is.name(written) || (is.call(written) && all(all.names(written, functions = TRUE) %in% c("$", "[[", all.vars(written))))
  if (again && !identical(written, quote(expr = ))) deparse1(written) else arg
}

abort_data_frame <- function(x, arg, call) {
  columns <- names(x)[vapply(x, function(column) is.character(column) || is.factor(column), NA)]
  advice <- if (length(columns) > 0) {
    asked <- paste0(typed(arg, call), "$", columns[[1]])
    c("i" = "Give one of its columns: {.code {asked}}.")
  } else {
    c("i" = "None of its columns is text.")
  }
  bert_abort(
    c("{.arg {arg}} must be a character vector, and it is a data frame.", advice),
    "input",
    call = call
  )
}

abort_not_text <- function(x, arg, call) {
  what <- class(x)[[1]]
  arg_typed <- typed(arg, call)
  advice <- if (inherits(x, c("dfm", "DocumentTermMatrix", "TermDocumentMatrix"))) {
    c("i" = "Counts of words hold no texts; give those that they were counted in, such as the corpus.")
  } else if (is.list(x)) {
    c("i" = "Make one vector of it: {.code unlist({arg_typed})}.")
  } else if (is.raw(x)) {
    c("i" = "Make a text of it: {.code rawToChar({arg_typed})}; a text cannot hold a NUL.")
  } else if (is.null(x)) {
    c("i" = "For no text at all, give {.code character(0)}.")
  } else if (is.atomic(x)) {
    c("i" = "Turn it into text if you mean it: {.code as.character({arg_typed})}.")
  }
  bert_abort(
    c("{.arg {arg}} must be a character vector, and it is of class {.cls {what}}.", advice),
    "input",
    call = call
  )
}

# A text that is not marked counts as UTF-8 wherever the locale is UTF-8, or is plain C, which
# knows no letters beyond ASCII and would turn them into "<c3><a9>".
valid_utf8 <- function(x, arg, call) {
  marks <- Encoding(x)
  abort_encoding(marks == "bytes", "is marked as bytes", arg, call)
  native <- marks == "unknown" & !is.na(x)
  if (unmarked_is_utf8()) {
    abort_encoding(native & !validUTF8(x), "is not valid UTF-8", arg, call)
    Encoding(x[native]) <- "UTF-8"
  }
  x <- enc2utf8(x)
  abort_encoding(!is.na(x) & !validUTF8(x), "is not valid UTF-8", arg, call)
  x
}

unmarked_is_utf8 <- function(locale = l10n_info()) {
  isTRUE(locale[["UTF-8"]]) || toupper(locale$codeset %||% "") %in% c("ANSI_X3.4-1968", "US-ASCII", "646", "C")
}

abort_encoding <- function(bad, problem, arg, call) {
  bad <- which(bad)
  if (length(bad) == 0) {
    return(invisible())
  }
  shown <- cli::cli_vec(bad, list("vec-trunc" = 10))
  latin1 <- sprintf("iconv(%s, \"latin1\", \"UTF-8\")", typed(arg, call))
  bert_abort(
    c(
      "{.arg {arg}} {problem} in {length(bad)} element{?s}: {.val {shown}}.",
      "i" = "If the texts are Latin-1, as older files are, type {.code {latin1}}."
    ),
    "encoding",
    elements = bad,
    call = call
  )
}

check_count <- function(x, arg = rlang::caller_arg(x), call = rlang::caller_env()) {
  whole <- is.numeric(x) && length(x) == 1L && !is.na(x) && x >= 1 && (x == trunc(x) || is.infinite(x))
  if (!whole) {
    bert_abort("{.arg {arg}} must be a whole number of at least 1.", "input", call = call)
  }
  # Python's int over 2^31 and R's integer do not meet; nothing that is counted here is as many.
  as.integer(min(x, .Machine$integer.max))
}

check_flag <- function(x, arg = rlang::caller_arg(x), call = rlang::caller_env()) {
  if (!is.logical(x) || length(x) != 1L || is.na(x)) {
    bert_abort("{.arg {arg}} must be {.code TRUE} or {.code FALSE}.", "input", call = call)
  }
  x
}

check_choice <- function(x, choices, arg = rlang::caller_arg(x), call = rlang::caller_env()) {
  if (!rlang::is_string(x, choices)) {
    bert_abort("{.arg {arg}} must be {.or {.val {choices}}}.", "input", call = call)
  }
  x
}

check_string <- function(x, arg = rlang::caller_arg(x), call = rlang::caller_env()) {
  if (!is.character(x) || length(x) != 1L || is.na(x) || !nzchar(x)) {
    bert_abort("{.arg {arg}} must be one text that is not empty.", "input", call = call)
  }
  # Bytes that are no text in this locale cannot cross to Python, nor be looked up there.
  abort_encoding(!validEnc(x), "is not valid in this locale", arg, call)
  x
}

check_number <- function(x, arg = rlang::caller_arg(x), call = rlang::caller_env()) {
  if (!is.numeric(x) || length(x) != 1L || is.na(x)) {
    bert_abort("{.arg {arg}} must be one number.", "input", call = call)
  }
  as.numeric(x)
}

# "" is no prompt, which is not the same as the model's default.
check_prompt <- function(prompt, call = rlang::caller_env()) {
  if (is.null(prompt) || identical(prompt, "")) prompt else check_string(prompt, call = call)
}

`%||%` <- function(x, y) if (is.null(x)) y else x
