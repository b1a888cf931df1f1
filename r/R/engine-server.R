# The engine that is a server (`bertonnx serve`), over HTTP: no Python is needed here. Results come as the
# JSON lines of the project's own wire (docs/serving.md): arrays are base64 of their bytes, and other floats the
# shortest texts that read back as the same float32, so that no bit is lost.

engines$server <- list(
  open = function(arguments) answered({
    found <- if (is.null(arguments$name)) {
      asked(arguments, "GET", "/v1/models")$data[[1]]
    } else {
      asked(arguments, "GET", paste0("/v1/models/", utils::URLencode(enc2utf8(arguments$name), reserved = TRUE)))
    }
    info <- server_info(found)
    list(handle = list(server = arguments, name = found$id, long_text = found$long_text, info = info), info = info)
  }),
  alive = function(handle) !is.null(handle),
  close = function(handle) list(ok = TRUE),
  start = function(handle, table, texts, pairs, places, options, method) answered({
    made <- SERVER_TABLES[[table]]
    if (is.null(made)) {
      stop_server("TaskError", "a server does not give {table}; load the file with bert_load()", table = table)
    }
    options$task <- server_task(handle$info, method) %||% options$task
    wanted <- if (table == "tokens") "tokenize" else "predict"
    server_run(handle, made(handle$info, options), texts, pairs, places, options, wanted)
  }),
  hidden = function(handle, texts, places, layers, words, prompt) answered({
    made <- hidden_rows(handle$info$width * length(layers))
    options <- list(words = words, prompt = prompt)
    options <- options[!vapply(options, is.null, NA)]
    server_run(handle, made, texts, NULL, places, options, "embed_tokens", layers)
  }),
  chunk = function(run) answered(server_chunk(run)),
  stop = function(run) list(ok = TRUE)
)

# A prediction that was not sent yet; `method` is the wire's, and `layers` are those of `embed_tokens`.
server_run <- function(handle, made, texts, pairs, places, options, method, layers = NULL) {
  run <- new.env(parent = emptyenv())
  run$handle <- handle
  run$texts <- texts
  run$pairs <- pairs
  run$places <- if (is.null(places)) seq_along(texts) else places
  run$options <- options
  run$columns <- made$columns
  run$method <- method
  run$layers <- layers
  run$checked <- FALSE
  c(list(run = run), made[c("names", "kinds", "levels", "width")])
}

# Texts that are sent together: far from any server's limit of bytes, and enough to fill batches.
SENT_TEXTS <- 256L
SENT_CHARACTERS <- 200000

server_chunk <- function(run) {
  n <- length(run$texts)
  # Once where there are none, so that options are checked.
  if (n == 0 && run$checked) {
    return(list(texts = 0, cut = 0, seconds = 0, columns = list()))
  }
  run$checked <- TRUE
  sizes <- cumsum(nchar(run$texts) + if (is.null(run$pairs)) 0 else nchar(run$pairs))
  some <- seq_len(min(n, SENT_TEXTS, 1L + sum(sizes < SENT_CHARACTERS)))
  started <- Sys.time()
  lines <- server_lines(run, some)
  seconds <- as.double(Sys.time() - started, units = "secs")
  for (i in seq_along(lines)) {
    if (!is.null(lines[[i]]$error)) {
      why <- lines[[i]]$error
      stop_server("RowError", "row {place}: {why}", place = run$places[[i]], why = why$message, kind = why$type)
    }
  }
  cut <- sum(vapply(lines, function(line) isTRUE(line$truncated), NA))
  columns <- run$columns(lines, run$places[some])
  run$texts <- utils::tail(run$texts, n - length(some))
  run$pairs <- if (!is.null(run$pairs)) utils::tail(run$pairs, n - length(some))
  run$places <- utils::tail(run$places, n - length(some))
  # All texts at once, or one after the other: what comes last is said by no texts.
  list(texts = length(some), cut = cut, seconds = seconds, columns = columns)
}

