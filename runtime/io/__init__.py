"""From a file of texts to a file of results: inputs, outputs, and the job between them."""
