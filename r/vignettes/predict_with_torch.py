"""Sentence embeddings by PyTorch: predict_with_torch.py FOLDER TEXTS.json."""

import json
import sys

from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], device="cpu")
with open(sys.argv[2], encoding="utf-8") as file:
    texts = json.load(file)
print(json.dumps([[float(x) for x in row] for row in model.encode(texts)]))
