# ragnar is not in Debian: what it does with the function is done here as there.
as_a_store_keeps_it <- function(embed) {
  environment(embed) <- baseenv()
  unserialize(serialize(embed, NULL))
}

test_that("a store's function needs nothing but itself", {
  path <- model_file("embeddings")
  expected <- unname(bert_embed(tiny("embeddings"), c("a text", "another")))
  embed <- as_a_store_keeps_it(embed_bertonnx(model = path))
  expect_identical(embed(c("a text", "another")), expected)
  expect_identical(ncol(embed("foo")), 32L)
  there <- in_fresh_r(function(embed) embed(c("a text", "another")), list(embed))
  expect_identical(there, expected)
  queries <- as_a_store_keeps_it(embed_bertonnx(model = tiny("embeddings"), prompt = "query"))
  expect_identical(queries("a text"), unname(bert_embed(tiny("embeddings"), "a text", prompt = "query")))
})

test_that("chunks get a column of embeddings, and the file is opened once", {
  chunks <- tibble::tibble(origin = "a.md", text = c("a text", "another"))
  found <- embed_bertonnx(chunks, model_file("embeddings"))
  expect_identical(found$embedding, unname(bert_embed(tiny("embeddings"), chunks$text)))
  expect_identical(found[1:2], chunks)
  opened <- the$loaded[[1]]$connection
  embed_bertonnx("x", model_file("embeddings"))
  expect_identical(the$loaded[[1]]$connection, opened)
  expect_identical(dim(embed_bertonnx(character(), model_file("embeddings"))), c(0L, 32L))
  expect_bert_error(embed_bertonnx("x", tiny("sentiment")), "task")
})
