"""Golden examples: what a file answered when it was exported, and whether it still does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertonnx.errors import DriftError, ModelFileError, RowError
from bertonnx.models.card import CARD_KEY, Card
from bertonnx.models.providers import PROVIDERS
from bertonnx.runtime.modelfile.held import held
from bertonnx.runtime.modelfile.modelfile import ModelFile, read_model_file, weights_sha256
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.rows import Array, Encoded, Piece, Row, feeds_of
from bertonnx.runtime.session.placement import Placement
from bertonnx.runtime.session.session import Session, open_session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["CheckReport", "check", "examples_of", "sha256_text"]

_LEAST_SCALE: Mapping[str, float] = {"fp32": 1.0}
"""Where a tolerance is small, one that shrinks with the numbers would find rounding; a large one that
does not would take zeros for a normalized embedding."""

_NUMBERS = 512
"""Numbers of each output that an example keeps, evenly spread over it."""


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        examples: golden examples replayed.
        max_abs_difference: largest difference to the numbers noted at export, of the output that came
            closest to its limit.
        tolerance: that output's limit.
        provider: what ran the model.
        placement: on a GPU, which nodes were there; None on CPU, or where ONNX Runtime cannot say.
    """

    examples: int
    max_abs_difference: float
    tolerance: float
    provider: str
    placement: Placement | None = None


@dataclass(frozen=True)
class _Gap:
    """How far an output is from what it was, and how far it may be."""

    output: str
    difference: float
    limit: float

    @property
    def share(self) -> float:
        """What part of the limit is used up: over 1 is too far, infinite where a number is not finite."""
        # A limit of zero is met by equal numbers.
        if self.difference == 0.0:
            return 0.0
        if not math.isfinite(self.difference) or not 0.0 < self.limit < math.inf:
            return math.inf
        return self.difference / self.limit


def check(path: str | Path, provider: str = "auto") -> CheckReport:
    """Replay the golden examples inside a file, and compare weights and tokenizer with the card.

    An output may differ from its golden numbers by the provider's tolerance for the file's precision
    (`models.providers.Provider.tolerances`) times the largest of them; of fp32, times max(1, largest).

    Raises:
        DriftError: a weight, the tokenizer or an answer is not what it was at export.
        ModelFileError: the file is broken or carries no golden examples.
        ProviderError: the provider cannot be used, or the file is INT8 for a CPU unlike this one.
        UsageError: there is no such provider.
    """
    options = LoadOptions(provider=provider)
    path = Path(path)
    # What is compared is what runs, whatever becomes of the file meanwhile.
    with held(path):
        return _checked(path, options)


def _checked(path: Path, options: LoadOptions) -> CheckReport:
    file = read_model_file(path)
    card, golden = file.card, file.golden
    _require_unchanged(path, file)
    tokenizer = TextTokenizer(file.tokenizer, card)
    # Opened last: what was changed must not run before that is said.
    session = open_session(path, card, options)
    limits = _limits(path, card, golden, session)
    closest = _Gap(card.outputs[0], 0.0, limits[card.outputs[0]])
    for number, example in enumerate(golden):
        differences = _replay(path, number, example, tokenizer, session)
        gaps = [_Gap(name, difference, limits[name]) for name, difference in differences.items()]
        # What came closest to its limit, not what is largest: outputs differ in size.
        closest = max(closest, *gaps, key=lambda gap: gap.share)
        if closest.share > 1:
            raise DriftError(
                "golden example {number} of {path} comes out differently: largest difference "
                "{difference:.3g} in {output}, allowed {limit:.3g} on {provider}; this machine or ONNX "
                "Runtime computes otherwise, or the graph was changed: export again",
                number=number,
                path=path,
                difference=closest.difference,
                output=closest.output,
                limit=closest.limit,
                provider=session.provider,
            )
    return CheckReport(len(golden), closest.difference, closest.limit, session.provider, session.placement)


