"""Golden examples: what a file answered when it was exported, and whether it still does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertonnx.errors import DriftError, ModelFileError, RowError
from bertonnx.models.card import CARD_KEY, Card, lasting
from bertonnx.models.hard_texts import GOLDEN_TEXTS
from bertonnx.models.providers import PROVIDERS
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.modelfile.held import held
from bertonnx.runtime.modelfile.modelfile import ModelFile, graph_sha256, read_model_file, weights_sha256
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.rows import Array, Encoded, Piece, Row, by_text, feeds_of, feeds_together
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.placement import Placement
from bertonnx.runtime.session.session import RaggedSession, Session, open_session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["CheckReport", "batch_of", "check", "examples_of", "hard_texts_of", "sha256_text", "with_card"]

_LEAST_SCALE: Mapping[str, float] = {"fp32": 1.0}
"""Where a tolerance is small, one that shrinks with the numbers would find rounding; a large one that
does not would take zeros for a normalized embedding."""

_BATCH = 4
"""Examples that run as one batch."""

_SHORT = 64
"""Tokens up to which examples of all lengths run as one batch, where the session can: such texts the engine
puts together."""

_NUMBERS = 512
"""Numbers of each output that an example keeps, evenly spread over it."""

_LARGEST = 64
"""Of an output that is mostly zero, as a sparse embedding is, an example keeps so many of the largest too:
what is evenly spread over it could be zero everywhere, and a dead head would pass for a sound one."""


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        examples: golden examples replayed.
        batch: how many of them ran as one batch too.
        texts: texts whose token ids are those of the export.
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
    batch: int = 0
    texts: int = 0


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
    batch = [example for example in golden if example.get("batch")]
    closest = _Gap(card.outputs[0], 0.0, limits[card.outputs[0]])
    pieces = [_piece(path, number, example, tokenizer) for number, example in enumerate(golden)]
    # Where cores are what runs a model, each example has one.
    with ThreadPoolExecutor(allowed_cores() if PROVIDERS[session.provider].by_cores else 1) as pool:
        # The longest begin, so that no core waits for one at the end.
        runs = {
            number: pool.submit(_run, session, [pieces[number]], tuple(golden[number]["outputs"]))
            for number in sorted(range(len(golden)), key=lambda number: -len(pieces[number].ids))
        }
        for number, example in enumerate(golden):
            found = _differences(example, _rows(runs[number].result())[0])
            # What came closest to its limit, not what is largest: outputs differ in size.
            closest = max(closest, *_gaps(found, limits), key=lambda gap: gap.share)
            if closest.share > 1:
                raise _drift(path, f"golden example {number}", closest, session)
    together = [piece for piece, example in zip(pieces, golden, strict=True) if example.get("batch")]
    closest = max([closest, *_gaps(_together(batch, together, session), limits)], key=lambda gap: gap.share)
    if closest.share > 1:
        raise _drift(path, "the batch of golden examples (each alone comes out right)", closest, session)
    answers = {number: run.result() for number, run in runs.items()}
    _require_same_in_company(path, card, pieces, answers, session)
    texts = _require_same_ids(path, file.hard_texts, tokenizer)
    return CheckReport(
        len(golden),
        closest.difference,
        closest.limit,
        session.provider,
        session.placement,
        batch=len(batch),
        texts=texts,
    )


def _gaps(differences: Mapping[str, float], limits: Mapping[str, float]) -> list[_Gap]:
    return [_Gap(name, difference, limits[name]) for name, difference in differences.items()]


def _drift(path: Path, what: str, gap: _Gap, session: Session) -> DriftError:
    return DriftError(
        "{what} of {path} comes out differently: largest difference {difference:.3g} in {output}, allowed "
        "{limit:.3g} on {provider}; this machine or ONNX Runtime computes otherwise, or the graph was "
        "changed: export again",
        what=what,
        path=path,
        difference=gap.difference,
        output=gap.output,
        limit=gap.limit,
        provider=session.provider,
    )


def _together(
    batch: Sequence[Mapping[str, Any]], pieces: Sequence[Piece], session: Session
) -> dict[str, float]:
    """Return the largest difference of each output where examples of one length run as one batch.

    A graph that mixes up the rows of a batch is right for each of them alone.
    """
    largest: dict[str, float] = {}
    if not batch:
        return largest
    rows = _rows(_run(session, pieces, tuple(batch[0]["outputs"])))
    # Fewer rows than texts, or more, is the worst mix-up.
    rows = rows if len(rows) == len(batch) else [{} for _ in batch]
    for example, outputs in zip(batch, rows, strict=True):
        found = _differences(example, outputs)
        for name in example["outputs"]:
            largest[name] = max(largest.get(name, 0.0), found.get(name, math.inf))
    return largest


def _require_same_in_company(
    path: Path,
    card: Card,
    pieces: Sequence[Piece],
    answers: Mapping[int, Mapping[str, Array]],
    session: Session,
) -> None:
    """Let short examples of all lengths run as one batch, which must not change a bit of any of them.

    A session that takes several lengths at once runs a graph of another form than the file's.
    """
    dimensions = task_named(card.task).outputs
    short = [
        number for number, piece in enumerate(pieces) if 0 < len(piece.ids) <= _SHORT and not piece.unseen
    ]
    short.sort(key=lambda number: len(pieces[number].ids))
    lengths = [len(pieces[number].ids) for number in short]
    if not isinstance(session, RaggedSession) or not session.ragged:
        return
    if len(set(lengths)) < 2 or not dimensions.keys() >= set(card.outputs):
        return
    outputs = _run(session, [pieces[number] for number in short], card.outputs, lengths)
    for name, array in outputs.items():
        found = list(by_text(array, dimensions[name], lengths)) if len(array) else []
        # Fewer rows than texts, or more, is the worst mix-up.
        found = found if len(found) == len(short) else [array[:0]] * len(short)
        for number, one in zip(short, found, strict=True):
            if not np.array_equal(one, answers[number][name][0], equal_nan=True):
                raise DriftError(
                    "golden example {number} of {path} comes out differently in one batch with texts of "
                    "other lengths, in {output}: this machine or ONNX Runtime computes otherwise; export "
                    "again",
                    number=number,
                    path=path,
                    output=name,
                )


def _require_same_ids(path: Path, texts: Sequence[tuple[str, list[int]]], tokenizer: TextTokenizer) -> int:
    """Return how many texts were tokenized as at export: all."""
    other = [
        text
        for (text, ids), encoded in zip(
            texts, tokenizer.encode([Row(text) for text, _ in texts]), strict=True
        )
        if isinstance(encoded, RowError) or encoded.pieces[0].ids.tolist() != ids
    ]
    if other:
        raise DriftError(
            "{count} of {texts} texts in {path} are tokenized differently than at export, the first of them "
            "{text!r}: the tokenizer in the file or the tokenizers package changed",
            count=len(other),
            texts=len(texts),
            path=path,
            text=other[0][:60],
        )
    return len(texts)


def _require_unchanged(path: Path, file: ModelFile) -> None:
    card, golden = file.card, file.golden
    if not golden:
        raise ModelFileError("{path} carries no golden examples; export the checkpoint again", path=path)
    if any(set(example["outputs"]) != set(card.outputs) for example in golden):
        raise ModelFileError(
            "the golden examples of {path} lack outputs; export the checkpoint again", path=path
        )
    digest = sha256_text(lasting(file.metadata[CARD_KEY]))
    for example in golden:
        _unchanged(path, "card", str(example.get("card")), digest)
    _unchanged(path, "tokenizer", card.tokenizer_sha256, sha256_text(file.tokenizer))
    _unchanged(path, "weights", card.weights_sha256, weights_sha256(path))
    if card.graph_sha256:  # older files have none
        _unchanged(path, "graph", card.graph_sha256, graph_sha256(path))


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
    """Return golden examples, JSON-ready, for texts that the tokenizer takes whole or cut."""
    examples = []
    for encoded in tokenizer.encode(rows):
        assert isinstance(encoded, Encoded)
        piece = encoded.pieces[0]
        (outputs,) = _rows(_run(session, [piece], card.outputs))
        examples.append(
            {
                "text": encoded.row.text,
                "pair": encoded.row.pair,
                **({} if encoded.row.prompt is None else {"prompt": encoded.row.prompt}),
                "ids": piece.ids.tolist(),
                "outputs": {name: _sample(array).tolist() for name, array in outputs.items()},
                **_largest_of(outputs),
            }
        )
    return examples


def batch_of(
    rows: Sequence[Row], tokenizer: TextTokenizer, session: Session, card: Card
) -> list[dict[str, Any]]:
    """Return golden examples of equal token length, which `check` runs as one batch too.

    Args:
        rows: of these the most that have one length, and differ.
        tokenizer: of the model.
        session: what answers, one example at a time.
        card: of the model.
    """
    lengths: dict[int, dict[bytes, Row]] = {}
    for row, encoded in zip(rows, tokenizer.encode(rows), strict=True):
        if isinstance(encoded, Encoded):
            ids = encoded.pieces[0].ids
            lengths.setdefault(len(ids), {}).setdefault(ids.tobytes(), row)
    most = list(max(lengths.values(), key=len).values())[:_BATCH] if lengths else []
    # Alone, a row is no batch.
    examples = examples_of(most, tokenizer, session, card) if len(most) > 1 else []
    return [{**example, "batch": True} for example in examples]


def with_card(examples: Iterable[Mapping[str, Any]], card: Card) -> list[dict[str, Any]]:
    """Return examples, each with the SHA-256 of the finished card, but for times.

    Labels and limits decide an answer as weights do.
    """
    digest = sha256_text(lasting(card.to_json()))
    return [{"card": digest, **example} for example in examples]


def hard_texts_of(tokenizer: TextTokenizer) -> list[dict[str, Any]]:
    """Return short hard texts with their token ids, JSON-ready, by which any tokenizer can check itself."""
    found = zip(GOLDEN_TEXTS, tokenizer.encode([Row(text) for text in GOLDEN_TEXTS]), strict=True)
    return [
        {"text": text, "ids": encoded.pieces[0].ids.tolist()}
        for text, encoded in found
        if isinstance(encoded, Encoded)
    ]


def sha256_text(text: str) -> str:
    """Return the SHA-256, in hex, of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _largest(golden: Sequence[Mapping[str, Any]], output: str) -> float:
    """Return the largest absolute golden number of an output over all examples."""
    numbers = [_expected(example, output) for example in golden]
    return max(float(np.abs(array).max(initial=0.0)) for array in numbers)


