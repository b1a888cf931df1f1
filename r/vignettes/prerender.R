# Renders the vignettes beforehand, so that building the package needs neither Python nor models:
#
#   Rscript vignettes/prerender.R FOLDER [NAME ...]
#
# Those of the names, or all. Some need no more than the package; for the others FOLDER holds embeddings.onnx,
# sentiment.onnx, entities.onnx, the checkpoint all-MiniLM-L6-v2 and
# reviews.csv (columns text and sentiment). name.Rmd.orig becomes name.Rmd, with its results.
folder <- normalizePath(commandArgs(TRUE)[[1]])
here <- normalizePath(dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE))))

names <- sub("\\.Rmd\\.orig$", "", list.files(here, "\\.Rmd\\.orig$"))
asked <- commandArgs(TRUE)[-1]
if (length(asked) > 0) names <- intersect(names, asked)
for (name in names) unlink(list.files(file.path(here, "figures"), paste0("^", name, "-"), full.names = TRUE))
for (name in names) {
  work <- tempfile(name)
  dir.create(work)
  file.copy(list.files(folder, full.names = TRUE), work, recursive = TRUE)
  needed <- list.files(here, "\\.orig$|^prerender-options", full.names = TRUE)
  file.copy(needed, work)
  # A process for each, as a reader would have it.
  callr::r(function(work, name) {
    setwd(work)
    knitr::knit(paste0(name, ".Rmd.orig"), paste0(name, ".Rmd"), quiet = TRUE)
  }, list(work, name), show = TRUE)
  lines <- readLines(file.path(work, paste0(name, ".Rmd")), encoding = "UTF-8")
  # Where it was rendered is nobody's business.
  lines <- gsub(paste0(normalizePath(work), "/"), "", lines, fixed = TRUE)
  writeLines(lines, file.path(here, paste0(name, ".Rmd")), useBytes = TRUE)
  if (dir.exists(file.path(work, "figures"))) {
    dir.create(file.path(here, "figures"), showWarnings = FALSE)
    file.copy(list.files(file.path(work, "figures"), full.names = TRUE), file.path(here, "figures"))
  }
  message("rendered ", name)
}
