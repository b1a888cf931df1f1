#!/usr/bin/env Rscript
# What R costs on top of Python: Rscript benchmarks/r_bridge.R MODEL [TEXTS [TIMES]]
#
# `ratio` is R's time over Python's for the same texts, measured in turn; `outside` is the share of
# R's own time that was not spent predicting, from within one run, and is what to look at on a
# machine that does other things too. Ends with status 1 where it is over 2%.
arguments <- commandArgs(TRUE)
if (length(arguments) < 1) {
  stop("which model? Rscript benchmarks/r_bridge.R MODEL [TEXTS [TIMES]]", call. = FALSE)
}
n <- if (length(arguments) > 1) as.numeric(arguments[[2]]) else 10000
times <- if (length(arguments) > 2) as.numeric(arguments[[3]]) else 5

model <- bertonnx::bert_load(arguments[[1]])
print(model)
measured <- summary(bertonnx::bert_benchmark(model, n = n, times = times))
print(as.data.frame(measured), digits = 4, row.names = FALSE)
quit(status = if (measured$outside > 0.02) 1 else 0)