def _piece(path: Path, number: int, example: Mapping[str, Any], tokenizer: TextTokenizer) -> Piece:
    """Return an example as the model gets it, and as it did at export."""
    encoded = tokenizer.encode([Row(example["text"], example["pair"], example.get("prompt"))])[0]
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
    return piece


def _differences(example: Mapping[str, Any], outputs: Mapping[str, Array]) -> dict[str, float]:
    """Return the largest difference of each output, infinite where numbers are missing or not finite."""
    return {
        name: _difference(_actual(example, name, array), _expected(example, name))
        for name, array in outputs.items()
    }


def _largest_of(outputs: Mapping[str, Array]) -> dict[str, Any]:
    """Return the largest numbers of those outputs that are mostly zero, with their places, JSON-ready."""
    found = {}
    for name, array in outputs.items():
        flat = array.ravel()
        if 2 * np.count_nonzero(flat) < flat.size:
            places = np.sort(np.argsort(-np.abs(flat), kind="stable")[:_LARGEST])
            found[name] = {"places": places.tolist(), "numbers": flat[places].tolist()}
    return {"largest": found} if found else {}


def _expected(example: Mapping[str, Any], output: str) -> Array:
    """Return the numbers that an example keeps of an output: those spread over it, then the largest."""
    largest = example.get("largest", {}).get(output, {"numbers": []})
    return np.array([*example["outputs"][output], *largest["numbers"]], dtype=np.float32)


