"""What is done with embeddings after the model: similarity, smaller encodings, search."""
