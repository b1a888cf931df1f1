"""Golden examples: what a file answered when it was exported, and whether it still does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertonnx.errors import DriftError, ModelFileError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.cpu import saturation_warning
from bertonnx.runtime.modelfile import read_model_file, weights_sha256
from bertonnx.runtime.rows import Array, Encoded, Piece, Row
from bertonnx.runtime.session import PROVIDERS, Provider, Session, open_session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["TOLERANCE", "CheckReport", "check", "examples_of", "sha256_text"]

TOLERANCE: Mapping[tuple[str, str], float] = {
    ("fp32", "cpu"): 1e-4,
    ("fp32", "cuda"): 1e-3,
    ("fp16", "cpu"): 5e-3,
    ("fp16", "cuda"): 5e-3,
    ("int8", "cpu"): 5e-2,
    ("int8", "cuda"): 5e-2,
}
"""Allowed difference by precision and provider, times max(1, largest golden number).

Of INT8, a last bit that another CPU rounds otherwise can move an activation by a whole step.
"""

_NUMBERS = 512
"""Numbers of each output that an example keeps, evenly spread over it."""


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        examples: golden examples replayed.
        max_abs_difference: largest difference to the numbers noted at export.
        tolerance: what was allowed.
        provider: what ran the model.
    """

    examples: int
    max_abs_difference: float
    tolerance: float
    provider: str


def check(path: str | Path, provider: Provider = "auto") -> CheckReport:
    """Replay the golden examples inside a file, and compare weights and tokenizer with the card.

    Raises:
        DriftError: a weight, the tokenizer or an answer is not what it was at export.
        ModelFileError: the file is broken or carries no golden examples.
        ProviderError: the provider cannot be used.
        UsageError: there is no such provider.
    """
    if provider not in PROVIDERS:
        raise UsageError(f"provider is {provider!r}; it can be {', '.join(PROVIDERS)}")
    path = Path(path)
    file = read_model_file(path)
    card, golden = file.card, file.golden
    if not golden:
        raise ModelFileError(f"{path} carries no golden examples; export the checkpoint again")
    if any(set(example["outputs"]) != set(card.outputs) for example in golden):
        raise ModelFileError(f"the golden examples of {path} lack outputs; export the checkpoint again")
    _unchanged(path, "tokenizer", card.tokenizer_sha256, sha256_text(file.tokenizer))
    _unchanged(path, "weights", card.weights_sha256, weights_sha256(path))
    tokenizer = TextTokenizer(file.tokenizer, card)
    session = open_session(path, provider=provider, optimized=card.optimize == "full")
    if (card.precision, session.provider) not in TOLERANCE:
        raise ModelFileError(f"{path} is of precision {card.precision}, which this bertonnx does not know")
    warning = saturation_warning(card.quantization) if session.provider == "cpu" else ""
    if warning:
        raise DriftError(warning)
    tolerance = TOLERANCE[card.precision, session.provider]
    worst = allowed = 0.0
    for number, example in enumerate(golden):
        difference, scale = _replay(number, example, tokenizer, session)
        allowed = max(allowed, tolerance * scale)
        worst = max(worst, difference)
        if not difference <= tolerance * scale:
            raise DriftError(
                f"golden example {number} of {path} comes out differently: largest difference "
                f"{difference:.3g}, allowed {tolerance * scale:.3g} on {session.provider}; "
                "this machine or ONNX Runtime computes otherwise, or the graph was changed: export again"
            )
    return CheckReport(len(golden), worst, allowed, session.provider)


def examples_of(
    rows: Sequence[Row], tokenizer: TextTokenizer, session: Session, card: Card
) -> list[dict[str, Any]]:
    """Return golden examples, JSON-ready, for texts that the tokenizer takes whole or cut."""
    examples = []
    for encoded in tokenizer.encode(rows):
        assert isinstance(encoded, Encoded)
        piece = encoded.pieces[0]
        outputs = _run(session, piece, card.outputs)
        examples.append(
            {
                "text": encoded.row.text,
                "pair": encoded.row.pair,
                "ids": piece.ids.tolist(),
                "outputs": {name: _sample(array).tolist() for name, array in outputs.items()},
            }
        )
    return examples


def sha256_text(text: str) -> str:
    """Return the SHA-256, in hex, of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _replay(
    number: int, example: Mapping[str, Any], tokenizer: TextTokenizer, session: Session
) -> tuple[float, float]:
    """Return the largest difference and the scale that the tolerance is meant for."""
    encoded = tokenizer.encode([Row(example["text"], example["pair"])])[0]
    assert isinstance(encoded, Encoded)
    piece = encoded.pieces[0]
    if piece.ids.tolist() != example["ids"]:
        raise DriftError(
            f"golden example {number} is tokenized differently than at export ({example['text'][:60]!r}): "
            "the tokenizer in the file or the tokenizers package changed"
        )
    worst, scale = 0.0, 1.0
    for name, array in _run(session, piece, tuple(example["outputs"])).items():
        expected = np.array(example["outputs"][name], dtype=np.float32)
        actual = _sample(array)
        if actual.shape != expected.shape:
            return math.inf, scale
        difference = float(np.abs(actual - expected).max(initial=0.0))
        worst = max(worst, math.inf if math.isnan(difference) else difference)
        scale = max(scale, float(np.abs(expected).max(initial=0.0)))
    return worst, scale


def _run(session: Session, piece: Piece, outputs: Sequence[str]) -> dict[str, Array]:
    feeds = {
        "input_ids": piece.ids[None],
        "attention_mask": np.ones_like(piece.ids)[None],
        "token_type_ids": piece.type_ids[None],
    }
    arrays = session.run(outputs, {name: feeds[name] for name in session.inputs})
    return {name: array[0] for name, array in zip(outputs, arrays, strict=True)}


def _sample(array: Array) -> Array:
    flat = array.ravel()
    return flat[:: max(1, flat.size // _NUMBERS)]


def _unchanged(path: Path, what: str, noted: str, found: str) -> None:
    if noted != found:
        raise DriftError(
            f"the {what} in {path} changed after export (SHA-256 {found[:12]}…, and the card says "
            f"{noted[:12]}…); copy or export the model again"
        )
