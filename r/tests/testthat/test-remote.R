# A server with the tiny models, started once, and ended with the tests.
serving <- function() {
  skip_if_not_installed("jsonlite")
  skip_if_not_installed("processx")
  transport <- c("curl", "httr2")[c(requireNamespace("curl", quietly = TRUE), requireNamespace("httr2", quietly = TRUE))]
  skip_if(length(transport) == 0, "neither curl nor httr2 is installed")
  if (is.null(tests$server)) {
    models_folder()
    there <- reticulate::py_module_available("starlette") && reticulate::py_module_available("uvicorn")
    skip_if_not(there, "serving takes starlette and uvicorn; bert_install(extras = 'serve')")
    names <- c("embeddings", "sentiment", "topics", "stars", "entities", "answers", "words", "nli", "ranker", "sparse", "late")
    python <- test_python()
    # To a file: nobody would read a pipe while it serves.
    said <- withr::local_tempfile(.local_envir = teardown_env())
    tests$server <- processx::process$new(
      python, c("-m", "bertonnx", "serve", model_file(names), "--port", "0", "--provider", "cpu"),
      stderr = said, env = c("current", LD_LIBRARY_PATH = "", BERTONNX_API_KEY = "secret")
    )
    withr::defer(tests$server$kill(), teardown_env())
    # The line whole: half an address would be another.
    listening <- function() regmatches(text <- readChar(said, file.size(said)), regexpr("listening on http://\\S+[^\n]*\n", text))
    wait_until(function() length(listening()) > 0 || !tests$server$is_alive())
    if (length(listening()) == 0) stop("the server did not start: ", readChar(said, file.size(said)))
    tests$url <- sub("^listening on (\\S+).*$", "\\1", listening())
  }
  transport
}

remote <- function(name, ...) {
  serving()
  bert_remote(tests$url, name, api_key = "secret", timeout = LONG_ENOUGH, ...)
}

some_texts <- c(a = "one text", b = NA, c = "caf\u00e9 \U1F600 \"quoted\" \\ tab\t", d = "")

test_that("every function gives the bits of a model of this process", {
  serving()
  texts <- some_texts
  same <- function(name, ask) expect_identical(ask(remote(name)), ask(tiny(name)), info = name)
  same("embeddings", function(model) bert_embed(model, texts))
  same("embeddings", function(model) bert_embed(model, texts, prompt = "query", dimensions = 8, normalize = TRUE))
  same("embeddings", function(model) bert_embed(model, texts, encoding = "ubinary"))
  same("embeddings", function(model) bert_embed(model, texts, encoding = "int8"))
  same("embeddings", function(model) bert_embed(model, character()))
  same("embeddings", function(model) bert_embed(model, texts, chunks = TRUE))
  same("embeddings", function(model) bert_similarity(model, texts, "another"))
  same("embeddings", function(model) bert_tokenize(model, texts, prompt = "query"))
  same("sentiment", function(model) bert_tokenize(model, texts, pair = "and more"))
  same("embeddings", function(model) bert_hidden(model, texts, layers = c(-2, -1)))
  same("embeddings", function(model) bert_hidden(model, texts, words = "mean"))
  same("embeddings", function(model) bert_hidden(model, character()))
  same("late", function(model) bert_hidden(model, texts))
  same("sentiment", function(model) bert_classify(model, texts, top_n = 2))
  same("sentiment", function(model) bert_classify(model, texts, pair = "and more", raw_scores = TRUE))
  same("sentiment", function(model) predict(model, texts, type = "prob"))
  same("sentiment", function(model) predict(model, texts))
  same("topics", function(model) bert_classify(model, texts))
  same("topics", function(model) predict(model, texts))
  same("stars", function(model) predict(model, texts))
  same("stars", function(model) bert_classify(model, texts))
  same("entities", function(model) bert_entities(model, c(texts, "Ada Lovelace lived in London")))
  same("entities", function(model) bert_entities(model, "Ada Lovelace", aggregation = "none"))
  same("answers", function(model) bert_answer(model, c("Who?", NA), "Ada lived in London.", top_n = 3))
  same("words", function(model) bert_fill_mask(model, c("a [MASK] b", NA, "[MASK] and [MASK]"), top_n = 2))
  same("nli", function(model) bert_zero_shot(model, texts, c("sports", "K\u00fcche"), top_n = 2))
  same("nli", function(model) bert_zero_shot(model, texts, "sports", multi_label = TRUE, threshold = 0.4))
  same("ranker", function(model) bert_rank(model, "which?", texts))
  same("late", function(model) bert_rank(model, "which?", texts))
  same("sparse", function(model) bert_embed_sparse(model, texts, top_n = 4))
})

