# Texts of data frames: which column holds them, and results as further columns.

# A vector as it is; of a data frame, the column that is named, or called `usual`, or the only one of text.
text_of <- function(data, column = NULL, usual = "text", arg = "text", call = rlang::caller_env()) {
  if (!is.data.frame(data)) {
    return(data)
  }
  data[[column_of(data, column, usual, arg, call)]]
}

column_of <- function(data, column, usual, arg, call) {
  texts <- names(data)[vapply(data, function(values) is.character(values) || is.factor(values), NA)]
  if (!is.null(column)) {
    check_string(column, arg, call)
    if (!column %in% names(data)) {
      abort_column(c("There is no column {.val {column}}.", "i" = "There are {.val {names(data)}}."), call)
    }
    return(column)
  }
  if (usual %in% names(data)) {
    return(usual)
  }
  if (length(texts) == 1L) {
    return(texts)
  }
  example <- sprintf("%s = \"%s\"", arg, if (length(texts) > 0) texts[[1]] else "name")
  abort_column(
    if (length(texts) == 0) {
      c("None of the columns is text.", "i" = if (length(data) > 0) "There are {.val {names(data)}}." else "There are none.")
    } else {
      c("Several columns are text: {.val {texts}}.", "i" = "Name one, such as {.code {example}}.")
    },
    call
  )
}

abort_column <- function(message, call, .envir = parent.frame()) {
  bert_abort(message, "input", call = call, .envir = .envir)
}

# Second texts: a column of the data frame, where one is named, or called `usual`; else a vector.
pair_of <- function(data, pair, usual = "pair", call = rlang::caller_env()) {
  if (!is.data.frame(data)) {
    return(pair)
  }
  if (is.null(pair)) {
    return(if (usual %in% names(data)) data[[usual]])
  }
  if (rlang::is_string(pair) && pair %in% names(data)) data[[pair]] else pair
}

# New columns after those that are there.
with_columns <- function(data, added, call) {
  taken <- intersect(names(added), names(data))
  if (length(taken) > 0) {
    shown <- cli::cli_vec(taken, list("vec-trunc" = 5))
    bert_abort(
      c(
        "There are columns of these names already: {.val {shown}}.",
        "i" = "Rename them, or leave them out."
      ),
      "input",
      call = call
    )
  }
  # A grouped one is a tibble too, and would lose its groups.
  if (!tibble::is_tibble(data)) data <- tibble::as_tibble(data)
  data[names(added)] <- added
  data
}

# The columns of a matrix, as a list.
columns_of <- function(values, names) {
  stats::setNames(lapply(seq_len(ncol(values)), function(j) unname(values[, j])), names)
}

# "dim_001": in the order of their numbers wherever they are sorted.
dimension_names <- function(width, prefix = "dim_") {
  sprintf("%s%0*d", prefix, nchar(width), seq_len(width))
}
