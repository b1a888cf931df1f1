"""What a package outside bertonnx would bring: a sixth task and a third provider, each a row and its code.

The task asks a masked-language model for every token of a text and counts those that it would not have
written. The provider is ONNX Runtime's CPU under a name of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from bertonnx.exporters.verify.agreement import Closeness, Comparison
from bertonnx.models import providers, tasks
from bertonnx.models.card import Card
from bertonnx.models.providers import PROVIDERS, Batching, Provider
from bertonnx.models.tasks import TASKS, Task
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.io.columns import Column
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Encoded, Item, Outputs, Piece
from bertonnx.runtime.session.ort_session import OrtSession, create, options_for
from bertonnx.runtime.session.problem import Problem
from bertonnx.runtime.session.session import SessionOptions
from bertonnx.wording import Message

__all__ = ["PROVIDER", "TASK", "provider_from_outside", "task_from_outside"]

TASK = Task(
    "surprise",
    method="predict",
    auto_class="AutoModelForMaskedLM",
    architectures=("ForSurprise",),
    raw_outputs=("logits",),
    outputs={"logits": ("batch", "tokens", "vocabulary")},
    decoder="tests.outside:surprise_decoder",
    columns="tests.outside:surprise_columns",
    comparison="tests.outside:compare_surprises",
)

PROVIDER = Provider(
    "borrowed",
    execution_provider="CPUExecutionProvider",
    opens="tests.outside:open_borrowed",
    problem="tests.outside:borrowed_problem",
    batching=Batching(
        runs=1,
        ahead=0,
        part_characters=100,
        tokens=64,
        tokens_vocabulary=64,
        first_chunk=4,
        last_chunk=16,
        chunk_characters=1000,
    ),
    tolerances={"fp32": 1e-5},
)


@contextmanager
def task_from_outside() -> Iterator[Task]:
    """Register the task for a while."""
    tasks.register(TASK)
    try:
        yield TASK
    finally:
        TASKS.unregister(TASK.name)


@contextmanager
def provider_from_outside(row: Provider = PROVIDER) -> Iterator[Provider]:
    """Register the provider for a while."""
    providers.register(row)
    try:
        yield row
    finally:
        PROVIDERS.unregister(row.name)


@dataclass(frozen=True)
class SurpriseDecoder:
    """Items `{"surprises", "tokens", "text"}`: how many tokens the model would not have written."""

    fetch = ("logits",)

    def keep(self, piece: Piece, outputs: Outputs) -> npt.NDArray[np.bool_]:
        """Return whether each token surprises, bool of shape (sequence_length,)."""
        surprises: npt.NDArray[np.bool_] = outputs["logits"].argmax(axis=-1) != piece.ids
        return surprises

    def decode(self, encoded: Encoded, kept: Sequence[npt.NDArray[np.bool_]]) -> Item:
        """Return the numbers of the row."""
        return {
            "surprises": int(sum(part.sum() for part in kept)),
            "tokens": sum(map(len, kept)),
            "text": encoded.row.text,
        }


def surprise_decoder(context: DecoderContext) -> SurpriseDecoder:
    """Return the decoder of the task."""
    assert context.card.task == TASK.name
    return SurpriseDecoder()


def surprise_columns(card: Card, decode: DecodeOptions) -> tuple[Column, ...]:  # noqa: ARG001
    """Return the columns of a result."""
    return (Column("surprises", "int"), Column("tokens", "int"), Column("text", "text"))


def compare_surprises(context: DecoderContext) -> Comparison:
    """Return how close INT8 is to fp32: the share of texts with equal numbers of surprises."""
    return Comparison(surprise_decoder(context), _equal_surprises)


def _equal_surprises(pairs: Sequence[tuple[Item, Item]]) -> Closeness:
    share = float(np.mean([a["surprises"] == b["surprises"] for a, b in pairs]))
    return Closeness("surprises", share, share)


def open_borrowed(ort: ModuleType, path: Path, options: SessionOptions) -> OrtSession:
    """Open a file on ONNX Runtime's CPU."""
    session = create(
        ort, path, options_for(ort), providers=[PROVIDER.execution_provider], mapped=options.optimized
    )
    return OrtSession(session, PROVIDER.name)


def borrowed_problem(ort: ModuleType, error: str) -> Problem:  # noqa: ARG001
    """Return why it does not work."""
    return Problem(Message("nobody lends it"), Message("ask again"))
