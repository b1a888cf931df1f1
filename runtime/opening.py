"""From a path to what a model is made of: a file that bertonnx made, or a folder or file of optimum-cli."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from bertonnx.errors import MissingDependencyError, ModelFileError
from bertonnx.models.card import Card
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.modelfile.held import held
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.options import DecodeOptions, LoadOptions
from bertonnx.runtime.places import require_name
from bertonnx.runtime.session.session import OpenSession, import_onnxruntime, open_session
from bertonnx.wording import Message

if TYPE_CHECKING:
    from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["Found", "Opening", "card_of", "loading", "opened"]


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


class Opening:
    """A model on its way: its file is read at once, and its session opened in a thread.

    For most of that time ONNX Runtime needs no Python, which imports what else a prediction takes, and reads
    the vocabulary. What is wrong with the model is said by `result` alone.

    Args:
        path: the file or folder.
        options: how it is opened.
    """

    def __init__(self, path: str | Path, options: LoadOptions) -> None:
        self._options = options
        self._held = ExitStack()
        self._unread: Exception | None = None
        self._wrong: Exception | None = None
        self._session: OpenSession | None = None
        self._thread = threading.Thread(target=self._open, name="bertonnx-open")
        try:
            require_name(path, ModelFileError)
            # What is checked is what runs, whatever becomes of the file meanwhile.
            if not Path(path).is_dir():
                self._held.enter_context(held(Path(path)))
            self._found = _read(Path(path))
        except Exception as error:
            self._unread = error
            self.__exit__(type(error), error, error.__traceback__)
            return
        # Beside this thread's imports, its own would take long.
        with suppress(MissingDependencyError):
            import_onnxruntime()
        self._thread.start()

    def __enter__(self) -> Opening:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.ident is not None:
            self._thread.join()
        self._held.__exit__(kind, error, trace)

    def result(self) -> tuple[Found, TextTokenizer, OpenSession]:
        """Return what was read of the model, its tokenizer, and its session.

        Raises:
            ModelFileError: the file is missing, broken, foreign or of a newer format.
            ProviderError: the provider cannot be used.
            UsageError: the longest input that was asked for is more than the model takes.
        """
        from bertonnx.runtime.tokenization import TextTokenizer

        with self:
            if self._unread is not None:
                raise self._unread
            found, options = self._found, self._options
            tokenizer = TextTokenizer(
                found.tokenizer,
                found.card,
                max_length=options.max_length,
                long_text=options.long_text or task_named(found.card.task).long_text,
            )
            self._thread.join()
            if self._session is None:
                raise self._wrong or AssertionError("there is neither a session nor an error")
            return found, tokenizer, self._session

    def _open(self) -> None:
        try:
            self._session = self._found.opens(self._options)
        except Exception as error:
            self._wrong = error


def loading(load: LoadOptions, decode: DecodeOptions) -> LoadOptions:
    """Return how a model is opened for what becomes of its texts: for chunks, to read windows."""
    return replace(load, long_text="stride") if decode.chunks and load.long_text is None else load


def opened(path: Path, options: LoadOptions) -> tuple[Found, TextTokenizer, OpenSession]:
    """Return what was read of a model, its tokenizer, and its session, as `Opening.result`."""
    return Opening(path, options).result()


def _read(path: Path) -> Found:
    if not path.is_dir():
        file = read_model_file(path)
        if file.is_bertonnx:
            card = file.card
            return Found(card, file.tokenizer, lambda options: open_session(path, card, options))
    from bertonnx.runtime.optimum import read_optimum  # for what others made

    folder = read_optimum(path)
    return Found(folder.card, folder.tokenizer, folder.open, folder.notes)