def _actual(example: Mapping[str, Any], output: str, array: Array) -> Array:
    """Return the numbers at the same places of what comes out now."""
    places = example.get("largest", {}).get(output, {"places": []})["places"]
    flat = array.ravel()
    # A place that is not there is no agreement: fewer numbers than were kept.
    return np.concatenate([_sample(array), flat[[place for place in places if place < flat.size]]])


def _difference(actual: Array, expected: Array) -> float:
    if actual.shape != expected.shape or not np.isfinite(actual).all() or not np.isfinite(expected).all():
        return math.inf
    return float(np.abs(actual - expected).max(initial=0.0))


def _run(
    session: Session, pieces: Sequence[Piece], outputs: Sequence[str], lengths: Sequence[int] = ()
) -> dict[str, Array]:
    """Return the outputs of pieces of one length, or of several; with the batch as first dimension."""
    if lengths and isinstance(session, RaggedSession):
        arrays = session.run_together(outputs, feeds_together(pieces, session.inputs), lengths)
    else:
        arrays = session.run(outputs, feeds_of(pieces, session.inputs))
    return dict(zip(outputs, arrays, strict=True))


def _rows(outputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    count = min((len(array) for array in outputs.values()), default=0)
    return [{name: array[row] for name, array in outputs.items()} for row in range(count)]


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
