#' See that nothing changed between Python and R
#'
#' Replays the golden examples that lie in a model's file (what it answered when it was exported,
#' and was compared with PyTorch), makes sure that graph, weights and tokenizer are those of the
#' export, says whether the file is signed and by whom, and predicts the same texts in Python and in R to compare them bit for bit.
#'
#' With `source`, the model is also compared with the TensorFlow checkpoint that it was exported from:
#' tensor by tensor, by name and number, where one that stands in another's place or transposed is named; and by what
#' a fresh export of that checkpoint, which is compared with PyTorch, predicts for the same texts.
#'
#' @param model A model, from [bert_load()].
#' @param public_key A PEM file with the public key of who signed the model's file
#'   (`bertonnx sign`). Without it a signature is not verified, and `ok` is `NA` in its row.
#' @param source A TensorFlow checkpoint, as [bert_weights()] takes it, or `NULL`.
#' @return A tibble with the columns `check`, `ok`, `value`, `allowed` (of differences, in the units
#'   of the model's outputs) and `detail`.
#' @examplesIf file.exists("embeddings.onnx") && bert_available()
#' bert_verify(bert_load("embeddings.onnx"))
#' @export
bert_verify <- function(model, source = NULL, public_key = NULL) {
  call <- rlang::current_env()
  check_model(model, call)
  found <- rbind(
    verified_export(model), verified_file(model, call), verified_bits(model, call),
    verified_signature(model, public_key, call)
  )
  if (is.null(source)) {
    return(found)
  }
  check_string(source)
  rbind(found, verified_weights(model, source, call), verified_source(model, source, call))
}

verified_weights <- function(model, source, call) {
  found <- engine_ask(engine_of(model), "compare_weights", model$path, path.expand(source), call = call)
  ok <- nzchar(as.character(unlist(found$same)))
  difference <- as.double(unlist(found$difference))
  compared <- !is.nan(difference)
  verified(
    "The weights are those of the source",
    all(ok) && any(compared),
    if (any(compared)) max(difference[compared]) else NA_real_,
    max(as.double(unlist(found$allowed))),
    weights_detail(
      as.character(unlist(found$name)), ok, compared,
      as.character(unlist(found$misplaced)), nzchar(as.character(unlist(found$turned)))
    )
  )
}

weights_detail <- function(names, ok, compared, misplaced, turned) {
  if (all(ok)) {
    return(sprintf("%d tensors compared, of %d", sum(compared), length(names)))
  }
  wrong <- which(!ok)
  # A pair that changed places first: it is the one thing that is wrong then.
  wrong <- wrong[order(!nzchar(misplaced[wrong]))]
  first <- wrong[[1]]
  if (nzchar(misplaced[[first]])) {
    how <- if (turned[[first]]) ", transposed" else ""
    return(
      sprintf("in place of %s stands %s%s (%d tensors differ)", names[[first]], misplaced[[first]], how, length(wrong))
    )
  }
  sprintf("%s differs (%d tensors differ)", names[[first]], length(wrong))
}

# Through a fresh export, which PyTorch has checked, so that nothing of this file judges itself.
verified_source <- function(model, source, call) {
  check <- "The predictions are those of the source"
  fresh <- tempfile(fileext = ".onnx")
  on.exit(unlink(fresh))
  done <- rlang::try_fetch(
    {
      arguments <- c(list(source, fresh), made_with(model, call))
      suppressMessages(utils::capture.output(do.call(bert_export, arguments)))
      TRUE
    },
    bertonnx_error_no_python = function(error) FALSE
  )
  if (!done) {
    return(verified(check, NA, NA_real_, NA_real_, "not compared: this takes PyTorch, which is not installed"))
  }
  other <- bert_load(fresh, device = "cpu")
  on.exit(close(other), add = TRUE)
  golden <- engine_ask(engine_of(model), "golden", model$path, call = call)
  texts <- as.character(unlist(golden$texts))
  pairs <- as.character(unlist(golden$pairs))
  pairs <- if (all(nzchar(pairs))) pairs
  input <- as_pairs(as_text(texts), pairs)
  table <- engine_of_model(model, "fingerprint", texts, pairs, call = call)$table
  own <- numbers_in_r(model, table, input, call)
  theirs <- numbers_in_r(other, table, input, call)
  difference <- if (length(own) == length(theirs)) max(abs(own - theirs)) else Inf
  allowed <- switch(model$info$precision, int8 = 0.1, fp16 = 0.02, 1e-4) * max(1, abs(theirs))
  verified(
    check, difference <= allowed, difference, allowed,
    sprintf("largest difference of %d numbers, of %d texts", length(theirs), length(texts))
  )
}

