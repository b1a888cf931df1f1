# An engine of a few lines of R, for tests of what R does by itself: it counts letters.
fake_engine <- function() {
  whole <- function(x) writeBin(as.integer(x), raw(), size = 4L, endian = "little")
  floats <- function(x) writeBin(as.double(x), raw(), size = 4L, endian = "little")
  tables <- list(
    embeddings = list(names = "values", kinds = "matrix", width = 2),
    labels = list(names = c("label", "score"), kinds = c("level", "float"), levels = c("long", "short")),
    tokens = list(
      names = c("position", "token", "id", "type_id", "start", "end", "special"),
      kinds = c("int", "text", "int", "int", "place", "place", "flag")
    ),
    vectors = list(names = c("position", "vector"), kinds = c("int", "vector"), width = 2)
  )
  columns_of <- list(
    embeddings = function(texts, places) {
      list(row = whole(places), values = floats(c(nchar(texts), lengths(strsplit(texts, " ")))))
    },
    labels = function(texts, places) {
      list(row = whole(places), label = whole(ifelse(nchar(texts) > 5, 1, 2)), score = floats(1 / nchar(texts)))
    },
    tokens = function(texts, places) {
      words <- strsplit(texts, " ", fixed = TRUE)
      n <- lengths(words)
      ends <- unlist(lapply(words, function(one) cumsum(nchar(one) + 1) - 1))
      list(
        row = whole(rep(places, n)), position = whole(sequence(n)), token = as.list(unlist(words)),
        id = whole(nchar(unlist(words))), type_id = whole(rep(0, sum(n))),
        start = whole(ends - nchar(unlist(words)) + 1), end = whole(ends), special = whole(rep(0, sum(n)))
      )
    },
    vectors = function(texts, places) {
      n <- nchar(texts)
      list(row = whole(rep(places, n)), position = whole(sequence(n)), vector = floats(rbind(sequence(n), 0.5)))
    }
  )
  failed <- function(message, type = "RowError") {
    list(ok = FALSE, error = list(type = type, message = message, kind = "runtime", expected = "yes", traceback = ""))
  }
  started <- function(table, texts, places, options) {
    run <- new.env()
    run$texts <- texts
    run$places <- if (is.null(places)) seq_along(texts) else places
    run$table <- table
    usual <- list(ok = TRUE, run = run, levels = character(), width = 0)
    utils::modifyList(usual, tables[[table]])
  }
  list(
    ready = NULL,
    open = function(arguments) {
      if (!identical(arguments$path, "letters")) {
        return(failed(paste("no such model:", arguments$path), "ModelFileError"))
      }
      info <- list(
        task = arguments$task, tables = names(tables), matrices = "embeddings", labels = c("long", "short"),
        width = 2, max_length = 9, problem_type = "", weights_sha256 = "a", tokenizer_sha256 = "b"
      )
      list(ok = TRUE, handle = new.env(), info = info)
    },
    alive = function(handle) is.environment(handle),
    close = function(handle) list(ok = TRUE),
    start = function(handle, table, texts, pairs, places, options, method) started(table, texts, places, options),
    hidden = function(handle, texts, places, layers, words, prompt) started("vectors", texts, places, list()),
    # Two texts at a time, so that there are several chunks.
    chunk = function(run) {
      if (any(run$texts == "bad")) {
        return(failed("row 1: bad"))
      }
      some <- utils::head(seq_along(run$texts), 2)
      columns <- if (length(some) > 0) columns_of[[run$table]](run$texts[some], run$places[some]) else list()
      cut <- sum(nchar(run$texts[some]) > 20)
      run$texts <- run$texts[-some]
      run$places <- run$places[-some]
      list(ok = TRUE, texts = length(some), cut = cut, seconds = 0, columns = columns)
    },
    stop = function(run) list(ok = TRUE)
  )
}

fake_model <- function(task = "feature-extraction", path = "letters") {
  engines$fake <- fake_engine()
  opened_model("fake", list(path = path, task = task), NULL)
}
