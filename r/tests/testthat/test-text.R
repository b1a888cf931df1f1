test_that("NA of every type is a missing text", {
  for (na in list(NA, NA_integer_, NA_real_, NA_character_, NA_complex_, factor(NA), as.Date(NA))) {
    texts <- as_text(na)
    expect_identical(texts$values, NA_character_)
    expect_identical(texts$present, integer())
    expect_identical(texts$n, 1L)
  }
  expect_identical(as_text(c(NA, "NA"))$present, 2L)
})

test_that("factors are their labels, and names stay", {
  texts <- as_text(factor(c(a = "x", b = "y", c = "x"), levels = c("y", "x")))
  expect_identical(texts$values, c("x", "y", "x"))
  texts <- as_text(c(a = "x", b = NA))
  expect_identical(texts$names, c("a", "b"))
  expect_null(names(texts$values))
  expect_identical(as_text(character())$n, 0L)
})

test_that("a data frame is refused, and the column is named", {
  data <- data.frame(id = 1, review = "fine")
  expect_bert_error(as_text(data), "input", "`data\\$review`")
  expect_bert_error(as_text(data["id"], "data"), "input", "None of its columns is text")
})

test_that("what is said to type names the user's own objects", {
  reviews <- data.frame(id = 1, review = "fine")
  shelf <- list(reviews = reviews, n = 3)
  expect_bert_error(bert_tokenize(tiny("words"), reviews), "input", "`reviews\\$review`")
  expect_bert_error(bert_tokenize(tiny("words"), shelf$reviews), "input", "`shelf\\$reviews\\$review`")
  expect_bert_error(bert_tokenize(tiny("words"), shelf$n), "input", "as.character\\(shelf\\$n\\)")
  expect_bert_error(bert_tokenize(tiny("words"), data.frame(review = "fine")), "input", "`text\\$review`")
})

# Stand-ins: quanteda is not in Debian. Its corpus is a character vector with a class, its tokens are a list
# by as.list(), and its counts have a class.
as.list.tokens <- function(x, ...) unclass(x)
registerS3method("as.list", "tokens", as.list.tokens)

test_that("objects of quanteda are texts where they hold some", {
  corpus <- structure(c(d1 = "fine film", d2 = "too long"), class = c("corpus", "character"), docvars = data.frame(x = 1:2))
  expect_identical(as_text(corpus), as_text(c(d1 = "fine film", d2 = "too long")))
  tokens <- structure(list(d1 = c("fine", "film"), d2 = c("too", "long")), class = "tokens")
  expect_identical(as_text(tokens), as_text(c(d1 = "fine film", d2 = "too long")))
  counts <- structure(list(), class = "dfm")
  expect_bert_error(as_text(counts), "input", "Counts of words hold no texts")
})

test_that("tables of tidytext are data frames as others", {
  skip_if_not_installed("tidytext")
  texts <- tibble::tibble(doc = 1:2, text = c("A fine film. It was short.", "Too long."))
  sentences <- tidytext::unnest_tokens(texts, sentence, text, token = "sentences")
  found <- augment(tiny("sentiment"), sentences)
  expect_identical(found$.pred_class, bert_classify(tiny("sentiment"), sentences$sentence)$label)
})

test_that("what is not text is refused, with what to type", {
  expect_bert_error(as_text(1:2, "x"), "input", "as.character\\(x\\)")
  expect_bert_error(as_text(TRUE, "x"), "input", "as.character\\(x\\)")
  expect_bert_error(as_text(list("a"), "x"), "input", "unlist\\(x\\)")
  expect_bert_error(as_text(NULL, "x"), "input", "character\\(0\\)")
  expect_bert_error(as_text(as.raw(c(65, 0)), "x"), "input", "NUL")
})

test_that("texts marked as Latin-1 become UTF-8", {
  latin1 <- "caf\xe9"
  Encoding(latin1) <- "latin1"
  expect_identical(charToRaw(as_text(latin1)$values), charToRaw("caf\u00e9"))
})

test_that("invalid UTF-8 is refused by number of element", {
  bad <- c("fine", "caf\xe9", NA, "\xff", "caf\u00e9")
  error <- expect_bert_error(as_text(bad, "x"), "encoding", "2 elements: 2 and 4")
  expect_identical(error$elements, c(2L, 4L))
  expect_match(rlang::cnd_message(error), "iconv")
  marked <- bad
  Encoding(marked) <- "UTF-8"
  expect_identical(expect_bert_error(as_text(marked), "encoding")$elements, c(2L, 4L))
})

test_that("texts marked as bytes are refused", {
  bytes <- "caf\u00e9"
  Encoding(bytes) <- "bytes"
  expect_identical(expect_bert_error(as_text(bytes), "encoding", "marked as bytes")$elements, 1L)
})

test_that("unmarked bytes count as UTF-8 where the locale has nothing better", {
  expect_true(unmarked_is_utf8(list(`UTF-8` = TRUE, codeset = "UTF-8")))
  expect_true(unmarked_is_utf8(list(`UTF-8` = FALSE, codeset = "ANSI_X3.4-1968")))
  expect_false(unmarked_is_utf8(list(`UTF-8` = FALSE, codeset = "ISO-8859-1")))
  unmarked <- rawToChar(charToRaw("caf\u00e9"))
  expect_identical(Encoding(as_text(unmarked)$values), "UTF-8")
})

test_that("pairs are as many, or one", {
  pairs <- as_pairs(as_text(c("a", NA, "c")), c("x", "y", NA))
  expect_identical(pairs$present, 1L)
  expect_identical(as_pairs(as_text(c("a", "b")), "x")$pair, c("x", "x"))
  expect_identical(as_pairs(as_text(c(n = "a")), c("x", "y"))$values, c("a", "a"))
  expect_identical(as_pairs(as_text(character()), character())$n, 0L)
  expect_bert_error(as_pairs(as_text(c("a", "b", "c")), c("x", "y")), "input", "2 elements, and 3 are")
})

test_that("counts may be over 2^31", {
  expect_identical(check_count(3), 3L)
  expect_identical(check_count(2^31 + 1), .Machine$integer.max)
  expect_identical(check_count(Inf), .Machine$integer.max)
  for (bad in list(0, -1, 1.5, NA, "1", c(1, 2), NULL, NaN)) {
    expect_bert_error(check_count(bad, "n"), "input", "`n` must be a whole number")
  }
})

test_that("flags and texts are one value", {
  expect_true(check_flag(TRUE))
  for (bad in list(NA, "yes", 1, c(TRUE, TRUE))) expect_bert_error(check_flag(bad, "f"), "input", "`f`")
  for (bad in list(NA_character_, "", 1, c("a", "b"))) expect_bert_error(check_string(bad, "s"), "input", "`s`")
})

test_that("what can be no text is not told to become one", {
  for (x in list(mean, globalenv(), quote(a))) {
    error <- expect_bert_error(as_text(x), "input", "must be a character vector")
    expect_no_match(rlang::cnd_message(error), "as.character")
  }
})

test_that("one text that is no text in this locale is said", {
  skip_if_not(l10n_info()[["UTF-8"]])
  error <- expect_bert_error(bert_load("a\xe9b.onnx"), "encoding", "`path` is not valid")
  expect_bert_error(check_string("a\xe9b"), "encoding")
  expect_identical(check_string("caf\u00e9"), "caf\u00e9")
  expect_identical(check_string(iconv("caf\u00e9", "UTF-8", "latin1")), "caf\u00e9")
})
