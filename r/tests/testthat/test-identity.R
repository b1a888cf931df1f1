# The same texts through Python, the command line and R: the same ids, labels, spans and float bits.

# Python alone, in a process of its own, which writes what it found for R to compare.
python_results <- function(name) {
  out <- withr::local_tempfile(fileext = ".json")
  args <- c(test_path("python", "identity.py"), model_file(name), test_path("python", "hard-texts.jsonl"), out)
  run_python(test_python(), shQuote(args))
  jsonlite::fromJSON(out, simplifyVector = TRUE)
}

command_line_results <- function(name, input = test_path("python", "hard-texts.jsonl"), columns = c("--column", "text")) {
  out <- withr::local_tempfile(fileext = ".jsonl")
  args <- c("-m", "bertonnx", "run", model_file(name), input, columns, "--output", out)
  run_python(test_python(), shQuote(args))
  lapply(readLines(out, encoding = "UTF-8"), jsonlite::fromJSON, simplifyVector = FALSE)
}

bits <- function(x) {
  writeBin(as.double(x), raw(), size = 4L, endian = "little")
}

hex <- function(x) {
  paste(format(bits(x)), collapse = "")
}

# Not expect_same(), which would print every one of some thousand numbers.
# Four of the hard texts are longer than the models of the tests take, and that is said.
with_four_cut <- function(code) {
  expect_warning(result <- code, "^4 of 471 texts", class = "bertonnx_warning_truncated")
  result
}

expect_same <- function(object, expected) {
  expect_true(identical(object, expected), label = deparse1(substitute(object)))
}

flat <- function(items, field) {
  unlist(lapply(items, function(item) lapply(item, `[[`, field)))
}

# Sent as Latin-1, marked so, wherever that is possible: the same texts. R takes the bytes from 0x80
# to 0x9f for Windows' letters.
as_latin1 <- function(texts) {
  latin1 <- iconv(texts, "UTF-8", "latin1")
  possible <- !is.na(latin1) & enc2utf8(latin1) == texts
  texts[possible] <- latin1[possible]
  texts
}

test_that("there are at least 400 texts, of both encodings", {
  texts <- hard_texts()
  expect_gte(length(texts), 400)
  expect_gt(sum(Encoding(as_latin1(texts)) == "latin1"), 10)
})

test_that("embeddings and tokens", {
  texts <- hard_texts()
  python <- python_results("embeddings")
  line <- command_line_results("embeddings")
  for (sent in list(texts, as_latin1(texts))) {
    embedded <- with_four_cut(bert_embed(tiny("embeddings"), sent))
    expect_same(hex(t(embedded)), python$floats)
    tokens <- bert_tokenize(tiny("embeddings"), sent)
    expect_same(tokens$id, python$ids)
    expect_same(tokens$.row, python$rows)
    known <- !is.na(tokens$start)
    expect_same(tokens$start[known], python$starts[known] + 1L)
    expect_same(tokens$end[known], python$ends[known])
    expect_true(all(python$ends[!known] == python$starts[!known] | tokens$special[!known]))
  }
  expect_same(hex(unlist(lapply(line, `[[`, "embedding"))), python$floats)
})

test_that("labels and scores", {
  texts <- hard_texts()
  python <- python_results("sentiment")
  line <- command_line_results("sentiment")
  for (sent in list(texts, as_latin1(texts))) {
    scores <- with_four_cut(predict(tiny("sentiment"), sent, type = "prob"))
    expect_same(hex(t(as.matrix(scores))), python$floats)
    found <- with_four_cut(bert_classify(tiny("sentiment"), sent))
    expect_same(as.character(found$label), python$labels)
  }
  expect_same(hex(unlist(lapply(line, `[[`, "scores"))), python$floats)
  expect_same(unlist(lapply(line, `[[`, "label")), python$labels)
})

test_that("entities and their places", {
  texts <- hard_texts()
  for (name in c("entities", "roberta")) {
    python <- python_results(name)
    line <- lapply(command_line_results(name), `[[`, "entities")
    for (sent in list(texts, as_latin1(texts))) {
      found <- bert_entities(tiny(name), sent)
      expect_same(hex(found$score), python$floats)
      expect_same(as.character(found$entity), python$labels)
      expect_same(found$.row, python$rows)
      expect_same(found$start, python$starts + 1L)
      expect_same(found$end, python$ends)
      # A NUL aside, which no text here holds, the words are the same too.
      expect_same(found$text, substr(sent[found$.row], found$start, found$end))
    }
    expect_same(hex(flat(line, "score")), python$floats)
    expect_same(flat(line, "entity"), python$labels)
    expect_same(flat(line, "start"), python$starts)
    expect_same(flat(line, "end"), python$ends)
  }
})

test_that("answers and their places", {
  texts <- hard_texts()
  python <- python_results("answers")
  input <- withr::local_tempfile(fileext = ".jsonl")
  lines <- vapply(texts, function(text) {
    jsonlite::toJSON(list(question = "Who lived where?", text = text), auto_unbox = TRUE)
  }, "")
  writeLines(lines, input, useBytes = TRUE)
  line <- command_line_results("answers", input, c("--column", "question", "--pair-column", "text"))
  for (sent in list(texts, as_latin1(texts))) {
    found <- bert_answer(tiny("answers"), "Who lived where?", sent)
    expect_same(hex(found$score), python$floats)
    expect_same(found$start, python$starts + 1L)
    expect_same(found$end, python$ends)
  }
  expect_same(hex(unlist(lapply(line, `[[`, "score"))), python$floats)
  expect_same(unlist(lapply(line, `[[`, "start")), python$starts)
})

test_that("a plain C locale changes nothing", {
  texts <- hard_texts()
  here <- with_four_cut(bert_embed(tiny("embeddings"), texts))
  tokens <- bert_tokenize(tiny("embeddings"), texts)
  entities <- bert_entities(tiny("entities"), texts)
  file <- withr::local_tempfile(fileext = ".rds")
  there <- in_fresh_r(function(files, texts) {
    unmarked <- texts
    Encoding(unmarked) <- "unknown"
    model <- bertonnx::bert_load(files[[1]])
    list(
      locale = l10n_info()[["UTF-8"]],
      marked = bertonnx::bert_embed(model, texts),
      unmarked = bertonnx::bert_embed(model, unmarked),
      tokens = bertonnx::bert_tokenize(model, texts),
      entities = bertonnx::bert_entities(bertonnx::bert_load(files[[2]]), texts)
    )
  }, list(c(model_file("embeddings"), model_file("entities")), texts), env = c(LC_ALL = "C"))
  expect_false(there$locale)
  expect_same(there$marked, here)
  expect_same(there$unmarked, here)
  expect_same(there$tokens, tokens)
  expect_same(there$entities, entities)
})
