"""The one seam to the Rust tokenizers: whatever it raises for a text becomes that row's error.

A panic of Rust is a `BaseException` in Python, which ends a whole job past every `except Exception`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tokenizers import Encoding, Tokenizer

from bertonnx.errors import ModelFileError, RowError

__all__ = ["FaultError", "decoded", "encoded", "guarded", "opened", "twin"]

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


def twin(tokenizer: Tokenizer) -> Tokenizer:
    """Return a second tokenizer with the same parts, whose truncation and padding are its own.

    Its vocabulary is the first one's, not a copy. To write the first one out and read it again would make
    one, and of a vocabulary with holes, Rust prints a warning on standard output, among the results.
    """
    other = Tokenizer(tokenizer.model)
    # Before tokens are added, which are looked for in normalized text.
    other.normalizer, other.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    other.post_processor, other.decoder = tokenizer.post_processor, tokenizer.decoder
    other.encode_special_tokens = tokenizer.encode_special_tokens
    added = tokenizer.get_added_tokens_decoder()
    other.add_tokens([added[number] for number in sorted(added)])
    if {n: repr(token) for n, token in other.get_added_tokens_decoder().items()} == {
        n: repr(token) for n, token in added.items()
    }:
        return other
    other = Tokenizer.from_str(tokenizer.to_str())
    other.no_truncation()
    other.no_padding()
    return other


def encoded(
    tokenizer: Tokenizer, inputs: Sequence[Input], *, add_special_tokens: bool = True
) -> list[Encoding | RowError]:
    """Return what the tokenizer makes of texts or pairs, with an error in place of one that it fails on."""
    try:
        with guarded():
            encodings: list[Encoding | RowError] = tokenizer.encode_batch(
                list(inputs), add_special_tokens=add_special_tokens
            )
            return encodings
    except FaultError as error:
        if len(inputs) > 1:
            # One is at fault, and the others must not suffer for it.
            return [
                result
                for one in inputs
                for result in encoded(tokenizer, [one], add_special_tokens=add_special_tokens)
            ]
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
