"""Tiny models of every task, exported.

`python -m tests.exported FOLDER` makes them for tests that run where nothing can export.
"""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["LABELS", "export_tiny"]

LABELS = {
    "feature-extraction": (),
    "text-classification": ("negative", "neutral", "positive"),
    "text-ranking": ("relevant",),
    "token-classification": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
    "question-answering": (),
    "fill-mask": (),
    "sparse-embedding": (),
    "multi-vector": (),
}
"""Task -> the labels of its model."""


def export_tiny(folder: Path) -> dict[str, Path]:
    """Export a model of each task to `folder/TASK/model.onnx`; returns the files by task."""
    # Not before: where tests run that use such models, torch may not be installed.
    import bertonnx
    from tests.tiny import save_tiny

    files = {}
    for task, labels in LABELS.items():
        source = save_tiny(folder / task / "checkpoint", task=task, labels=labels)
        files[task] = bertonnx.export(source, folder / task / "model.onnx").path
    return files


if __name__ == "__main__":
    export_tiny(Path(sys.argv[1]))
