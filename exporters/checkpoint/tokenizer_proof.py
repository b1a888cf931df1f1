"""Proof that a tokenizer gives the ids that transformers gives, on texts on which tokenizers part."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.tokenizer_folder import (
    PROVIDE,
    TokenizerFolder,
    installed_major,
    shortened,
)
from bertonnx.exporters.quiet import quiet
from bertonnx.wording import Message

__all__ = ["HARD_TEXTS", "difference", "proven"]

_ALWAYS = ("input_ids", "attention_mask")
"""What a model is fed, whether or not its tokenizer lists it."""

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


def proven(made: Tokenizer, folder: TokenizerFolder, makes: tuple[str, ...]) -> tuple[Message, ...]:
    """Compare a tokenizer with the class of the version that saved it, where that version is installed.

    Args:
        made: what goes into the model file.
        folder: its files.
        makes: the outputs that the class is believed to have.

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
            own = load(folder.path, local_files_only=True)
        except Exception as error:  # every tokenizer class fails in its own way
            note = Message(
                "tokenizer.json alone says how texts are split: {kind} of transformers {version} cannot be "
                "loaded to compare them ({why})",
                kind=folder.kind.name,
                version=folder.version,
                why=shortened(error),
            )
            return (note,)
        text = difference(own, made, typed="token_type_ids" in makes)
        given = set(own("a", "b"))
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
    cases: list[tuple[str, str | None]] = [(text, None) for text in HARD_TEXTS]
    # transformers reads an empty second text as none at all.
    cases += [(a, b) for a, b in zip(HARD_TEXTS, reversed(HARD_TEXTS), strict=True) if b]
    with quiet():
        for text, pair in cases:
            wanted = own(text, pair)
            got = made.encode(text, pair)
            same_types = not typed or wanted["token_type_ids"] == got.type_ids
            if wanted["input_ids"] != got.ids or not same_types:
                return text
    return None
