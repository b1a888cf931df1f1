"""TensorFlow's checkpoints, read without TensorFlow: from its files to a folder as transformers saves it."""
