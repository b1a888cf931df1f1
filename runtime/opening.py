"""From a path to what a model is made of: a file that bertonnx made, or a folder or file of optimum-cli."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from bertonnx.models.card import Card
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.optimum import read_optimum
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.session.session import OpenSession, open_session
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Message

__all__ = ["Found", "card_of", "opened"]


class Found(NamedTuple):
    """What was read of a file or folder, before a session is opened.

    Attributes:
        card: what it says of itself.
        tokenizer: the text of its `tokenizer.json`.
        opens: opens the session.
        notes: promises of a bertonnx file that do not hold for it.
    """

    card: Card
    tokenizer: str
    opens: Callable[[LoadOptions], OpenSession]
    notes: tuple[Message, ...] = ()


def card_of(path: Path) -> Card:
    """Return what a file or folder says of itself; no session is opened.

    Raises:
        ModelFileError: it is missing, broken, foreign or of a newer format.
    """
    return _read(path).card


def opened(path: Path, options: LoadOptions) -> tuple[Found, TextTokenizer, OpenSession]:
    """Return what was read of a model, its tokenizer, and its session.

    Raises:
        ModelFileError: the file is missing, broken, foreign or of a newer format.
        ProviderError: the provider cannot be used.
        UsageError: the longest input that was asked for is more than the model takes.
    """
    found = _read(path)
    # ONNX Runtime reads weights beside Python, which reads the vocabulary meanwhile.
    with ThreadPoolExecutor(1) as beside:
        opening = beside.submit(found.opens, options)
        tokenizer = TextTokenizer(
            found.tokenizer,
            found.card,
            max_length=options.max_length,
            long_text=options.long_text or task_named(found.card.task).long_text,
        )
        return found, tokenizer, opening.result()


def _read(path: Path) -> Found:
    if not path.is_dir():
        file = read_model_file(path)
        if file.is_bertonnx:
            card = file.card
            return Found(card, file.tokenizer, lambda options: open_session(path, card, options))
    folder = read_optimum(path)
    return Found(folder.card, folder.tokenizer, folder.open, folder.notes)
