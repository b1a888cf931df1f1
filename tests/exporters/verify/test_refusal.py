"""INT8 that would put documents into another order, refused from folder to exit code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import edit_weights
from tests.commands import Command
from tests.tiny import save_tiny

LAST = "bert.encoder.layer.1."

SMALL = 0.005
"""How far two rows of a weight differ on which all depends: less than a step of INT8, and so much that fp32
passes its comparison with PyTorch."""


def fragile(tensors: dict[str, Any]) -> dict[str, Any]:
    """Let the head see nothing but the small difference between two numbers of a token, made large."""
    chance = torch.Generator().manual_seed(1)
    dense = tensors[f"{LAST}output.dense.weight"]
    dense[1] = dense[0] + SMALL * torch.randn(dense.shape[1], generator=chance)
    tensors[f"{LAST}output.dense.bias"][1] = tensors[f"{LAST}output.dense.bias"][0]
    for name, value in (("weight", 1), ("bias", 0)):
        # What goes past the layer would differ between the two.
        tensors[f"{LAST}attention.output.LayerNorm.{name}"][:2] = 0
        tensors[f"{LAST}output.LayerNorm.{name}"][:2] = value
    (head,) = {"bert.pooler.dense", "cls.predictions.transform.dense"} & {
        name.removesuffix(".weight") for name in tensors
    }
    weight = tensors[f"{head}.weight"].zero_()
    scale = torch.randn(len(weight), generator=chance) / SMALL
    weight[:, 0], weight[:, 1] = scale, -scale
    # Around what the layer normalization that may follow is no amplifier.
    tensors[f"{head}.bias"].normal_(std=2, generator=chance)
    return tensors


@pytest.mark.parametrize(
    ("task", "head", "metric"),
    [
        ("text-ranking", "text-ranking", "order"),
        ("sparse-embedding", "fill-mask", "rank correlation"),
    ],
)
def test_an_order_that_int8_loses(
    task: str, head: str, metric: str, command: Command, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / "folder", "bert", head)
    edit_weights(folder, fragile)
    done = command("export", folder, "-o", tmp_path / "model.onnx", "--task", task, "--quantize")
    assert done.code == 1
    error = done.err[done.err.index("error: ") :]
    found = re.match(r"error: INT8 agrees with fp32 to (\d+\.\d+)% \((.+)\) on \d+ texts", error)
    assert found is not None, error
    assert float(found[1]) < 98.5
    assert found[2] == metric
    assert "and 99% was asked; no file was written" in error
    assert "--calibration FILE" in error
    assert "--min-agreement 0." in error
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
