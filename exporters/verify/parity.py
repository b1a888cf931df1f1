"""PyTorch against ONNX Runtime: every output of the task, on texts of unequal lengths.

The reference is the checkpoint in PyTorch; what follows it is computed again by torch
(`exporters.verify.reference`), and nothing of the graph is reused. What follows in a task is in its row
(`models.tasks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bertonnx.errors import ParityError
from bertonnx.exporters.beside import beside, torch_threads
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.encoders import without_cache
from bertonnx.exporters.checkpoint.sentence_layers import SCORES, SENTENCE, TOKEN_VECTORS, TOKEN_WEIGHTS
from bertonnx.exporters.verify.reference import activated, layered
from bertonnx.exporters.verify.samples import pair_rows
from bertonnx.models.figures import OutputParity, ParityFigures
from bertonnx.models.hidden import hidden_name
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import outputs_of
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.rows import POOLING_MASK, Array, Encoded, Piece, Row, pooling_mask
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.session import Feeds, Session
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Message, Option, Options

if TYPE_CHECKING:
    import torch

__all__ = [
    "TOLERANCE",
    "Reference",
    "begun",
    "compare",
    "embedding_reference",
    "fed",
    "reference_outputs",
    "sample_feeds",
    "scores_reference",
    "segment_feeds",
    "trial_feeds",
]


Reference = Callable[[Feeds], dict[str, Array]]
"""Gives PyTorch's answer, float32, for each output of the task."""

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
"""Allowed |difference| by precision, times max(1, largest |reference|)."""

_HINTS = {
    "fp32": Message(
        "Try {either}, and please report the model",
        either=Options([Option("optimize", "basic"), Option("optimize", "none")]),
    ),
    "fp16": Message(
        "Its numbers are too large or too close for fp16: leave {option} out",
        option=Option("precision", "fp16"),
    ),
}


def sample_feeds(
    rows: Sequence[Row], tokenizer: TextTokenizer, *, inputs: Sequence[str], pad_token_id: int
) -> list[Feeds]:
    """Return the inputs of all rows together, padded, and then of each by itself, without padding.

    Both matter: a graph may compute the two in different ways (`exporters.steps.unmasked`).
    """
    pieces = [item.pieces[0] for item in tokenizer.encode(rows) if isinstance(item, Encoded)]
    return [_padded(group, inputs, pad_token_id) for group in (pieces, *([piece] for piece in pieces))]


def trial_feeds(
    rows: Sequence[Row], tokenizer: TextTokenizer, *, inputs: Sequence[str], pad_token_id: int
) -> list[Feeds]:
    """Return the inputs of all rows in a padded batch, and of each by itself, the longest first.

    A row that is more than twice as long as any other is padded with the shortest alone, after it ran itself:
    padding all to its length would try nothing more, and take most of an export's time.
    """
    pieces = [item.pieces[0] for item in tokenizer.encode(rows) if isinstance(item, Encoded)]
    ordered = sorted(pieces, key=lambda piece: len(piece.ids))
    alone = [[piece] for piece in ordered[::-1]]
    groups = [pieces, *alone]
    if len(ordered) > 2 and len(ordered[-1].ids) > 2 * len(ordered[-2].ids):
        near = [piece for piece in pieces if piece is not ordered[-1]]
        # Small ones last, so that none of those that take long runs while a core has nothing to do.
        groups = [near, alone[0], [ordered[-1], ordered[0]], *alone[1:]]
    return [_padded(group, inputs, pad_token_id) for group in groups]


