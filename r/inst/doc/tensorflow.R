## ---- include = FALSE---------------------------------------------------------
library(bertonnx)
has_torch <- bert_available() && {
  seen <- bertonnx:::examine_python(reticulate::py_exe())
  !is.null(seen) && nzchar(seen$torch)
}
knitr::opts_chunk$set(collapse = TRUE, comment = "#>", eval = has_torch, message = FALSE, fig.width = 7, fig.height = 3.5)

## -----------------------------------------------------------------------------
library(bertonnx)
source <- system.file("extdata", "bert-tiny", package = "bertonnx")
list.files(source)

## -----------------------------------------------------------------------------
weights <- bert_weights(source)
weights
kernel <- weights$values[["bert/encoder/layer_0/attention/self/query/kernel"]]
dim(kernel)
kernel[1:2, 1:4]

## -----------------------------------------------------------------------------
file <- tempfile(fileext = ".onnx")
invisible(capture.output(bert_export(source, file)))
model <- bert_load(file)
bert_fill_mask(model, "a b [MASK] d", top_n = 2)

## -----------------------------------------------------------------------------
back <- bert_weights(model)
difference <- mapply(function(a, b) if (is.null(b)) NA else max(abs(a - b)), weights$values, back$values)
max(difference, na.rm = TRUE)

## -----------------------------------------------------------------------------
bert_verify(model, source = source)[, c("check", "ok", "value", "detail")]

## -----------------------------------------------------------------------------
knitr::kable(head(weights[!is.na(weights$became), c("name", "shape", "became", "how")], 12))

## -----------------------------------------------------------------------------
swapped <- back$values
names <- sprintf("bert/encoder/layer_1/attention/self/%s/kernel", c("query", "key"))
swapped[names] <- swapped[rev(names)]
far <- mapply(function(a, b) if (is.null(b)) NA else max(abs(a - b)), weights$values, swapped)
par(mar = c(4, 4, 1, 1))
plot(far, pch = 1, xlab = "tensor", ylab = "largest difference")
points(difference, pch = 19)
legend("topleft", c("as exported", "query and key swapped"), pch = c(19, 1), bty = "n")