server_lines <- function(run, some) {
  handle <- run$handle
  options <- c(run$options, list(long_text = handle$long_text))
  if (!is.null(options$labels)) options$labels <- I(options$labels)
  body <- list(
    model = handle$name, method = run$method, texts = I(run$texts[some]), options = options, exact = TRUE,
    face = "r"
  )
  if (!is.null(run$pairs)) body$pairs <- I(run$pairs[some])
  results <- function(body) lapply(asked(handle$server, "POST", "/v1/predict", body)$results, arrays)
  if (is.null(run$layers)) {
    return(results(body))
  }
  # The wire gives one layer at a time.
  found <- lapply(run$layers, function(layer) {
    body$options$layer <- layer
    results(body)
  })
  Reduce(function(all, more) {
    Map(function(one, other) {
      if (is.null(one$error)) one$vectors <- cbind(one$vectors, other$vectors)
      one
    }, all, more)
  }, found)
}

# What is exact comes as base64 of little-endian numbers, with their type and shape.
arrays <- function(x) {
  if (!is.list(x)) {
    return(x)
  }
  if (!setequal(names(x), c("dtype", "shape", "data")) || is.null(names(x))) {
    return(lapply(x, arrays))
  }
  bytes <- jsonlite::base64_dec(x$data)
  shape <- as.integer(unlist(x$shape))
  numbers <- switch(
    x$dtype,
    float32 = readBin(bytes, "double", prod(shape), size = 4L, endian = "little"),
    uint8 = readBin(bytes, "integer", prod(shape), size = 1L, signed = FALSE),
    int8 = readBin(bytes, "integer", prod(shape), size = 1L),
    readBin(bytes, "integer", prod(shape), size = 8L, endian = "little")
  )
  if (length(shape) == 2) matrix(numbers, shape[[1]], shape[[2]], byrow = TRUE) else numbers
}

rows_as_list <- function(x) lapply(seq_len(nrow(x)), function(i) x[i, ])

# The tasks that serve a method of its own, as rows of models/tasks.py say.
METHOD_TASKS <- list(
  rank = c("text-ranking", "multi-vector"), zero_shot = "text-classification", embed_sparse = "sparse-embedding"
)

# Which of a model's tasks a method asks; NULL for its own.
server_task <- function(info, method) {
  if (is.null(method) || info$task %in% METHOD_TASKS[[method]]) {
    return(NULL)
  }
  also <- intersect(info$also, METHOD_TASKS[[method]])
  if (length(also) == 0) {
    stop_server(
      "TaskError", "bert_{method}() needs a model for {tasks}, and this one is for {task}",
      method = method, tasks = paste(METHOD_TASKS[[method]], collapse = " or "), task = info$task
    )
  }
  also[[1]]
}

# What a server says of its model, as runtime/r_bridge.py says it of a file.
server_info <- function(found) {
  card <- found$card
  tables <- SERVER_TASKS[[card$task]] %||% character()
  list(
    task = card$task, also = card$also, tables = tables, matrices = intersect(tables, c("embeddings", "scores")),
    family = card$family %||% "", labels = as.character(unlist(card$labels)), problem_type = card$problem_type %||% "",
    pairs = isTRUE(card$pairs) || card$task %in% c("text-ranking", "question-answering"),
    width = as.double(card$width %||% 0), max_length = as.double(found$max_length), provider = "server",
    precision = card$precision %||% "", pooling = card$pooling %||% "", mask_token = card$mask_token %||% "",
    similarity = card$similarity %||% "", prompts = names(card$prompts), prompt_texts = card$prompts, default_prompt = card$default_prompt %||% "",
    source = card$source$id %||% "", revision = card$source$revision %||% "",
    weights_sha256 = card$weights_sha256 %||% "", tokenizer_sha256 = card$tokenizer_sha256 %||% "",
    bytes = NA_real_, parity = NaN, tolerance = NaN, notes = character(),
    packages = names(card$versions), versions = as.character(unlist(card$versions))
  )
}

SERVER_TASKS <- list(
  "feature-extraction" = "embeddings",
  "text-classification" = c("labels", "scores"),
  "text-ranking" = "scores",
  "token-classification" = "entities",
  "question-answering" = "answers",
  "fill-mask" = "masks",
  "sparse-embedding" = "sparse",
  "multi-vector" = "vectors"
)

