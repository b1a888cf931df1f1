# How the vignettes are rendered beforehand.
options(cli.width = 80, width = 80, cli.num_colors = 1L, pillar.bold = FALSE)
knitr::opts_chunk$set(
  collapse = TRUE,
  error = FALSE,
  comment = "#>",
  fig.path = paste0("figures/", sub("[.]Rmd[.]orig$", "", knitr::current_input()), "-"),
  dpi = 96
)
