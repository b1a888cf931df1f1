# Tiny random models, made once by Python, or found in the folder BERTONNX_TEST_MODELS.

tests <- new.env(parent = emptyenv())

skip_without_python <- function() {
  skip_if_not(bert_available(), "no Python with the package bertonnx; bert_install() makes one")
  skip_if(
    bertonnx:::choose_python()$source == "managed" && Sys.getenv("RETICULATE_PYTHON") != "managed",
    "making an environment downloads much; RETICULATE_PYTHON=managed allows it"
  )
}

skip_without_sklearn <- function() {
  skip_without_python()
  there <- reticulate::py_module_available("sklearn") && reticulate::py_module_available("onnx")
  skip_if_not(there, "training takes scikit-learn and onnx; bert_install(extras = 'train')")
}

test_python <- function() {
  skip_without_python()
  chosen <- bertonnx:::choose_python()
  if (!is.na(chosen$python)) {
    return(chosen$python)
  }
  bertonnx:::bridge()
  reticulate::py_config()$python
}

models_folder <- function() {
  skip_without_python()
  if (is.null(tests$folder)) {
    named <- Sys.getenv("BERTONNX_TEST_MODELS")
    tests$folder <- if (nzchar(named)) normalizePath(named) else made_models()
  }
  tests$folder
}

made_models <- function() {
  python <- test_python()
  skip_if_not(
    nzchar(bertonnx:::examine_python(python)$torch),
    "making the models of the tests takes PyTorch; bert_install(export = TRUE) installs it"
  )
  folder <- file.path(tempdir(), "bertonnx-models")
  bertonnx:::run_python(python, shQuote(c(test_path("python", "make_models.py"), folder)))
  folder
}

model_file <- function(name) {
  file.path(models_folder(), paste0(name, ".onnx"))
}

# Loaded once a session.
tiny <- function(name) {
  if (is.null(tests[[name]])) assign(name, bert_load(model_file(name)), tests)
  tests[[name]]
}

hard_texts <- function() {
  skip_if_not_installed("jsonlite")
  lines <- readLines(test_path("python", "hard-texts.jsonl"), encoding = "UTF-8")
  vapply(lines, function(line) jsonlite::fromJSON(line)$text, "", USE.NAMES = FALSE)
}

expect_bert_error <- function(object, kind, regexp = NULL) {
  error <- expect_error(object, class = paste0("bertonnx_error_", kind))
  expect_s3_class(error, "bertonnx_error")
  if (!is.null(regexp)) expect_match(gsub("\\s+", " ", rlang::cnd_message(error)), regexp)
  invisible(error)
}

# As a user with a fresh R: nothing of this session's Python is there.
in_fresh_r <- function(code, args = list(), env = character()) {
  skip_if_not_installed("callr")
  env <- c(callr::rcmd_safe_env(), env)
  # Or all that is around it here would be sent along.
  environment(code) <- globalenv()
  callr::r(
    function(code, args, states) {
      source(states)
      do.call(code, args)
    },
    args = list(code, args, normalizePath(test_path("helper-states.R"))),
    env = env[!duplicated(names(env), fromLast = TRUE)], spinner = FALSE, timeout = LONG_ENOUGH
  )
}

# Environment variables under which a fresh R knows of no Python of anybody's.
nobodys_python <- function(home = withr::local_tempdir(.local_envir = parent.frame())) {
  c(RETICULATE_PYTHON = NA, RETICULATE_PYTHON_ENV = NA, VIRTUAL_ENV = NA, HOME = home, WORKON_HOME = home)
}

# What is typed elsewhere: on the command line, or in Python.
expect_r_words <- function(error) {
  for (text in c(rlang::cnd_message(error), conditionMessage(error$python))) {
    expect_no_match(text, "(^|[ (])--[a-z]|bertonnx (export|run|check|info|doctor)|bertonnx\\.[a-z]+\\(|pip install")
  }
}