whole_bytes <- function(x) writeBin(as.integer(unlist(x)), raw(), size = 4L, endian = "little")

float_bytes_of <- function(x) writeBin(as.double(unlist(x)), raw(), size = 4L, endian = "little")

# One row for each text: `columns` are made of its numbers.
matrix_table <- function(numbers, width) {
  list(
    names = "values", kinds = "matrix", levels = character(), width = width,
    columns = function(lines, places) {
      rows <- lapply(lines, numbers)
      # By columns, as a matrix of R is.
      values <- matrix(as.double(unlist(rows)), nrow = length(rows), byrow = TRUE)
      list(row = whole_bytes(places), values = float_bytes_of(values))
    }
  )
}

# Several rows for each text: `rows(line)` gives a list of lists, each with the fields that `kinds` names.
rows_table <- function(kinds, rows, levels = character(), width = 0) {
  list(
    names = names(kinds), kinds = unname(kinds), levels = levels, width = width,
    columns = function(lines, places) {
      found <- lapply(lines, rows)
      every <- unlist(found, recursive = FALSE)
      columns <- lapply(stats::setNames(nm = names(kinds)), function(name) {
        values <- lapply(every, `[[`, name)
        switch(
          kinds[[name]],
          text = values,
          # What is no number, JSON writes as null.
          float = float_bytes_of(lapply(values, function(value) value %||% NaN)),
          vector = float_bytes_of(values),
          level = whole_bytes(match(as.character(unlist(values)), levels)),
          whole_bytes(values)
        )
      })
      c(list(row = whole_bytes(rep(places, lengths(found)))), columns)
    }
  )
}

label_rows <- function(info, options, levels) {
  top <- options$top_k
  rows_table(c(label = "level", score = "float"), levels = levels, rows = function(line) {
    if (identical(info$problem_type, "regression") && is.null(options$labels)) {
      scores <- line$scores %||% list(line$score)
      return(Map(function(label, score) list(label = label, score = score), levels[seq_along(scores)], unname(scores)))
    }
    scores <- line$scores
    chosen <- if (!is.null(top)) {
      # As Python has them: the largest first, of equal ones as the model has them.
      utils::head(names(scores)[order(-as_float32(as.double(unlist(scores))))], top)
    } else {
      as.character(unlist(if (is.null(line$labels)) line$label else line$labels))
    }
    lapply(chosen, function(label) list(label = label, score = scores[[label]]))
  })
}

spans <- function(found) {
  lapply(found, function(one) {
    one$start <- one$start + 1L
    one
  })
}

