"""The one seam to the Rust tokenizers: whatever it raises for a text becomes that row's error.

A panic of Rust is a `BaseException` in Python, which ends a whole job past every `except Exception`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tokenizers import Encoding, Tokenizer

from bertonnx.errors import ModelFileError, RowError

__all__ = ["FaultError", "decoded", "encoded", "guarded", "opened"]

Input = str | tuple[str, str]


class FaultError(Exception):
    """The tokenizer failed; the message is its own."""


@contextmanager
def guarded() -> Iterator[None]:
    """Let what the tokenizer raises in the block, panics too, be a `FaultError`.

    Raises:
        FaultError: it raised something.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise FaultError(_said(error)) from error
    except BaseException as error:
        # By its name, for Rust makes the class where it panics first.
        if type(error).__name__ != "PanicException":
            raise
        raise FaultError(_said(error)) from error


def _in_child() -> None:
    # Rust's threads do not come along when a process forks, and with this set to true it waits for them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def opened(text: str) -> Tokenizer:
    """Return the tokenizer of a `tokenizer.json`, without its truncation and padding.

    Raises:
        ModelFileError: the text is none.
    """
    try:
        with guarded():
            tokenizer: Tokenizer = Tokenizer.from_str(text)
            tokenizer.no_truncation()
            tokenizer.no_padding()
            return tokenizer
    except FaultError as error:
        raise ModelFileError(
            "the tokenizer in the model file cannot be read: {error}", error=str(error)
        ) from error


def encoded(tokenizer: Tokenizer, inputs: Sequence[Input]) -> list[Encoding | RowError]:
    """Return what the tokenizer makes of texts or pairs, with an error in place of one that it fails on."""
    try:
        with guarded():
            encodings: list[Encoding | RowError] = tokenizer.encode_batch(list(inputs))
            return encodings
    except FaultError as error:
        if len(inputs) > 1:
            # One is at fault, and the others must not suffer for it.
            return [result for one in inputs for result in encoded(tokenizer, [one])]
        return [RowError("runtime", "the tokenizer failed on this text: {said}", said=str(error))]


def decoded(tokenizer: Tokenizer, ids: list[int], *, skip_special_tokens: bool) -> str:
    """Return the text of token ids.

    Raises:
        RowError: the tokenizer fails on them.
    """
    try:
        with guarded():
            text: str = tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
            return text
    except FaultError as error:
        raise RowError(
            "runtime", "the tokenizer cannot turn tokens into text: {said}", said=str(error)
        ) from error


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