def fed(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the names of all inputs: what the model reads, and what pooling reads beside it."""
    return (*checkpoint.input_names, *(() if checkpoint.pooled_prompt else (POOLING_MASK,)))


def segment_feeds(checkpoint: Checkpoint, tokenizer: TextTokenizer) -> list[Feeds]:
    """Return pairs of texts as inputs, where single texts would leave the second segment untried.

    None for a model whose samples are pairs already, or which has no row for a second segment: there,
    PyTorch fails as well.
    """
    if checkpoint.pairs or "token_type_ids" not in checkpoint.input_names:
        return []
    names, pad = fed(checkpoint), checkpoint.pad_token_id
    feeds = sample_feeds(pair_rows(), tokenizer, inputs=names, pad_token_id=pad)
    rows = int(getattr(checkpoint.config, "type_vocab_size", 0) or 0)
    return [] if rows and max(int(each["token_type_ids"].max()) for each in feeds) >= rows else feeds


@contextmanager
def begun(checkpoint: Checkpoint, inputs: Sequence[Feeds]) -> Iterator[Reference]:
    """Let PyTorch begin with some inputs while the block does other work; yield what has its answers."""
    cores = allowed_cores()
    with torch_threads(cores - 1), ThreadPoolExecutor(1, thread_name_prefix="bertonnx-reference") as pool:
        running = {id(feeds): pool.submit(reference_outputs, checkpoint, feeds) for feeds in inputs}

        def reference(feeds: Feeds) -> dict[str, Array]:
            early = running.pop(id(feeds), None)
            return reference_outputs(checkpoint, feeds) if early is None else early.result()

        try:
            yield reference
        finally:
            for early in running.values():
                early.cancel()


def compare(
    checkpoint: Checkpoint,
    session: Session,
    inputs: Sequence[Feeds],
    *,
    precision: str = "fp32",
    reference: Reference | None = None,
) -> ParityFigures:
    """Return how far ONNX Runtime is from PyTorch, for each output of the task.

    PyTorch gets all inputs, and the graph those that it has: what the trace left out shows as a difference.

    Args:
        checkpoint: what PyTorch runs.
        session: what ONNX Runtime runs.
        inputs: of both.
        precision: of the graph.
        reference: gives PyTorch's answers where some are on their way (`begun`).

    Raises:
        ParityError: an output is further apart than `TOLERANCE` allows.
    """
    outputs = outputs_of(checkpoint.task, checkpoint.also, checkpoint.hidden_states)
    found = {name: OutputParity(0.0, 0.0) for name in outputs}
    known = _Known(outputs, TOLERANCE[precision])
    asked = partial(reference_outputs, checkpoint) if reference is None else reference

    def run(feeds: Feeds) -> list[Array]:
        taken = {name: array for name, array in feeds.items() if name in session.inputs}
        return session.run(tuple(outputs), taken)

    # While PyTorch computes, ONNX Runtime does beside it.
    with torch_threads(allowed_cores() // 2):
        for feeds, arrays in beside(run, inputs, size=lambda each: each["input_ids"].size):
            actual = dict(zip(outputs, arrays.result(), strict=True))
            parts = known.compared(feeds, actual)
            if parts is None:
                expected = asked(feeds)
                # What stands in the place of padding is nobody's answer. Alone, a text is not padded: what
                # its other tokens do not attend to fills it up, and counts.
                mask = feeds["attention_mask"].astype(bool) | (len(feeds["attention_mask"]) == 1)
                parts = {
                    name: _difference(expected[name], actual[name], mask if "tokens" in axes else None)
                    for name, axes in outputs.items()
                }
                known.learn(feeds, expected)
            for name, part in parts.items():
                found[name] = _larger(found[name], part)
    for name, parity in found.items():
        allowed = TOLERANCE[precision] * max(1.0, parity.max_abs_reference)
        # Not `>`: with a NaN on either side that would be false, and pass.
        if not parity.max_abs_difference <= allowed:
            raise ParityError(
                "ONNX Runtime and PyTorch disagree on {output}: largest difference {difference:.3g}, allowed "
                "{allowed:.3g} ({precision}); no file was written. {hint}",
                output=name,
                difference=parity.max_abs_difference,
                allowed=allowed,
                precision=precision,
                hint=_HINTS[precision],
            )
    return ParityFigures(
        tolerance=TOLERANCE[precision],
        max_abs_difference=max(parity.max_abs_difference for parity in found.values()),
        max_abs_reference=max(parity.max_abs_reference for parity in found.values()),
        outputs=found,
    )


class _Known:
    """What PyTorch gave for texts so far: padding changes it by rounding alone, so it need not run twice.

    Where it would not do, PyTorch is asked for just the inputs that ONNX Runtime got.

    Args:
        outputs: axes by the name of each output.
        tolerance: allowed |difference|, times max(1, largest |reference|).
    """

    def __init__(self, outputs: Mapping[str, Sequence[str]], tolerance: float) -> None:
        self._outputs, self._tolerance = outputs, tolerance
        self._rows: dict[bytes, dict[str, Array]] = {}

    def learn(self, feeds: Feeds, reference: Mapping[str, Array]) -> None:
        """Keep what PyTorch gave for each text of a batch."""
        for i, (key, mask) in enumerate(_texts(feeds)):
            self._rows[key] = {name: self._own(name, reference[name][i], mask) for name in self._outputs}

    def compared(self, feeds: Feeds, actual: Mapping[str, Array]) -> dict[str, OutputParity] | None:
        """Return how far outputs are from what is known; None where that is nothing, or too little."""
        texts = _texts(feeds)
        if any(key not in self._rows for key, _ in texts) or any(
            len(array) != len(texts) for array in actual.values()
        ):
            return None
        found = {name: OutputParity(0.0, 0.0) for name in self._outputs}
        for i, (key, mask) in enumerate(texts):
            for name, reference in self._rows[key].items():
                own = self._own(name, actual[name][i], mask)
                if own.shape != reference.shape:
                    return None
                found[name] = _larger(found[name], _difference(reference, own, None))
        near = all(
            part.max_abs_difference <= self._tolerance * max(1.0, part.max_abs_reference)
            for part in found.values()
        )
        return found if near else None

    def _own(self, name: str, row: Array, mask: npt.NDArray[np.bool_]) -> Array:
        return row[mask] if "tokens" in self._outputs[name] and len(row) == len(mask) else row


def _texts(feeds: Feeds) -> list[tuple[bytes, npt.NDArray[np.bool_]]]:
    """Return for each text of a batch what tells it from others, and which of its tokens are no padding."""
    masks = feeds["attention_mask"].astype(bool)
    named = sorted(feeds.items())
    # Alone, tokens that nothing attends to are the text's own; beside others they may be padding.
    lone = b"alone" if len(masks) == 1 and not masks.all() else b""
    return [
        (
            lone + b"".join(name.encode() + array[i][mask].tobytes() for name, array in named),
            mask | bool(lone),
        )
        for i, mask in enumerate(masks)
    ]


def _larger(one: OutputParity, other: OutputParity) -> OutputParity:
    return OutputParity(
        max(one.max_abs_difference, other.max_abs_difference),
        max(one.max_abs_reference, other.max_abs_reference),
    )


def _padded(pieces: Sequence[Piece], inputs: Sequence[str], pad_token_id: int) -> Feeds:
    length = max(len(piece.ids) for piece in pieces)
    shape = (len(pieces), length)
    feeds = {
        "input_ids": np.full(shape, pad_token_id, dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
        POOLING_MASK: np.ones(shape, dtype=np.int64),
    }
    for i, piece in enumerate(pieces):
        feeds["input_ids"][i, : len(piece.ids)] = piece.ids
        feeds["attention_mask"][i, : len(piece.ids) - piece.unseen] = 1
        feeds["token_type_ids"][i, : len(piece.ids)] = piece.type_ids
        feeds[POOLING_MASK][i, : len(piece.ids)] = pooling_mask([piece])[0]
    return {name: feeds[name] for name in inputs}


def _difference(reference: Array, actual: Array, mask: npt.NDArray[np.bool_] | None) -> OutputParity:
    if actual.shape != reference.shape:
        raise ParityError(
            "ONNX Runtime gives shape {actual} where PyTorch gives {reference}",
            actual=actual.shape,
            reference=reference.shape,
        )
    if mask is not None:
        reference, actual = reference[mask], actual[mask]
    # In float64, so that the subtraction adds no rounding of its own.
    difference = np.abs(reference.astype(np.float64) - actual)
    # NaN compares false with everything, so it would pass for small.
    worst = float("inf") if np.isnan(difference).any() else float(difference.max(initial=0.0))
    return OutputParity(worst, float(np.abs(reference).max(initial=0.0)))


def reference_outputs(checkpoint: Checkpoint, feeds: Feeds) -> dict[str, Array]:
    """Return what PyTorch gives for each output of the task, float32."""
    import torch

    row = task_named(checkpoint.task)
    given = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.no_grad():
        # Pooling alone reads which tokens are a prompt's.
        read = {name: tensor for name, tensor in given.items() if name != POOLING_MASK}
        # With a cache of its own, FlauBERT of version 5 fails here.
        others = without_cache(checkpoint.model) if getattr(checkpoint.config, "pre_norm", False) else {}
        wanted = {"output_hidden_states": True} if checkpoint.hidden_states else {}
        raw = checkpoint.model(**read, **others, **wanted)
        tensors = {name: raw[name] for name in task_named(checkpoint.traced).raw_outputs}
        tensors |= {hidden_name(k): raw.hidden_states[k] for k in checkpoint.hidden_states}
        if row.reference_head:
            resolve(row.reference_head)(checkpoint, tensors, given)
    outputs = outputs_of(checkpoint.task, checkpoint.also, checkpoint.hidden_states)
    return {name: tensors[name].float().numpy() for name in outputs}


Tensors = dict[str, "torch.Tensor"]


def embedding_reference(checkpoint: Checkpoint, tensors: Tensors, feeds: Mapping[str, torch.Tensor]) -> None:
    """Make `sentence_embedding` (batch, width) of `last_hidden_state` (batch, tokens, hidden)."""
    values = layered(checkpoint.layers, tensors["last_hidden_state"], feeds)
    tensors["sentence_embedding"] = values[SENTENCE]
    if checkpoint.also:
        tensors["token_weights"] = values[TOKEN_WEIGHTS].squeeze(-1)
        tensors["token_embeddings"] = values[TOKEN_VECTORS]


def scores_reference(checkpoint: Checkpoint, tensors: Tensors, feeds: Mapping[str, torch.Tensor]) -> None:
    """Make `scores` of `logits`, of the same shape; and those of `last_hidden_state` where layers do."""
    if checkpoint.layers:
        tensors["logits"] = layered(checkpoint.layers, tensors["last_hidden_state"], feeds)[SCORES]
    tensors["scores"] = activated(checkpoint.activation, tensors["logits"] / checkpoint.temperature)