# The options that change what is predicted, as the file was made with them.
made_with <- function(model, call) {
  asked <- engine_ask("python", "asked", model$path, call = call)
  options <- lapply(asked[c("task", "pooling", "max_length", "activation")], as.character)
  options <- c(options[vapply(options, nzchar, NA)], list(normalize = c(yes = TRUE, no = FALSE)[asked$normalize]))
  options <- c(options, list(ignore_keys = as.character(unlist(asked$ignore_keys))))
  options <- options[lengths(options) > 0 & !vapply(options, anyNA, NA)]
  if (!is.null(options$max_length)) options$max_length <- as.integer(options$max_length)
  lapply(options, unname)
}

verified <- function(check, ok, value, allowed, detail) {
  tibble::tibble(check = check, ok = ok, value = value, allowed = allowed, detail = detail)
}

verified_export <- function(model) {
  info <- model$info
  verified(
    "PyTorch and the file agreed at export",
    !is.nan(info$parity) && info$parity <= info$tolerance,
    info$parity,
    info$tolerance,
    "largest difference over all outputs, noted in the file"
  )
}

verified_file <- function(model, call) {
  verify <- engine_function(engine_of(model), "verify", call)
  answer <- awaited(verify(model$path, model$device))
  check <- "The file answers here as it did at export"
  if (!isTRUE(answer$ok) && identical(answer$error$type, "DriftError")) {
    return(verified(check, FALSE, NA_real_, NA_real_, answer$error$message))
  }
  report <- unwrap(answer, call)
  detail <- sprintf(
    "%d golden examples on %s; graph, weights and tokenizer unchanged, %d texts tokenized alike",
    report$examples, report$provider, report$texts
  )
  verified(check, TRUE, report$max_abs_difference, report$tolerance, detail)
}

# No row where there is no signature, and none was asked for.
verified_signature <- function(model, public_key, call) {
  signature <- engine_function(engine_of(model), "signature", call)
  answer <- awaited(signature(model$path, public_key))
  check <- "The file is what the owner of a key signed"
  if (!isTRUE(answer$ok) && identical(answer$error$type, "SignatureError")) {
    return(verified(check, FALSE, NA_real_, NA_real_, answer$error$message))
  }
  found <- unwrap(answer, call)
  if (!nzchar(found$signer)) {
    return(NULL)
  }
  how <- if (found$verified) "signed by the key %s" else "signed, not verified: it names the key %s"
  verified(check, if (found$verified) TRUE else NA, NA_real_, NA_real_, sprintf(how, found$signer))
}

verified_bits <- function(model, call) {
  golden <- engine_ask(engine_of(model), "golden", model$path, call = call)
  texts <- as.character(unlist(golden$texts))
  pairs <- as.character(unlist(golden$pairs))
  pairs <- if (all(nzchar(pairs))) pairs
  python <- engine_of_model(model, "fingerprint", texts, pairs, call = call)
  numbers <- numbers_in_r(model, python$table, as_pairs(as_text(texts), pairs), call)
  verified(
    "R and Python give the same bits",
    identical(md5_of_floats(numbers), python$md5),
    as.double(length(numbers)),
    NA_real_,
    sprintf("numbers compared, of %d texts", length(texts))
  )
}

# Every number, row by row, as Python takes them from its own results.
numbers_in_r <- function(model, table, texts, call) {
  # Of the golden texts, one is longer than the model takes, on purpose.
  found <- suppressWarnings(
    predict_table(model, table, texts, call = call), classes = "bertonnx_warning_truncated"
  )
  numbers <- if (is.matrix(found)) found else as.matrix(found[vapply(found, is.double, NA)])
  as.vector(t(numbers))
}

md5_of_floats <- function(x) {
  file <- tempfile()
  on.exit(unlink(file))
  writeBin(x, file, size = 4L, endian = "little")
  unname(tools::md5sum(file))
}
