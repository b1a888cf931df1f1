"""Proof that a tokenizer gives the ids that transformers gives, on texts on which tokenizers part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.tokenizer_folder import (
    PROVIDE,
    TokenizerFolder,
    installed_major,
)
from bertonnx.exporters.quiet import quiet
from bertonnx.models.hard_texts import HARD_TEXTS
from bertonnx.wording import Message, said_by

__all__ = ["difference", "proven", "require_encodes"]

_ALWAYS = ("input_ids", "attention_mask")
"""What a model is fed, whether or not its tokenizer lists it."""


def _texts_of_added(made: Tokenizer) -> Iterator[str]:
    """Yield texts that hold each added token of a tokenizer, as it is and in other cases, alone and not."""
    contents = [token.content for _, token in sorted(made.get_added_tokens_decoder().items())]
    for content, behind in zip(contents, (*contents[1:], *contents[:1]), strict=True):
        yield f"a {content} film  {content}  the{content}end {content}{behind} {content}, {behind}{content}"
        for cased in {content.lower(), content.upper(), content.swapcase(), content.strip()} - {content}:
            yield f"{cased} a {cased} film the{cased}end"


def require_encodes(made: Tokenizer, folder: TokenizerFolder) -> None:
    """Refuse a tokenizer that fails on texts, as one does whose unknown token is not in its vocabulary.

    Raises:
        CheckpointError: with the text and what the library says.
    """
    for text in HARD_TEXTS:
        try:
            made.encode(text)
        except BaseException as error:  # tokenizers raises bare Exception, and Rust may panic
            if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
                raise
            raise CheckpointError(
                "the tokenizer in {folder} cannot read the text {text!r} ({why}), in transformers neither; "
                "{provide}",
                folder=folder.path,
                text=text[:60],
                why=said_by(error),
                provide=PROVIDE,
            ) from error


def proven(
    made: Tokenizer, folder: TokenizerFolder, makes: tuple[str, ...], *, trust_remote_code: bool
) -> tuple[Message, ...]:
    """Compare a tokenizer with the class of the version that saved it, where that version is installed.

    Args:
        made: what goes into the model file.
        folder: its files.
        makes: the outputs that the class is believed to have.
        trust_remote_code: run Python code of the folder, where its model has some.

    Returns:
        A note where there was nothing to compare it with.

    Raises:
        CheckpointError: the class gives other ids, or other outputs.
    """
    if folder.version != installed_major() or folder.mixed:
        return ()
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    with quiet():
        try:
            own = load(folder.path, local_files_only=True, trust_remote_code=trust_remote_code)
            # A class for words and their places on a page is loaded, and takes no text.
            text = difference(own, made, typed="token_type_ids" in makes)
            given = set(own("a", "b"))
        except Exception as error:  # every tokenizer class fails in its own way
            note = Message(
                "tokenizer.json alone says how texts are split: {kind} of transformers {version} cannot be "
                "used to compare them ({why})",
                kind=folder.kind.name,
                version=folder.version,
                why=said_by(error),
            )
            return (note,)
    if text is not None and folder.file is None:
        raise CheckpointError(
            "the tokenizer in {folder}, written down as tokenizer.json, gives other ids than the "
            "checkpoint's own {kind}, for example for {text!r}; {provide}",
            folder=folder.path,
            kind=type(own).__name__,
            text=text[:60],
            provide=PROVIDE,
        )
    if text is not None:
        raise CheckpointError(
            "tokenizer.json in {folder} and the checkpoint's own {kind} give different ids, for example for "
            "{text!r}; if that class is right, save it again where it is installed: "
            "AutoTokenizer.from_pretrained('folder').save_pretrained('folder'); if the file is, put "
            '"tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json',
            folder=folder.path,
            kind=type(own).__name__,
            text=text[:60],
        )
    # More may be listed than a call makes; such a model is refused for what it reads.
    if not given <= {*makes, *_ALWAYS} or "token_type_ids" in {*makes} - given:
        raise CheckpointError(
            "the tokenizer in {folder}, a {kind}, makes {given}, and {makes} were expected of it; name "
            "them in tokenizer_config.json: {line}",
            folder=folder.path,
            kind=type(own).__name__,
            given=", ".join(sorted(given)),
            makes=", ".join(makes),
            line='"model_input_names": [...]',
        )
    return ()


def difference(own: Any, made: Tokenizer, *, typed: bool) -> str | None:
    """Return a text for which transformers' tokenizer `own` gives other ids or segments; None for no such."""
    cases: list[tuple[str, str | None]] = [(text, None) for text in (*HARD_TEXTS, *_texts_of_added(made))]
    # transformers reads an empty second text as none at all.
    cases += [(a, b) for a, b in zip(HARD_TEXTS, reversed(HARD_TEXTS), strict=True) if b]
    with quiet():
        for text, pair in cases:
            try:
                wanted, got = own(text, pair), made.encode(text, pair)
            except BaseException as error:
                # A text that Rust panics at is its row's error, here as in transformers.
                if type(error).__name__ != "PanicException":
                    raise
                continue
            same_types = not typed or wanted.get("token_type_ids", got.type_ids) == got.type_ids
            if wanted["input_ids"] != got.ids or not same_types:
                return text
    return None
