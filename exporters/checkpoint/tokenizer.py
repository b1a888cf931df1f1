"""The checkpoint's tokenizer as one text, proven to give the same ids as the checkpoint's own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.quiet import quiet
from bertonnx.runtime.tokenization import stripped
from bertonnx.wording import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["HARD_TEXTS", "TokenizerFacts", "read_tokenizer"]

_NO_LIMIT = 1_000_000
"""transformers writes 1e30 for "no limit"; no encoder reads a million tokens."""

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "bpe.codes")

_PROVIDE = Message(
    "put a tokenizer.json that gives the same ids beside config.json, with "
    '"tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json'
)

HARD_TEXTS: tuple[str, ...] = (
    "",
    " ",
    "   leading and trailing   ",
    "Hello, world!",
    "UPPER lower MiXeD",
    "don't can't it's I'm we'll",
    "tabs\tand\nnew lines\r\nand  double  spaces",
    "no-break\u00a0space, thin\u2009space, zero\u200bwidth, ideographic\u3000space",
    "caf\u00e9 and cafe\u0301, na\u00efve and nai\u0308ve",
    "\u00c4rger, Stra\u00dfe, STRASSE, \u1e9e",
    "\u0130stanbul and \u0131s\u0131",
    "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2 \u03a3\u0391\u03a3",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u0436\u0438\u043a",
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3068\u30ab\u30bf\u30ab\u30ca",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\U0001f600 \U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "\ufb01ligature, \u2460circled, \uff21full\uff22width, x\u00b2",
    "control\x00and\x07and\x1band\x7fcharacters",
    "\ufeffbyte order mark, \ufffdreplacement",
    "right-to-left \u202emark\u202c and soft\u00adhyphen",
    "1,234.56 100% $5 \u20ac7 3/4 1e-5 0x1F",
    "2024-02-29T12:34:56Z +49 (0)30 123456",
    "https://example.org/a?b=c&d=%20#e name.surname@example.org @user #tag",
    "snake_case camelCase kebab-case C++ C# a/b",
    "...!!!???---___***",
    "\u201cquotes\u201d \u2018single\u2019 \u00abguillemets\u00bb \u2026 \u2013 \u2014",
    "<b>html</b> &amp; {json: [1, 2]} \\path\\to\\file",
    "[MASK] [CLS] [SEP] [PAD] [UNK]",
    "<mask> <s> </s> <pad> <unk>",
    "the<mask>of[MASK]it",
    "a [MASK] . b <mask> , c",
    "unaffable unbelievability antidisestablishmentarianism",
    "x" * 150,
    "ab" * 120 + " end",
    "word " * 60,
    "\u2581underline \u0120byte",
    "a\u0300\u0301\u0302\u0303 z\u0351\u036b\u0343",
)
"""Texts on which tokenizers that look alike part: white space, Unicode, specials, long words."""


@dataclass(frozen=True)
class TokenizerFacts:
    """What a checkpoint's tokenizer says; the token fields are None where it has no such token.

    Attributes:
        text: a `tokenizer.json` without padding and truncation.
        max_length: its own limit in tokens, special ones included; None where it has none.
        input_names: what it makes, as transformers names it.
        clean_up_spaces: whether it takes spaces before punctuation out of decoded text.
        least: tokens that it adds to a pair by itself.
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


def read_tokenizer(
    folder: Path, *, embeddings: int, lower: bool = False, trust_remote_code: bool = False
) -> TokenizerFacts:
    """Return the tokenizer of a checkpoint's folder.

    Args:
        folder: holds the tokenizer's files.
        embeddings: rows of the model's table of word embeddings.
        lower: put lower-casing first, as Sentence-Transformers' `do_lower_case` does.
        trust_remote_code: run the checkpoint's own Python code.

    Raises:
        CheckpointError: there is none, it has no fast version, it cannot be written down without
            changing its ids, or it makes ids that the model has no embedding for.
    """
    own = _own_tokenizer(folder, trust_remote_code=trust_remote_code)
    if lower:
        _lower_first(own)
    # The file's own text lacks the lower-casing that was just put in.
    text = _text(own, folder, raw=not lower)
    written = Tokenizer.from_str(text)
    # Parity cannot see a wrong tokenizer: PyTorch and the graph are both fed the ids that it makes.
    _require_same_ids(own, written, folder)
    _require_embeddings(written, embeddings, folder)
    limit = own.model_max_length
    return TokenizerFacts(
        text=text,
        max_length=int(limit) if limit is not None and 0 < limit < _NO_LIMIT else None,
        input_names=tuple(own.model_input_names),
        least=int(written.num_special_tokens_to_add(is_pair=True)) + 2,
        mask_token=own.mask_token,
        mask_token_id=own.mask_token_id,
        pad_token_id=own.pad_token_id,
        padding_side=str(own.padding_side),
        truncation_side=str(own.truncation_side),
        clean_up_spaces=bool(own.clean_up_tokenization_spaces),
    )


