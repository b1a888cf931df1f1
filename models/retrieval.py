"""What a card says of sparse embeddings and of many vectors for a text, beyond what the graph computes.

The graph gives a weight for each word of the vocabulary or for each token, and a vector for each token. Which
of them count, how long queries and documents are and what fills queries up is decided around it, as
Sentence-Transformers' SparseEncoder and MultiVectorEncoder, PyLate, ColBERT and FlagEmbedding do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

__all__ = ["DOCUMENT", "QUERY", "LateInteraction", "Side", "SparseWeights"]

QUERY, DOCUMENT = "query", "document"
"""The prompts, and sides of a comparison, that all of these libraries know."""


@dataclass(frozen=True)
class SparseWeights:
    """Which weights of a sparse embedding count.

    Attributes:
        most: how many of the heaviest are kept; None for all.
        unused: ids whose weights never count.
    """

    most: int | None = None
    unused: tuple[int, ...] = ()


@dataclass(frozen=True)
class Side:
    """How a query, or a document, is read where each token gets a vector.

    Attributes:
        max_length: its longest input in tokens, special ones and the marker included; None for the model's.
        marker: id of the token that is put behind the first one; None for none.
        expanded: it is filled up to so many tokens; None where it is not.
        filler: id of the token that fills it up.
        attended: whether other tokens attend to those that fill it up.
        skipped: ids of tokens whose vectors are left out.
        first: how many tokens at its beginning are left out.
    """

    max_length: int | None = None
    marker: int | None = None
    expanded: int | None = None
    filler: int = 0
    attended: bool = False
    skipped: tuple[int, ...] = ()
    first: int = 0


@dataclass(frozen=True)
class LateInteraction:
    """How texts with a vector for each token are read and compared.

    Attributes:
        width: length of a vector.
        sides: "query" and "document" -> how they are read. What asks for neither is read as a document.
        mean: whether the sum over a query's tokens is divided by their number.
    """

    width: int
    sides: Mapping[str, Side] = field(default_factory=dict)
    mean: bool = False

    @property
    def reads_sides(self) -> bool:
        """Whether queries or documents are read in another way than other texts."""
        return any(
            side.max_length or side.marker is not None or side.expanded for side in self.sides.values()
        )

    def side(self, name: str | None, default: str | None = None) -> Side:
        """Return how a text with a prompt of this name is read.

        Args:
            name: of the prompt; None for the default one, "" for none, which no marker stands for either.
            default: name of the default prompt; None where there is none, and the text is a document.
        """
        document = self.sides.get(DOCUMENT, Side())
        if name == "":
            return replace(document, marker=None)
        return self.sides.get(name or default or DOCUMENT, document)
