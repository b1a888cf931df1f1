"""PyTorch against ONNX Runtime: every output of the task, on texts of unequal lengths.

The reference is the checkpoint in PyTorch with pooling, dense layers, normalisation and
activations computed here again, by torch; nothing of the graph is reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import ParityError
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.rows import Array, Encoded, Piece, Row
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer

if TYPE_CHECKING:
    import torch

__all__ = ["TOLERANCE", "Batch", "Parity", "batches", "compare"]

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
"""Allowed |difference| by precision, times max(1, largest |reference|)."""

_HINTS = {
    "fp32": "Try --optimize basic or none, and please report the model",
    "fp16": "Its numbers are too large or too close for fp16: leave --precision fp16 out",
}

_PER_TOKEN = {"last_hidden_state", "start_logits", "end_logits"}


@dataclass(frozen=True)
class Batch:
    """Inputs of one run: int64 arrays of shape (batch, tokens), by name."""

    feeds: dict[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Parity:
    """How far two engines are apart on one output: largest |difference|, largest |reference|."""

    max_abs_difference: float
    max_abs_reference: float


def batches(
    rows: Sequence[Row], tokenizer: TextTokenizer, *, inputs: Sequence[str], pad_token_id: int
) -> list[Batch]:
    """Return the rows as one padded batch, and then each alone without padding.

    Both matter: a graph may compute the two in different ways (`exporters.steps.unmasked`).
    """
    pieces = [item.pieces[0] for item in tokenizer.encode(rows) if isinstance(item, Encoded)]
    return [_padded(group, inputs, pad_token_id) for group in (pieces, *([piece] for piece in pieces))]


def compare(
    checkpoint: Checkpoint, session: Session, inputs: Sequence[Batch], *, precision: str = "fp32"
) -> dict[str, Parity]:
    """Return how far ONNX Runtime is from PyTorch, for each output of the task.

    Raises:
        ParityError: an output is further apart than `TOLERANCE` allows.
    """
    outputs = tuple(task_named(checkpoint.task).outputs)
    found = {name: Parity(0.0, 0.0) for name in outputs}
    for batch in inputs:
        reference = _reference(checkpoint, batch)
        actual = dict(zip(outputs, session.run(outputs, batch.feeds), strict=True))
        mask = batch.feeds["attention_mask"].astype(bool)
        for name in outputs:
            part = _difference(reference[name], actual[name], mask if _per_token(name, checkpoint) else None)
            found[name] = Parity(
                max(found[name].max_abs_difference, part.max_abs_difference),
                max(found[name].max_abs_reference, part.max_abs_reference),
            )
    for name, parity in found.items():
        allowed = TOLERANCE[precision] * max(1.0, parity.max_abs_reference)
        if not parity.max_abs_difference <= allowed:
            raise ParityError(
                f"ONNX Runtime and PyTorch disagree on {name}: largest difference "
                f"{parity.max_abs_difference:.3g}, allowed {allowed:.3g} ({precision}); no file was "
                f"written. {_HINTS[precision]}"
            )
    return found


def _per_token(name: str, checkpoint: Checkpoint) -> bool:
    return name in _PER_TOKEN or checkpoint.task in ("token-classification", "fill-mask")


def _padded(pieces: Sequence[Piece], inputs: Sequence[str], pad_token_id: int) -> Batch:
    length = max(len(piece.ids) for piece in pieces)
    shape = (len(pieces), length)
    feeds = {
        "input_ids": np.full(shape, pad_token_id, dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }
    for i, piece in enumerate(pieces):
        feeds["input_ids"][i, : len(piece.ids)] = piece.ids
        feeds["attention_mask"][i, : len(piece.ids)] = 1
        feeds["token_type_ids"][i, : len(piece.ids)] = piece.type_ids
    return Batch({name: feeds[name] for name in inputs})


def _difference(reference: Array, actual: Array, mask: npt.NDArray[np.bool_] | None) -> Parity:
    if actual.shape != reference.shape:
        raise ParityError(f"ONNX Runtime gives shape {actual.shape} where PyTorch gives {reference.shape}")
    if mask is not None:
        reference, actual = reference[mask], actual[mask]
    difference = np.abs(reference.astype(np.float64) - actual)
    # NaN compares false with everything, so it would pass for small.
    worst = float("inf") if np.isnan(difference).any() else float(difference.max(initial=0.0))
    return Parity(worst, float(np.abs(reference).max(initial=0.0)))


def _reference(checkpoint: Checkpoint, batch: Batch) -> dict[str, Array]:
    import torch

    feeds = {name: torch.from_numpy(array) for name, array in batch.feeds.items()}
    with torch.no_grad():
        raw = checkpoint.model(**feeds)
        tensors = {name: raw[name] for name in task_named(checkpoint.task).raw_outputs}
        if checkpoint.task == "feature-extraction":
            tensors["sentence_embedding"] = _embedding(
                checkpoint, tensors["last_hidden_state"], feeds["attention_mask"]
            )
        elif "scores" in task_named(checkpoint.task).outputs:
            tensors["scores"] = _scores(checkpoint.activation, tensors["logits"])
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def _embedding(checkpoint: Checkpoint, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    import torch

    weights = mask.unsqueeze(-1).to(tokens.dtype)
    if checkpoint.pooling == "cls":
        vector = tokens[:, 0]
    elif checkpoint.pooling == "last":
        vector = tokens[torch.arange(len(tokens)), mask.sum(dim=1) - 1]
    elif checkpoint.pooling == "max":
        vector = tokens.masked_fill(weights == 0, -1e9).amax(dim=1)
    else:
        vector = (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
    for layer in checkpoint.dense:
        bias = None if layer.bias is None else torch.from_numpy(layer.bias)
        vector = torch.nn.functional.linear(vector, torch.from_numpy(layer.weight), bias)
        if layer.activation != "identity":
            activation: Any = getattr(torch, layer.activation)
            vector = activation(vector)
    return torch.nn.functional.normalize(vector, p=2, dim=1) if checkpoint.normalize else vector


def _scores(activation: str, logits: torch.Tensor) -> torch.Tensor:
    if activation == "softmax":
        return logits.softmax(dim=-1)
    return logits.sigmoid() if activation == "sigmoid" else logits