# The tables of runtime/r_tables.py, of JSON lines.
SERVER_TABLES <- list(
  embeddings = function(info, options) {
    packed <- identical(options$encoding, "binary") || identical(options$encoding, "ubinary")
    width <- options$dimensions %||% info$width
    matrix_table(function(line) line$embedding, if (packed) width / 8 else width)
  },
  scores = function(info, options) {
    matrix_table(function(line) unlist(line$scores %||% line$score, use.names = FALSE), max(length(info$labels), 1))
  },
  labels = function(info, options) label_rows(info, options, info$labels),
  zero_shot = function(info, options) label_rows(info, options, options$labels),
  ranks = function(info, options) rows_table(c(score = "float"), function(line) list(list(score = line$score))),
  entities = function(info, options) {
    whole <- identical(options$aggregation, "none")
    levels <- unique(if (whole) info$labels else sub("^[^-]*-", "", info$labels))
    rows_table(
      c(entity = "level", text = "text", score = "float", start = "int", end = "int"),
      function(line) spans(line$entities), setdiff(levels, "O")
    )
  },
  answers = function(info, options) {
    rows_table(c(answer = "text", score = "float", start = "int", end = "int"), function(line) {
      spans(line$answers %||% list(line[c("answer", "score", "start", "end")]))
    })
  },
  masks = function(info, options) {
    kinds <- c(mask = "int", rank = "int", token = "text", score = "float", sequence = "text")
    rows_table(kinds, function(line) {
      unlist(lapply(seq_along(line$masks), function(mask) {
        found <- line$masks[[mask]]
        Map(function(one, rank) c(one, list(mask = mask, rank = rank)), found, seq_along(found))
      }), recursive = FALSE)
    })
  },
  sparse = function(info, options) {
    rows_table(c(token = "text", id = "int", weight = "float"), function(line) {
      Map(
        function(token, id, weight) list(token = token, id = id, weight = weight),
        unlist(line$sparse$tokens), unlist(line$sparse$ids), unlist(line$sparse$weights)
      )
    })
  },
  vectors = function(info, options) {
    rows_table(c(position = "int", vector = "vector"), function(line) {
      vectors <- rows_as_list(line$vectors)
      Map(function(vector, place) list(vector = vector, position = place), vectors, seq_along(vectors))
    })
  },
  tokens = function(info, options) {
    asked <- options$prompt %||% info$default_prompt
    before <- nchar(info$prompt_texts[[asked]] %||% "")
    kinds <- c(
      position = "int", token = "text", id = "int", type_id = "int", start = "place", end = "place", special = "flag"
    )
    rows_table(kinds, function(line) {
      found <- unlist(lapply(line$pieces, function(piece) tokens_of(piece$encoding, before)), recursive = FALSE)
      Map(function(one, place) c(one, list(position = place)), found, seq_along(found))
    })
  },
  chunks = function(info, options) {
    width <- options$dimensions %||% info$width
    kinds <- c(chunk = "int", start = "int", end = "int", embedding = "vector")
    rows_table(kinds, width = width, function(line) {
      Map(function(one, place) {
        one$chunk <- place
        one
      }, spans(line$chunks), seq_along(line$chunks))
    })
  }
)

# As runtime/r_tables.py has them: the tokenizer saw the prompt before the text, which the user does not.
tokens_of <- function(encoding, before) {
  first <- encoding$sequence_ranges[["0"]]
  lapply(seq_along(encoding$tokens), function(i) {
    own <- is.null(first) || (i > first$start && i <= first$end)
    place <- encoding$offsets[[i]] - if (own) before else 0L
    special <- encoding$special_tokens_mask[[i]]
    start <- max(place[[1]], 0L)
    none <- special == 1L || place[[2]] <= start
    list(
      token = encoding$tokens[[i]], id = encoding$ids[[i]], type_id = encoding$type_ids[[i]],
      start = if (none) 0L else start + 1L, end = if (none) 0L else place[[2]], special = special
    )
  })
}

hidden_rows <- function(width) {
  kinds <- c(position = "int", token = "text", start = "place", end = "place", vector = "vector")
  rows_table(kinds, width = width, function(line) {
    Map(
      function(token, place, vector, position) {
        none <- place[[2]] <= place[[1]]
        list(
          position = position, token = token, start = if (none) 0L else place[[1]] + 1L,
          end = if (none) 0L else place[[2]], vector = vector
        )
      },
      line$tokens %||% line$words, line$offsets, rows_as_list(line$vectors), seq_along(line$offsets)
    )
  })
}

# Runs code that asks a server, and returns what it gives, or its error, as an answer.
answered <- function(code) {
  tryCatch(c(list(ok = TRUE), code), bertonnx_server_error = function(error) {
    list(ok = FALSE, error = list(
      type = error$type, message = conditionMessage(error), kind = error$kind, expected = "yes", traceback = ""
    ))
  })
}

stop_server <- function(type, template, ..., kind = "") {
  facts <- list(...)
  for (name in names(facts)) template <- sub(paste0("{", name, "}"), facts[[name]], template, fixed = TRUE)
  stop(structure(
    class = c("bertonnx_server_error", "error", "condition"),
    list(message = template, call = NULL, type = type, kind = kind)
  ))
}

