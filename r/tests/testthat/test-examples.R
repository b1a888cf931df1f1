# R CMD check runs examples where there is no model; here there are some.
test_that("the examples of the help pages run", {
  folder <- models_folder()
  withr::local_dir(folder)
  withr::local_pdf(withr::local_tempfile())
  pages <- tools::Rd_db("bertonnx")
  expect_gt(length(pages), 12)
  for (page in names(pages)) {
    code <- withr::local_tempfile(fileext = ".R")
    tools::Rd2ex(pages[[page]], code)
    if (!file.exists(code)) next
    expect_error(
      utils::capture.output(suppressMessages(source(code, local = new.env(), encoding = "UTF-8"))), NA,
      info = page
    )
  }
})
