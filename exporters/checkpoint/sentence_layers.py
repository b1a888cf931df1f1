"""What follows a transformer: layers that each read a value by its name, and write one.

The names are those of Sentence-Transformers, whose modules hand on a dictionary: `token_embeddings` is what
the transformer writes, `sentence_embedding` what an embedding model gives, and `scores` what a reranker
gives. What a name holds is the last that was written; modules may stand in any order in which that is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bertonnx.errors import CheckpointError

__all__ = [
    "SCORES",
    "SENTENCE",
    "TOKENS",
    "TOKEN_VECTORS",
    "TOKEN_WEIGHTS",
    "Cut",
    "Dense",
    "Layer",
    "LayerNorm",
    "Normalize",
    "Pool",
    "Skip",
    "Splade",
    "widths",
]

TOKENS, SENTENCE, SCORES = "token_embeddings", "sentence_embedding", "scores"
TOKEN_WEIGHTS, TOKEN_VECTORS = "token weights", "token vectors"
"""What other heads make of the transformer's vectors; no module of Sentence-Transformers has these names."""

_Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """One step from a value to a value.

    Attributes:
        reads: the name of the value that it reads.
        writes: the name under which its result stands.
        module: what the checkpoint calls it, for errors; empty where the user asked for it.
        pools: whether it makes one vector of all that a text's tokens have.
    """

    pools: ClassVar[bool] = False

    reads: str = SENTENCE
    writes: str = SENTENCE
    module: str = ""

    def width(self, given: int) -> int:
        """Return the length of its vectors, where those that it reads have length `given`."""
        return given

    def reading(self) -> int | None:
        """Return the length of the vectors that its weights fit; None where any will do."""
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Layer):
    """The vectors of a text's tokens become one; several ways are joined.

    Attributes:
        modes: names of rows of `models.pooling`.
        prompt: whether the tokens of a prompt count.
    """

    pools: ClassVar[bool] = True

    modes: tuple[str, ...]
    prompt: bool = True
    reads: str = TOKENS

    def width(self, given: int) -> int:
        """Return the length of the joined vectors."""
        return given * len(self.modes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Splade(Layer):
    """What a text's tokens make each word of the vocabulary weigh becomes one weight.

    Attributes:
        strategy: name of a row of `models.splade.STRATEGIES`.
        saturation: name of a row of `models.splade.SATURATIONS`.
        dimension: the vocabulary's size, where the checkpoint says it.
    """

    pools: ClassVar[bool] = True

    strategy: str = "max"
    saturation: str = "relu"
    dimension: int | None = None
    reads: str = TOKENS

    def reading(self) -> int | None:
        """Return the vocabulary's size."""
        return self.dimension


@dataclass(frozen=True, eq=False, kw_only=True)
class Skip(Layer):
    """Tokens whose vectors are left out, behind the graph.

    Attributes:
        words: the tokens.
        sides: "query" and "document": where they are.
    """

    words: tuple[str, ...] = ()
    sides: tuple[str, ...] = ("document",)
    reads: str = TOKENS
    writes: str = TOKENS


@dataclass(frozen=True, eq=False, kw_only=True)
class Dense(Layer):
    """A linear layer, then an activation.

    Attributes:
        weight: float32 of shape (out_features, in_features).
        bias: float32 of shape (out_features,), or None.
        activation: name of a row of `models.activations`.
        residual: whether the input is added to the result.
        projection: of a residual: what brings the input to the width of the result, float32 of the shape of
            `weight`; None where it has that already.
    """

    weight: _Array
    bias: _Array | None
    activation: str
    residual: bool = False
    projection: _Array | None = None

    def width(self, given: int) -> int:  # noqa: ARG002  (whatever it is given)
        """Return the number of its outputs."""
        return len(self.weight)

    def reading(self) -> int:
        """Return the number of its inputs."""
        return int(self.weight.shape[1])


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerNorm(Layer):
    """Layer normalization.

    Attributes:
        weight: float32 of shape (dimension,).
        bias: of the same shape.
        epsilon: added to the variance.
    """

    weight: _Array
    bias: _Array
    epsilon: float = 1e-5

    def reading(self) -> int:
        """Return its dimension."""
        return len(self.weight)


@dataclass(frozen=True, eq=False, kw_only=True)
class Normalize(Layer):
    """Vectors get length 1, as torch.nn.functional.normalize does it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Cut(Layer):
    """The first numbers of a vector, which keep their size.

    Attributes:
        length: how many.
    """

    length: int

    def width(self, given: int) -> int:
        """Return what is left of `given` numbers."""
        return min(given, self.length)


def widths(layers: Sequence[Layer], hidden: int, *, folder: object) -> Mapping[str, int]:
    """Return the length of the vectors behind each name, in the end.

    Args:
        layers: in their order.
        hidden: length of the transformer's vectors.
        folder: where they are from, for errors.

    Raises:
        CheckpointError: a layer does not fit what it reads, nothing has written that yet, or what should be
            one vector for a text is one for each token.
    """
    if not isinstance(hidden, int):
        raise CheckpointError(
            "config.json cannot be used: hidden_size {hidden!r} is no length of a vector; correct it",
            hidden=hidden,
        )
    found = {TOKENS: hidden}
    vectors = {TOKENS}
    for layer in layers:
        if layer.reads not in found or (layer.pools and layer.reads not in vectors):
            raise CheckpointError(
                "{folder}: the module {module} reads {name}, which no module before it writes; correct the "
                "order in modules.json",
                folder=folder,
                module=layer.module,
                name=layer.reads,
            )
        given, needed = found[layer.reads], layer.reading()
        if needed is not None and needed != given:
            raise CheckpointError(
                "{folder}: the module {module} reads {reads} values, and the step before it gives {given}; "
                "the modules do not belong together",
                folder=folder,
                module=layer.module,
                reads=needed,
                given=given,
            )
        found[layer.writes] = layer.width(given)
        # One vector for each token, or for each text: what a layer writes is of the kind that it reads.
        one_each = layer.reads in vectors and not layer.pools
        (vectors.add if one_each else vectors.discard)(layer.writes)
    for layer in reversed(layers):
        if layer.writes != TOKENS and layer.writes in vectors:
            raise CheckpointError(
                "{folder}: the module {module} reads {tokens} and writes {name}, which then is a vector of "
                "each token and not of the text; a Pooling is missing between them",
                folder=folder,
                module=layer.module,
                tokens=layer.reads,
                name=layer.writes,
            )
    return found