# The answer of a server; where it is too busy, it is asked again until the time is up.
asked <- function(server, method, path, body = NULL, send = sent) {
  until <- Sys.time() + server$timeout
  json <- if (!is.null(body)) enc2utf8(as.character(jsonlite::toJSON(body, auto_unbox = TRUE, digits = NA, null = "null")))
  repeat {
    answer <- allowInterrupts(send(server, method, paste0(sub("/+$", "", server$url), path), json))
    wait <- pause_of(answer)
    if (!answer$status %in% c(429L, 503L) || Sys.time() + wait > until) break
    allowInterrupts(Sys.sleep(wait))
  }
  read_answer(server, answer)
}

read_answer <- function(server, answer) {
  found <- tryCatch(
    jsonlite::fromJSON(answer$body, simplifyVector = TRUE, simplifyDataFrame = FALSE, simplifyMatrix = FALSE),
    error = function(error) NULL
  )
  if (!is.list(found)) stop_foreign(server, answer$status)
  if (answer$status < 300L) {
    return(found)
  }
  error <- found$error
  if (!is.list(error)) stop_foreign(server, answer$status)
  if (!is.null(error$class)) {
    stop_server(error$class, "{said}", said = error$message, kind = error$kind %||% "runtime")
  }
  if (answer$status == 401L) {
    given <- if (is.null(server$api_key)) "none was given" else "this one is not it"
    stop_server("ServerError", "the server needs a key, and {given}; give it as `api_key`", given = given)
  }
  # Of a task that the model is not for.
  if (answer$status == 424L) stop_server("TaskError", "{said}", said = error$message)
  stop_server("ServerError", "the server refused (status {status}): {said}", status = answer$status, said = error$message)
}

stop_foreign <- function(server, status) {
  stop_server(
    "ServerError", "what answers at {url} is no server of bertonnx (status {status})", url = server$url, status = status
  )
}

# Seconds that the server asks to wait, and some more: not all shall come at once.
pause_of <- function(answer) {
  asked <- suppressWarnings(as.double(answer$headers[["retry-after-ms"]] %||% NA)) / 1000
  if (is.na(asked)) asked <- 1
  min(max(asked, 0.05), 5) * (1 + 0.2 * (as.double(Sys.time()) %% 1))
}

# One request; `status`, `headers` and `body`, by whichever package is there.
sent <- function(server, method, url, json) {
  send <- TRANSPORTS[[server$transport]]
  tryCatch(send(server, method, url, json), error = function(error) {
    stop_server(
      "ServerError", "the server at {url} cannot be reached: {why}",
      url = server$url, why = sub("\n.*$", "", conditionMessage(error$parent %||% error))
    )
  })
}

TRANSPORTS <- list(
  curl = function(server, method, url, json) {
    handle <- curl::new_handle(timeout = ceiling(server$timeout), customrequest = method)
    headers <- list("content-type" = "application/json", "expect" = "")
    if (!is.null(server$api_key)) headers$authorization <- paste("Bearer", server$api_key)
    do.call(curl::handle_setheaders, c(list(handle), headers))
    if (!is.null(json)) curl::handle_setopt(handle, postfields = json)
    answer <- curl::curl_fetch_memory(url, handle)
    list(
      status = answer$status_code, headers = curl::parse_headers_list(answer$headers),
      body = in_utf8(rawToChar(answer$content))
    )
  },
  httr2 = function(server, method, url, json) {
    request <- httr2::req_timeout(httr2::req_method(httr2::request(url), method), ceiling(server$timeout))
    request <- httr2::req_error(request, is_error = function(answer) FALSE)
    if (!is.null(server$api_key)) request <- httr2::req_headers(request, Authorization = paste("Bearer", server$api_key))
    if (!is.null(json)) request <- httr2::req_body_raw(request, charToRaw(json), "application/json")
    answer <- httr2::req_perform(request)
    headers <- httr2::resp_headers(answer)
    list(
      status = httr2::resp_status(answer), headers = stats::setNames(as.list(headers), tolower(names(headers))),
      body = httr2::resp_body_string(answer, "UTF-8")
    )
  }
)

in_utf8 <- function(text) {
  Encoding(text) <- "UTF-8"
  text
}