def _require_unchanged(path: Path, file: ModelFile) -> None:
    card, golden = file.card, file.golden
    if not golden:
        raise ModelFileError("{path} carries no golden examples; export the checkpoint again", path=path)
    if any(set(example["outputs"]) != set(card.outputs) for example in golden):
        raise ModelFileError(
            "the golden examples of {path} lack outputs; export the checkpoint again", path=path
        )
    for example in golden:
        _unchanged(path, "card", str(example.get("card")), sha256_text(file.metadata[CARD_KEY]))
    _unchanged(path, "tokenizer", card.tokenizer_sha256, sha256_text(file.tokenizer))
    _unchanged(path, "weights", card.weights_sha256, weights_sha256(path))


def _limits(
    path: Path, card: Card, golden: Sequence[Mapping[str, Any]], session: Session
) -> dict[str, float]:
    """Return how far each output may be from its golden numbers."""
    tolerance = PROVIDERS[session.provider].tolerances.get(card.precision)
    if tolerance is None:
        raise ModelFileError(
            "{path} is of precision {precision}, which this bertonnx does not know",
            path=path,
            precision=card.precision,
        )
    least = _LEAST_SCALE.get(card.precision, 0.0)
    return {name: tolerance * max(least, _largest(golden, name)) for name in card.outputs}


def examples_of(
    rows: Sequence[Row], tokenizer: TextTokenizer, session: Session, card: Card
) -> list[dict[str, Any]]:
    """Return golden examples, JSON-ready, for texts that the tokenizer takes whole or cut.

    Each holds the SHA-256 of the card too: labels and limits decide an answer as weights do.
    """
    examples = []
    for encoded in tokenizer.encode(rows):
        assert isinstance(encoded, Encoded)
        piece = encoded.pieces[0]
        outputs = _run(session, piece, card.outputs)
        examples.append(
            {
                "card": sha256_text(card.to_json()),
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


def _largest(golden: Sequence[Mapping[str, Any]], output: str) -> float:
    """Return the largest absolute golden number of an output over all examples."""
    numbers = [np.array(example["outputs"][output], dtype=np.float32) for example in golden]
    return max(float(np.abs(array).max(initial=0.0)) for array in numbers)


def _replay(
    path: Path, number: int, example: Mapping[str, Any], tokenizer: TextTokenizer, session: Session
) -> dict[str, float]:
    """Return the largest difference of each output, infinite where numbers are missing or not finite."""
    encoded = tokenizer.encode([Row(example["text"], example["pair"])])[0]
    if isinstance(encoded, RowError):
        raise ModelFileError(
            "golden example {number} of {path} cannot be tokenized ({why}); export the checkpoint again",
            number=number,
            path=path,
            why=encoded.message,
        )
    piece = encoded.pieces[0]
    # Other tokens would give other numbers, and the tokenizer is the one to name.
    if piece.ids.tolist() != example["ids"]:
        raise DriftError(
            "golden example {number} is tokenized differently than at export ({text!r}): the tokenizer in "
            "the file or the tokenizers package changed",
            number=number,
            text=example["text"][:60],
        )
    return {
        name: _difference(_sample(array), np.array(example["outputs"][name], dtype=np.float32))
        for name, array in _run(session, piece, tuple(example["outputs"])).items()
    }


def _difference(actual: Array, expected: Array) -> float:
    if actual.shape != expected.shape or not np.isfinite(actual).all() or not np.isfinite(expected).all():
        return math.inf
    return float(np.abs(actual - expected).max(initial=0.0))


def _run(session: Session, piece: Piece, outputs: Sequence[str]) -> dict[str, Array]:
    arrays = session.run(outputs, feeds_of([piece], session.inputs))
    return {name: array[0] for name, array in zip(outputs, arrays, strict=True)}


def _sample(array: Array) -> Array:
    # Evenly over the whole output: the beginning alone would miss a changed head.
    flat = array.ravel()
    return flat[:: max(1, flat.size // _NUMBERS)]


def _unchanged(path: Path, what: str, noted: str, found: str) -> None:
    if noted != found:
        raise DriftError(
            "the {what} in {path} changed after export (SHA-256 {found}…, and {noted}… was noted then); copy "
            "or export the model again",
            what=what,
            path=path,
            found=found[:12],
            noted=noted[:12],
        )
