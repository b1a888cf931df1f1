"""What all peers have in common: texts to vectors by two calls, and how those that take token ids are fed."""

from __future__ import annotations

import importlib.metadata
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from peers.embedding import Embedding, Vectors, placed, tokenizer

__all__ = ["Engine", "Padded", "Setup", "in_order", "sorted_by_length"]

DOCUMENTED_BATCH = 32
MOST_TEXTS = 64


@dataclass(frozen=True)
class Setup:
    """What an engine is made of.

    Attributes:
        checkpoint: a Sentence-Transformers folder.
        onnx: a folder that optimum-cli made of it.
        onnx_int8: a folder with the same, quantized dynamically by Optimum.
        sentence_onnx: a folder that Sentence-Transformers' ONNX backend saved.
        sentence_openvino: a folder that its OpenVINO backend saved.
        ctranslate2: a folder that CTranslate2's converter made of it.
        openvino_int8: a folder with OpenVINO's model, quantized by NNCF.
        ours: the bertonnx file; `ours_int8` the quantized one.
        cores: how many cores an engine may use.
    """

    checkpoint: Path
    onnx: Path
    onnx_int8: Path
    sentence_onnx: Path
    sentence_openvino: Path
    ctranslate2: Path
    openvino_int8: Path
    ours: Path
    ours_int8: Path
    cores: int


class Engine(Embedding[Setup]):
    """A peer.

    Attributes:
        package: the distribution whose version is told.
        environment: which of the two has it.
        latency: whether single texts are measured too (once a peer is enough).
        ours: whether it is this project's.
        sorts: whether it sorts texts by length itself.
    """

    precision = "fp32"
    package: ClassVar[str]
    environment: ClassVar[str] = "current"
    latency: ClassVar[bool] = True
    ours: ClassVar[bool] = False
    sorts: ClassVar[bool] = False

    def one(self, text: str) -> Vectors:
        """Return the vector of one text, by the way that gives it soonest."""
        return self.embed([text])

    @property
    def version(self) -> str:
        """The package's version."""
        return importlib.metadata.version(self.package)


class Padded(Engine):
    """Those that are given token ids: batches of 32 in the order of the texts, padded."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.tokenizer = tokenizer(setup.onnx / "tokenizer.json")

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return a vector a text, (texts, width)."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        batches = in_order(ids) if self.budget is None else sorted_by_length(ids, self.budget)
        return placed(self.forward_all([[ids[place] for place in batch] for batch in batches]), batches)

    def forward_all(self, batches: list[list[list[int]]]) -> list[Vectors]:
        """Return the vectors of each batch."""
        return [self.forward(batch) for batch in batches]

    @abstractmethod
    def forward(self, batch: list[list[int]]) -> Vectors:
        """Return the vectors of one batch."""


def in_order(texts: Sequence[object]) -> list[list[int]]:
    """Return batches of 32 places."""
    places = list(range(len(texts)))
    return [places[i : i + DOCUMENTED_BATCH] for i in range(0, len(places), DOCUMENTED_BATCH)]


def sorted_by_length(ids: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """Return batches by falling length, each of at most `budget` padded tokens and 64 texts."""
    batches: list[list[int]] = []
    for place in sorted(range(len(ids)), key=lambda i: -len(ids[i])):
        room = min(MOST_TEXTS, max(1, budget // len(ids[batches[-1][0]]))) if batches else 0
        if not batches or len(batches[-1]) >= room:
            batches.append([])
        batches[-1].append(place)
    return batches
