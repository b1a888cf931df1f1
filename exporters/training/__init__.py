"""From labelled texts to a model file: a head on the embeddings of another file, or fine-tuning."""
