library(testthat)
library(bertonnx)

test_check("bertonnx")
