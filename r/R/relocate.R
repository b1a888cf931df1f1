#' Say where a model's file is now
#'
#' A saved model, recipe or workflow knows its model by the path of the file, and by what is in it. Where the
#' file was moved, or the object was brought to another machine, `bert_relocate()` gives the object back with the
#' new path, when the file there is that model.
#'
#' Often nothing needs to be said: a file that is no longer where it was is looked for by its name in the
#' working folder, and in those that the option `bertonnx.models` (or the environment variable
#' `BERTONNX_MODELS`) names.
#'
#' @param x A model, or any object that holds some: a recipe, a workflow, a list. Or the path of an `.rds` file
#'   with such an object, which is read.
#' @param path The model's file, or a folder that holds it, in which it is looked for by its name. By default
#'   the folder of the `.rds` file, or the working folder.
#' @return The object, with all the models in it where they are now.
#' @examplesIf file.exists("embeddings.onnx") && bertonnx::bert_available()
#' model <- bert_load("embeddings.onnx")
#' moved <- file.path(tempdir(), "moved.onnx")
#' file.copy("embeddings.onnx", moved)
#' bert_relocate(model, moved)
#' @export
bert_relocate <- function(x, path = NULL) {
  call <- rlang::current_env()
  if (!is.null(path)) check_string(path)
  if (rlang::is_string(x)) {
    folder <- dirname(x)
    x <- saved_object(x, call)
    path <- path %||% folder
  }
  count <- 0L
  moved <- walk_models(x, function(model) {
    count <<- count + 1L
    moved_model(model, path %||% getwd(), call)
  })
  if (count == 0L) {
    bert_abort("{.arg x} holds no model that was loaded with {.fn bert_load}.", "input", call = call)
  }
  moved
}

saved_object <- function(file, call) {
  if (!file.exists(file)) {
    bert_abort("There is no file {.file {file}}.", "input", call = call)
  }
  tryCatch(readRDS(file), error = function(error) {
    bert_abort(
      c("{.file {file}} is no {.file .rds} file.", "i" = "To load a model's file, type {.code bert_load(\"{file}\")}."),
      "input",
      parent = error,
      call = call
    )
  })
}

# Models in lists, also in lists of lists; not in environments, which others may hold as well.
walk_models <- function(x, change) {
  if (inherits(x, "bert_model")) {
    return(change(x))
  }
  if (!is.list(x)) {
    return(x)
  }
  for (place in seq_along(x)) {
    part <- .subset2(x, place)
    if (!is.list(part)) next
    changed <- walk_models(part, change)
    if (!identical(changed, part)) x <- replaced(x, place, changed)
  }
  x
}

# Whatever `[[<-` means for the class.
replaced <- function(x, place, value) {
  class <- oldClass(x)
  x <- unclass(x)
  x[[place]] <- value
  oldClass(x) <- class
  x
}

moved_model <- function(model, path, call) {
  path <- path.expand(path)
  inside <- file.path(path, basename(model$path))
  file <- if (dir.exists(path) && file.exists(inside)) inside else path
  if (!file.exists(file) || (dir.exists(file) && !dir.exists(model$path) && file == path && !is_model_folder(path))) {
    name <- basename(model$path)
    bert_abort(
      c(
        "There is no {.file {name}} in {.file {path}}.",
        "i" = "Name the file itself: {.code bert_relocate(x, \"path/to/{name}\")}."
      ),
      "model_file",
      call = call
    )
  }
  model$path <- normalizePath(file)
  model$connection <- new_connection(NULL)
  # Of no process: it is opened when it is first needed, which is now.
  model$connection$pid <- NULL
  live_handle(model, call)
  model
}

# As optimum-cli makes them.
is_model_folder <- function(path) {
  file.exists(file.path(path, "config.json"))
}

# Where a model's file is: where it was, or where one of its name lies that turns out to be the same.
present_path <- function(model) {
  if (file.exists(model$path)) {
    return(model$path)
  }
  places <- file.path(c(getwd(), model_folders()), basename(model$path))
  places <- places[file.exists(places)]
  if (length(places) > 0) places[[1]] else model$path
}

model_folders <- function() {
  named <- strsplit(Sys.getenv("BERTONNX_MODELS"), .Platform$path.sep, fixed = TRUE)[[1]]
  path.expand(c(getOption("bertonnx.models"), named[nzchar(named)]))
}

check_present <- function(path, call) {
  if (file.exists(path)) {
    return(invisible())
  }
  name <- basename(path)
  bert_abort(
    c(
      "The model's file {.file {path}} is not there any more.",
      "i" = "If it was moved, say where to: {.code model <- bert_relocate(model, \"path/to/{name}\")}."
    ),
    "model_file",
    call = call
  )
}
