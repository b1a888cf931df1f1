"""Tokenizers of folders without a tokenizer.json: made of vocab.txt, vocab.json and merges.txt, or
SentencePiece.

transformers converts them, and its versions do so in different ways. A folder that version 4 saved gets what
4 makes of it: under version 5 by 4's converters, which 5 still has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.tokenizer_classes import defaults_of
from bertonnx.exporters.checkpoint.tokenizer_file import add_tokens
from bertonnx.exporters.checkpoint.tokenizer_folder import (
    CONFIG,
    PROVIDE,
    TokenizerFolder,
    installed_major,
)
from bertonnx.exporters.quiet import quiet
from bertonnx.wording import said_by

__all__ = ["converted"]

_ALIKE = frozenset(
    {"BertTokenizer", "ConvBertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer"}
    | {"MobileBertTokenizer", "SplinterTokenizer", "SqueezeBertTokenizer"}
)
"""Classes of which both versions make the same."""

_FILES: Mapping[str, tuple[str, ...]] = {
    "AlbertTokenizer": ("spiece.model",),
    "DebertaTokenizer": ("vocab.json", "merges.txt"),
    "DebertaV2Tokenizer": ("spm.model",),
    "RobertaTokenizer": ("vocab.json", "merges.txt"),
}
"""Classes that version 4's converters can make a tokenizer of under version 5 -> their files."""

_SLOW_ONLY: Mapping[str, object] = {"do_basic_tokenize": True, "never_split": None}
"""Keys that only version 4's Python classes read, with what they are where nothing is said."""


def converted(folder: TokenizerFolder, account: Account) -> Tokenizer:
    """Return a tokenizer made of a folder's vocabulary, as the version that saved it makes it.

    Raises:
        CheckpointError: it cannot be made, or this version would make another.
    """
    kind = folder.kind.name.removesuffix("Fast")
    _require_no_mark(folder.path)
    if kind == "EsmTokenizer":
        return _with_own_tokens(_esm(folder), folder)
    if folder.version == installed_major() or kind in _ALIKE:
        for key, usual in _SLOW_ONLY.items():
            if folder.version == 4 != installed_major() and folder.config.get(key, usual) not in (usual, []):
                account.refuse(CONFIG, key, folder.config[key], "which transformers 4 alone reads")
        return _with_own_tokens(_by_transformers(folder), folder)
    if folder.version == 4 and kind in _FILES:
        return _with_own_tokens(_by_version_4(folder, kind), folder)
    raise CheckpointError(
        "{folder} has no tokenizer.json, and transformers {saved} makes another {kind} of its files than "
        "{installed}, which is installed; where {saved} is, type: "
        "AutoTokenizer.from_pretrained('folder').save_pretrained('folder')",
        folder=folder.path,
        saved=folder.version,
        installed=installed_major(),
        kind=kind,
    )


def _with_own_tokens(made: Tokenizer, folder: TokenizerFolder) -> Tokenizer:
    """Return a tokenizer of another version's folder, where both read its added tokens alike.

    Each version has its own way with the ids that are listed, and with tokens that normalizing changes.
    """
    if folder.version == installed_major():
        return made
    own = made.get_vocab(with_added_tokens=False)
    listed = {token.content: index for index, token in folder.added}
    extra = {str(value): made.token_to_id(str(value)) for value in folder.extra_values}
    normalized = [str(value) for value in folder.named_values(()).values() if _is_normalized(value)]
    normalized += [*extra, *(token.content for _, token in folder.added if token.normalized)]
    normalized += [token for token in listed if token not in own]
    changed = [
        token for token in normalized if made.normalizer and made.normalizer.normalize_str(token) != token
    ]
    added = [
        token
        for token, index in {**extra, **listed}.items()
        if own.get(token, made.token_to_id(token)) != index
    ]
    added += changed
    if not added:
        return made
    raise CheckpointError(
        "{folder} has no tokenizer.json, and the token {token!r}, which it adds to its vocabulary, is read "
        "by transformers {saved} otherwise than by {installed}, which is installed; where {saved} is, type: "
        "AutoTokenizer.from_pretrained('folder').save_pretrained('folder')",
        folder=folder.path,
        token=added[0],
        saved=folder.version,
        installed=installed_major(),
    )


def _is_normalized(value: str | AddedToken) -> bool:
    return isinstance(value, AddedToken) and value.normalized and not value.lstrip


