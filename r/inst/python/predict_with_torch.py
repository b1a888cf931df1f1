"""Sentence embeddings by PyTorch: predict_with_torch.py FOLDER TEXTS.json."""

import json
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], device="cpu")
texts = json.loads(Path(sys.argv[2]).read_text("utf-8"))
print(json.dumps([[float(x) for x in row] for row in model.encode(texts)]))
