"""The checkpoint's tokenizer as one text, proven to give the same ids as the checkpoint's own.

What the folder says decides, and the version of transformers that saved it; the installed one is asked only
for what it would make of the same files, or to convert a vocabulary (`tokenizer_file`, `vocabulary`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.tokenizer_file import file_tokenizer, normalizer_put
from bertonnx.exporters.checkpoint.tokenizer_folder import (
    CONFIG,
    PROVIDE,
    TokenizerFolder,
    account_of,
    read_folder,
)
from bertonnx.exporters.checkpoint.tokenizer_proof import difference, proven, require_encodes
from bertonnx.exporters.checkpoint.vocabulary import converted
from bertonnx.exporters.quiet import quiet
from bertonnx.runtime.tokenization import stripped
from bertonnx.wording import Message, said_by

__all__ = ["TokenizerFacts", "read_tokenizer"]

_NO_LIMIT = 1_000_000
"""transformers writes 1e30 for "no limit"; no encoder reads a million tokens."""

_FORCED = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"


@dataclass(frozen=True)
class TokenizerFacts:
    """What a checkpoint's tokenizer says; the token fields are None where it has no such token.

    Attributes:
        text: a `tokenizer.json` without padding and truncation.
        max_length: its own limit in tokens, special ones included; None where it has none.
        input_names: what it makes, as transformers names it.
        clean_up_spaces: whether it takes spaces before punctuation out of decoded text.
        least: tokens that it adds to a pair by itself.
        notes: what is to be said of it, a sentence each.
    """

    text: str
    max_length: int | None
    input_names: tuple[str, ...]
    least: int
    mask_token: str | None
    mask_token_id: int | None
    pad_token_id: int | None
    padding_side: str
    truncation_side: str
    clean_up_spaces: bool
    special_ids: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[Message, ...] = ()


def read_tokenizer(
    path: Path,
    *,
    embeddings: int,
    account: Account,
    lower: bool = False,
    trust_remote_code: bool = False,
) -> TokenizerFacts:
    """Return the tokenizer of a checkpoint's folder.

    Args:
        path: holds the tokenizer's files.
        embeddings: rows of the model's table of word embeddings.
        account: takes down keys that nothing reads.
        lower: put lower-casing first, as Sentence-Transformers' `do_lower_case` does.
        trust_remote_code: run the checkpoint's own Python code.

    Raises:
        CheckpointError: there is none, it has no fast version, it cannot be written down without
            changing its ids, or it makes ids that the model has no embedding for.
    """
    folder = read_folder(path)
    account_of(folder, account)
    own: Any = None
    notes: tuple[Message, ...] = ()
    makes = tuple(folder.config.get("model_input_names") or folder.kind.makes)
    if trust_remote_code and folder.own_code:
        own = _own_code(folder)
        made, makes = own.backend_tokenizer, tuple(own("a", "b"))
    elif folder.file is not None:
        made = file_tokenizer(folder, account)
        notes = _mixed_note(folder)
    else:
        made = converted(folder, account)
    require_encodes(made, folder)
    # Parity cannot see a wrong tokenizer: PyTorch and the graph are both fed the ids that it makes. A class
    # that obeys a key which the user lets be ignored is no witness.
    if own is None and not any(key.startswith(CONFIG) for key in account.ignored_keys):
        notes = (*notes, *proven(made, folder, makes, trust_remote_code=trust_remote_code))
    if lower:
        _lower_first(made, folder)
    text = _text(made, folder)
    written = Tokenizer.from_str(text)
    if own is not None:
        _require_same_ids(own, written, folder)
    _require_embeddings(written, embeddings, path)
    return _facts(folder, written, text=text, makes=makes, notes=notes)


def _facts(
    folder: TokenizerFolder,
    written: Tokenizer,
    *,
    text: str,
    makes: tuple[str, ...],
    notes: tuple[Message, ...],
) -> TokenizerFacts:
    sides = _sides(folder)
    named = {name: token.content for name, token in folder.named.items()}
    mask, pad = named.get("mask_token"), named.get("pad_token")
    limit = folder.limit
    clean = bool(folder.setting("clean_up_tokenization_spaces"))
    # Version 5 does not believe the key of a byte-level tokenizer, whose spaces are all in the text.
    spaced = folder.version == 4 or folder.config.get(_FORCED) or type(written.model).__name__ != "BPE"
    return TokenizerFacts(
        text=text,
        max_length=int(limit) if limit is not None and 0 < limit < _NO_LIMIT else None,
        input_names=makes,
        least=int(written.num_special_tokens_to_add(is_pair=True)) + 2,
        mask_token=mask,
        mask_token_id=None if mask is None else written.token_to_id(mask),
        pad_token_id=None if pad is None else written.token_to_id(pad),
        padding_side=sides["padding"],
        truncation_side=sides["truncation"],
        clean_up_spaces=clean and bool(spaced),
        special_ids={
            name: number
            for name, token in named.items()
            if (number := written.token_to_id(token)) is not None
        },
        notes=notes,
    )


def _sides(folder: TokenizerFolder) -> dict[str, str]:
    """Return where padding and cutting happen: tokenizer.json says it where no key does."""
    found = {}
    for name in ("padding", "truncation"):
        key = f"{name}_side"
        in_file = str(folder.saved(name).get("direction") or getattr(folder.kind, key)).lower()
        found[name] = str(folder.config.get(key) or in_file)
        if found[name] not in ("left", "right"):
            raise CheckpointError(
                "tokenizer_config.json in {folder} has {key} {value!r}, which is neither left nor right; "
                "write one of them there",
                folder=folder.path,
                key=key,
                value=found[name],
            )
    return found


def _mixed_note(folder: TokenizerFolder) -> tuple[Message, ...]:
    if not (folder.mixed and "builds" in folder.kind.rules):
        return ()
    note = Message(
        "transformers 5 saved the model and 4 the tokenizer: tokenizer.json is followed, not what 5 would "
        "build of it"
    )
    return (note,)


def _own_code(folder: TokenizerFolder) -> Any:
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    with quiet():
        try:
            own: Any = load(folder.path, use_fast=True, local_files_only=True, trust_remote_code=True)
        except Exception as error:  # it may raise anything
            raise CheckpointError(
                "the tokenizer in {folder} cannot be loaded ({kind}: {why}); {provide}",
                folder=folder.path,
                kind=type(error).__name__,
                why=said_by(error),
                provide=PROVIDE,
            ) from error
    if not own.is_fast:
        raise CheckpointError(
            "the tokenizer in {folder}, a {kind}, has no fast version, so it cannot go into the model file; "
            "{provide}",
            folder=folder.path,
            kind=type(own).__name__,
            provide=PROVIDE,
        )
    return own


def _lower_first(made: Tokenizer, folder: TokenizerFolder) -> None:
    # As sentence_transformers/base/modules/transformer.py does with do_lower_case.
    from tokenizers.normalizers import Lowercase, Sequence

    normalizer: Any = made.normalizer
    parts = [normalizer] if normalizer is not None else []
    if isinstance(normalizer, Sequence):
        parts = list(normalizer)
    if not any(isinstance(part, Lowercase) for part in parts):
        normalizer_put(
            made, Sequence([Lowercase(), *parts]), folder, "do_lower_case of Sentence-Transformers"
        )


def _text(made: Any, folder: TokenizerFolder) -> str:
    try:
        text = stripped(made.to_str())
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(
            "the tokenizer in {folder}, a {kind}, splits texts with Python code, which cannot be written "
            "into the model file ({why}); {provide}",
            folder=folder.path,
            kind=folder.kind.name,
            why=said_by(error),
            provide=PROVIDE,
        ) from error
    if folder.file is not None:
        original = stripped(folder.file.read_text(encoding="utf-8"))
        if _canonical(original) == json.loads(text):
            return original
    return text


def _canonical(text: str) -> Any:
    try:
        return json.loads(Tokenizer.from_str(text).to_str())
    except Exception:  # tokenizers raises bare Exception for what it cannot read
        return None


def _require_same_ids(own: Any, written: Tokenizer, folder: TokenizerFolder) -> None:
    text = difference(own, written, typed="token_type_ids" in own.model_input_names)
    if text is not None:
        raise CheckpointError(
            "the tokenizer in {folder}, written down as tokenizer.json, gives other ids than the "
            "checkpoint's own {kind}, for example for {text!r}; {provide}",
            folder=folder.path,
            kind=type(own).__name__,
            text=text[:60],
            provide=PROVIDE,
        )


def _require_embeddings(written: Tokenizer, embeddings: int, folder: Path) -> None:
    # More embeddings than tokens are usual (tables are padded to multiples of 8 or 64); fewer never right.
    vocabulary = written.get_vocab(with_added_tokens=True)
    # A blank line of a vocab.txt is a token that no text can hold.
    outside = sorted((index, token) for token, index in vocabulary.items() if token and index >= embeddings)
    if outside:
        shown = ", ".join(f"{token!r} ({index})" for index, token in outside[:5])
        raise CheckpointError(
            "the tokenizer in {folder} makes {count} ids that the model has no embedding for: {shown}; the "
            "model has {embeddings}, so the highest id is {highest}. Tokenizer and weights do not belong "
            "together, or tokens were added without model.resize_token_embeddings",
            folder=folder,
            count=len(outside),
            shown=shown,
            embeddings=embeddings,
            highest=embeddings - 1,
        )
