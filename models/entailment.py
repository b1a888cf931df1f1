"""Which label of a classifier says that a text follows from another, and which that it contradicts it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Inference", "inference_of"]


def _plain(label: str) -> str:
    """Return a label without case, and without those accents that are often left out."""
    text = unicodedata.normalize("NFKC", label).strip().casefold()
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return unicodedata.normalize("NFC", bare)


_ENTAILS = (
    *("entail", "implic", "implik", "folger", "schlussfolger", "gevolg", "acarret", "vinculac", "följd"),
    *(
        "wynik",
        "vyplyv",
        "vyplyn",
        "следств",
        "следован",
        "следует",
        "влеч",
        "συνεπαγ",
        "gerektir",
        "çıkarım",
    ),
    *("蕴含", "蕴涵", "蘊含", "蘊涵", "含意", "伴意", "함의", "استلزام", "निहित"),
)
_CONTRADICTS = (
    *("contrad", "kontrad", "widerspr", "widersprü", "tegenspr", "tegenstrijd", "motsäg", "motsig", "modsig"),
    *("sprzecz", "protirec", "rozpor", "противореч", "αντιφασ", "çelişki", "ellentmond"),
    *("矛盾", "모순", "تناقض", "विरोध"),
)
"""How the words begin in which people name the two."""

_NOT = {
    "not",
    "no",
    "non",
    "nicht",
    "kein",
    "keine",
    "pas",
    "sans",
    "niet",
    "geen",
    "не",
    "нет",
    "brak",
    "ikke",
}

_INITIALS = {"e", "n", "c"}
"""The labels of SNLI where they are letters."""


class Inference(NamedTuple):
    """Places of labels.

    Attributes:
        entailment: the label that one text follows from the other.
        contradiction: the label that it contradicts it; None where the labels do not say.
    """

    entailment: int
    contradiction: int | None


def inference_of(labels: Sequence[str], entailment: str | None = None) -> Inference | None:
    """Return what the labels of a classifier of inference (NLI) mean; None where that cannot be told.

    A word of the label counts, whatever its case, in many languages; "not_entailment" is none. Of labels
    that say nothing, as LABEL_2, the user can name one; contradiction is then the label at the other end, as
    neutral lies between the two in the data sets that have it.

    Args:
        labels: in the order of the logits.
        entailment: the label that means entailment, where the user says it.
    """
    if len(labels) < 2:
        return None
    if entailment is None:
        found = [place for place, label in enumerate(labels) if _says(label, _ENTAILS)]
        letters = [_plain(label) for label in labels]
        if set(letters) == _INITIALS:
            found = [letters.index("e")]
        if len(found) != 1:
            return None
        (first,) = found
    else:
        first = labels.index(entailment)
    return Inference(first, _contradiction(labels, first))


def _contradiction(labels: Sequence[str], entailment: int) -> int | None:
    others = [place for place in range(len(labels)) if place != entailment]
    if len(others) == 1:
        return others[0]
    said = [place for place in others if _says(labels[place], _CONTRADICTS) or _plain(labels[place]) == "c"]
    if len(said) == 1:
        return said[0]
    # As transformers' pipeline takes it. Between two labels that say nothing, neither end is the other one.
    return {0: others[-1], len(labels) - 1: others[0]}.get(entailment)


def _says(label: str, words: Sequence[str]) -> bool:
    found = re.findall(r"[^\W\d_]+", _plain(label))
    beginnings = tuple(map(_plain, words))
    return not _NOT.intersection(found) and any(word.startswith(beginnings) for word in found)