test_that("hard texts in many requests, over each package that speaks HTTP", {
  transports <- serving()
  texts <- hard_texts()
  local <- suppressWarnings(bert_embed(tiny("embeddings"), texts))
  for (transport in transports) {
    model <- remote("embeddings")
    model$transport <- transport
    model$connection$handle$server$transport <- transport
    expect_identical(suppressWarnings(bert_embed(model, texts)), local, info = transport)
  }
})

test_that("a server is used without any Python here", {
  serving()
  found <- in_fresh_r(function(url, text) {
    model <- bertonnx::bert_remote(url, "embeddings", api_key = "secret", timeout = LONG_ENOUGH)
    list(x = bertonnx::bert_embed(model, text), similar = bertonnx::bert_similarity(model, text, text), python = reticulate::py_available())
  }, list(tests$url, c("one text", "another")), env = c(RETICULATE_PYTHON = "/nowhere/python"))
  expect_identical(found$x, bert_embed(tiny("embeddings"), c("one text", "another")))
  expect_equal(found$similar, bert_similarity(tiny("embeddings"), c("one text", "another"), c("one text", "another")))
  expect_false(found$python)
})

test_that("errors are the same, in R's words", {
  serving()
  expect_bert_error(bert_fill_mask(remote("words"), c("[MASK]", NA, "none")), "row", "row 3")
  expect_bert_error(bert_embed(remote("embeddings"), "a", prompt = "quest"), "usage", "prompt = \"quest\"")
  expect_bert_error(bert_embed(remote("embeddings"), "a", dimensions = 99), "usage", "dimensions = 99")
  expect_bert_error(bert_classify(remote("embeddings"), "a"), "task", "bert_embed")
  expect_bert_error(bert_rank(remote("embeddings"), "a", "b"), "task", "bert_rank\\(\\) needs")
  expect_bert_error(bert_hidden(remote("embeddings"), "a", layers = 9), "usage", "layers = 9")
  expect_bert_error(bert_hidden(remote("words"), "a"), "task")
  expect_bert_error(bert_verify(remote("embeddings")), "task", "bert_load")
  expect_bert_error(bert_run(remote("embeddings"), test_path("helper.R"), "out.jsonl"), "task", "bert_load")
  expect_bert_error(bert_remote(tests$url, "nobody", api_key = "secret"), "server", "no model of that name here; there is embeddings")
  expect_bert_error(bert_remote(tests$url, "embeddings"), "server", "needs a key, and none was given.*api_key")
  expect_bert_error(bert_remote(tests$url, api_key = "wrong"), "server", "this one is not it")
  expect_bert_error(bert_remote("http://127.0.0.1:9", "a"), "server", "cannot be reached")
  expect_bert_error(bert_remote("127.0.0.1:8080"), "input", "url")
  expect_bert_error(bert_remote(tests$url, timeout = 0), "input", "timeout")
})

test_that("a model on a server prints without its key, warns of what was cut, and closes", {
  serving()
  model <- remote("embeddings")
  expect_no_match(paste(c(format(model), capture.output(print(summary(model)))), collapse = "\n"), "secret")
  expect_match(format(model)[[2]], "http://127.0.0.1")
  expect_warning(bert_embed(model, strrep("word ", 200)), "1 of 1 text", class = "bertonnx_warning_truncated")
  file <- withr::local_tempfile()
  saveRDS(model, file)
  expect_identical(bert_embed(readRDS(file), "a"), bert_embed(model, "a"))
  close(model)
  expect_bert_error(bert_embed(model, "a"), "usage", "was closed")
})

test_that("a busy server is asked again, until the time is up", {
  answers <- list(
    list(status = 429L, headers = list("retry-after-ms" = "10"), body = "{}"),
    list(status = 200L, headers = list(), body = "{\"x\": 1}")
  )
  server <- list(url = "http://x", timeout = LONG_ENOUGH, transport = "fake")
  n <- 0
  sending <- function(server, method, url, json) {
    n <<- n + 1
    answers[[min(n, length(answers))]]
  }
  skip_if_not_installed("jsonlite")
  expect_identical(asked(server, "GET", "/", send = sending)$x, 1L)
  expect_identical(n, 2)
  n <- 0
  answers <- answers[1]
  server$timeout <- 0
  error <- expect_error(asked(server, "GET", "/", send = sending), class = "bertonnx_server_error")
  expect_match(conditionMessage(error), "no server of bertonnx")
  expect_identical(n, 1)
})