def _own_tokenizer(folder: Path, *, trust_remote_code: bool) -> PreTrainedTokenizerFast:
    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        raise CheckpointError(
            "{folder} has no tokenizer (none of {files}); copy the tokenizer's files there, or save it with "
            "transformers: tokenizer.save_pretrained('folder')",
            folder=folder,
            files=", ".join(_VOCABULARIES),
        )
    # Read for the error alone: transformers' own does not say which file is broken.
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    with quiet():
        try:
            own = _fast(folder, trust_remote_code=trust_remote_code)
        except CheckpointError:
            raise
        except Exception as error:  # every tokenizer class fails in its own way
            raise CheckpointError(
                "the tokenizer in {folder} cannot be loaded ({kind}: {why}); {provide}",
                folder=folder,
                kind=type(error).__name__,
                why=_short(error),
                provide=_PROVIDE,
            ) from error
    return own


def _fast(folder: Path, *, trust_remote_code: bool) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    load_any: Any = AutoTokenizer.from_pretrained
    load: Any = PreTrainedTokenizerFast.from_pretrained
    has_text = (folder / "tokenizer.json").is_file()
    try:
        own: Any = load_any(folder, use_fast=True, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception:
        # A class without a fast version needs files (and packages) that a tokenizer.json replaces.
        if not has_text:
            raise
        own = load(folder, local_files_only=True)
    if own.is_fast:
        fast: PreTrainedTokenizerFast = own
        return fast
    if not has_text:
        raise CheckpointError(
            "the tokenizer in {folder}, a {kind}, has no fast version, so it cannot go into the model file; "
            "{provide}",
            folder=folder,
            kind=type(own).__name__,
            provide=_PROVIDE,
        )
    # A tokenizer.json beside a slow class may be somebody's conversion, so it is not trusted unseen.
    replacement: PreTrainedTokenizerFast = load(folder, local_files_only=True)
    for text in HARD_TEXTS:
        if own(text)["input_ids"] != replacement(text)["input_ids"]:
            raise CheckpointError(
                "tokenizer.json in {folder} and the checkpoint's own {kind} give different ids, for example "
                "for {text!r}; {provide}",
                folder=folder,
                kind=type(own).__name__,
                text=text[:60],
                provide=_PROVIDE,
            )
    return replacement


def _lower_first(own: PreTrainedTokenizerFast) -> None:
    # As sentence_transformers/base/modules/transformer.py does with do_lower_case.
    from tokenizers.normalizers import Lowercase, Sequence

    backend: Any = own.backend_tokenizer
    normalizer = backend.normalizer
    parts = [normalizer] if normalizer is not None else []
    if isinstance(normalizer, Sequence):
        parts = list(normalizer)
    if not any(isinstance(part, Lowercase) for part in parts):
        backend.normalizer = Sequence([Lowercase(), *parts])


def _text(own: PreTrainedTokenizerFast, folder: Path, *, raw: bool) -> str:
    try:
        text = stripped(own.backend_tokenizer.to_str())
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(
            "the tokenizer in {folder}, a {kind}, splits texts with Python code, which cannot be written "
            "into the model file ({why}); {provide}",
            folder=folder,
            kind=type(own).__name__,
            why=_short(error),
            provide=_PROVIDE,
        ) from error
    file = folder / "tokenizer.json"
    if raw and file.is_file():
        original = stripped(file.read_text(encoding="utf-8"))
        if _canonical(original) == json.loads(text):
            return original
    return text


def _canonical(text: str) -> Any:
    try:
        return json.loads(Tokenizer.from_str(text).to_str())
    except Exception:  # tokenizers raises bare Exception for what it cannot read
        return None


def _require_same_ids(own: PreTrainedTokenizerFast, written: Tokenizer, folder: Path) -> None:
    call: Any = own
    typed = "token_type_ids" in own.model_input_names
    cases: list[tuple[str, str | None]] = [(text, None) for text in HARD_TEXTS]
    # transformers reads an empty second text as none at all.
    cases += [(a, b) for a, b in zip(HARD_TEXTS, reversed(HARD_TEXTS), strict=True) if b]
    with quiet():
        for text, pair in cases:
            wanted = call(text, pair)
            got = written.encode(text, pair)
            same_types = not typed or wanted["token_type_ids"] == got.type_ids
            if wanted["input_ids"] != got.ids or not same_types:
                raise CheckpointError(
                    "the tokenizer in {folder}, written down as tokenizer.json, gives other ids than the "
                    "checkpoint's own {kind}, for example for {text!r}; {provide}",
                    folder=folder,
                    kind=type(own).__name__,
                    text=text[:60],
                    provide=_PROVIDE,
                )


def _require_embeddings(written: Tokenizer, embeddings: int, folder: Path) -> None:
    # More embeddings than tokens are usual (tables are padded to multiples of 8 or 64); fewer never right.
    vocabulary = written.get_vocab(with_added_tokens=True)
    outside = sorted((index, token) for token, index in vocabulary.items() if index >= embeddings)
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


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