def _by_transformers(folder: TokenizerFolder) -> Tokenizer:
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    with quiet():
        try:
            own = load(folder.path, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # every tokenizer class fails in its own way
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
    try:
        return Tokenizer.from_str(own.backend_tokenizer.to_str())
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(
            "the tokenizer in {folder}, a {kind}, splits texts with Python code, which cannot be written "
            "into the model file ({why}); {provide}",
            folder=folder.path,
            kind=type(own).__name__,
            why=said_by(error),
            provide=PROVIDE,
        ) from error


def _by_version_4(folder: TokenizerFolder, kind: str) -> Tokenizer:
    from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS

    missing = [name for name in _FILES[kind] if not (folder.path / name).is_file()]
    if missing:
        raise CheckpointError(
            "{folder} has no tokenizer.json and no {missing}, of which a {kind} could be made; {provide}",
            folder=folder.path,
            missing=", ".join(missing),
            kind=kind,
            provide=PROVIDE,
        )
    converters: Any = SLOW_TO_FAST_CONVERTERS
    with quiet():
        try:
            made: Tokenizer = converters[kind](_Version4(folder, kind)).converted()
        except CheckpointError:
            raise
        except Exception as error:  # a converter fails in its own way
            raise CheckpointError(
                "no {kind} can be made of the files in {folder} ({error}: {why}); {provide}",
                folder=folder.path,
                kind=kind,
                error=type(error).__name__,
                why=said_by(error),
                provide=PROVIDE,
            ) from error
    # 4's class puts its own mask, which takes the space before it, over that of the vocabulary.
    if "wide mask" in folder.kind.rules and "mask_token" in folder.named:
        mask = folder.named["mask_token"].content
        made.add_tokens([AddedToken(mask, lstrip=True, normalized=False, special=True)])
    add_tokens(made, folder)
    return made


class _Version4:
    """What version 4's converters ask of its Python tokenizers."""

    def __init__(self, folder: TokenizerFolder, kind: str) -> None:
        self._folder = folder
        self._paths = [folder.path / name for name in _FILES[kind]]
        self.vocab_file = str(self._paths[0])
        # Those of the fast class may differ, and it is made of this one.
        own = defaults_of(4, kind)
        for name in ("do_lower_case", "keep_accents", "split_by_punct", "remove_space"):
            setattr(self, name, folder.config.get(name, own.get(name)))
        for name, token in folder.named.items():
            setattr(self, name, token.content)
            setattr(self, f"{name}_id", self.convert_tokens_to_ids(token.content))

    @property
    def add_prefix_space(self) -> bool:
        # Those of SentencePiece have no such attribute, and are converted as if it were true.
        return True if self._pieces is not None else bool(self._folder.setting("add_prefix_space"))

    @cached_property
    def encoder(self) -> dict[str, int]:
        vocabulary: dict[str, int] = json.loads(self._paths[0].read_text(encoding="utf-8"))
        return vocabulary

    @cached_property
    def bpe_ranks(self) -> dict[tuple[str, ...], int]:
        lines = self._paths[1].read_text(encoding="utf-8").split("\n")[1:]
        pairs = [tuple(line.split()) for line in lines if line]
        return {pair: rank for rank, pair in enumerate(pairs)}

    @cached_property
    def _pieces(self) -> Any:
        if self._paths[0].suffix != ".model":
            return None
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_file=self.vocab_file)

    def convert_tokens_to_ids(self, token: str) -> int:
        if self._pieces is not None:
            return int(self._pieces.piece_to_id(token))
        if token not in self.encoder:
            raise CheckpointError(
                "{path} has no {token!r}; put the checkpoint's original file in its place",
                path=self._paths[0],
                token=token,
            )
        return self.encoder[token]


def _esm(folder: TokenizerFolder) -> Tokenizer:
    """Make what `EsmTokenizer` does in Python: each line is found wherever it stands, the longest first."""
    text = (folder.path / "vocab.txt").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines()]
    ids = {line: i for i, line in enumerate(lines)}
    tokens = {name: token.content for name, token in folder.named.items()}
    cls, eos, unknown = (tokens.get(name) for name in ("cls_token", "eos_token", "unk_token"))
    if cls not in ids or eos not in ids or unknown not in ids:
        raise CheckpointError(
            "{path} has no line for one of {tokens}, which a tokenizer of ESM puts around a text; put the "
            "checkpoint's original file in its place",
            path=folder.path / "vocab.txt",
            tokens=", ".join(str(token) for token in (cls, eos, unknown)),
        )
    made = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {eos}",
        pair=f"{cls} $A {eos} $B {eos}",
        special_tokens=[(token, ids[token]) for token in (cls, eos)],
    )
    special = {*tokens.values()}
    made.add_tokens([AddedToken(line, normalized=False, special=line in special) for line in lines if line])
    add_tokens(made, folder)
    return made


def _require_no_mark(folder: Path) -> None:
    for name in ("vocab.txt", "vocab.json", "merges.txt"):
        file = folder / name
        if file.is_file() and file.read_bytes()[:3] == b"\xef\xbb\xbf":
            raise CheckpointError(
                "{path} begins with a byte order mark, which becomes part of its first token; save it "
                "as UTF-8 without one",
                path=file,
            )
