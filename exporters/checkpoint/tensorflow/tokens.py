"""The tokenizer's files of a TensorFlow source, put where transformers looks for them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.tensorflow.keras_hub import longest
from bertonnx.exporters.checkpoint.tensorflow.nested import json_of, objects
from bertonnx.wording import Message

__all__ = ["copy_tokenizer"]

_ORDINARY = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("sentencepiece.bpe.model", "spiece.model", "vocab.txt"),
)
_VOCABULARIES = (
    "vocab.txt",
    "assets/vocab.txt",
    "assets/*/vocabulary.txt",
    "assets/*/*/vocabulary.txt",
    "assets/*vocab*.txt",
    "*vocab*.txt",
)
_PIECES = ("spiece.model", "*.model", "assets/*.model", "assets/*/*.model")
_FEW = 100
"""So many lower-case words for one of upper case are those of lower-cased texts."""

_SPECIAL = re.compile(r"\[[A-Z]+\d*\]|<[^>]*>")


def copy_tokenizer(folders: Sequence[Path], into: Path, config: dict[str, Any]) -> list[Message]:
    """Write the tokenizer's files of a source; returns what was chosen for the user.

    Args:
        folders: of the source: what an archive holds, and where it lies.
        into: of the replica.
        config: config.json; gets the id of padding, where a vocabulary says another than 0.

    Raises:
        CheckpointError: there is no vocabulary, or there are several.
    """
    for name, folder in (
        (name, folder) for name in (*_ORDINARY, "tokenizer.json") for folder in reversed(folders)
    ):
        # KerasHub's tokenizer.json is a configuration of its own.
        if (folder / name).is_file() and not (
            name == "tokenizer.json" and "class_name" in json_of(folder / name)
        ):
            shutil.copyfile(folder / name, into / name)
    if any((into / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return []
    pieces = _first(folders, _PIECES)
    if pieces is not None:
        return _pieces(pieces, into, config)
    vocabulary = _first(folders, _VOCABULARIES)
    if vocabulary is None:
        if (into / "vocab.json").is_file():
            return []
        raise CheckpointError(
            "{folder} has no vocabulary, without which texts have no numbers; put the vocab.txt that belongs "
            "to the weights beside them",
            folder=folders[-1],
        )
    return _wordpiece(vocabulary, folders, into, config)


def _first(folders: Sequence[Path], patterns: Sequence[str]) -> Path | None:
    for folder in folders:
        for pattern in patterns:
            found = [path for path in sorted(folder.glob(pattern)) if path.is_file()]
            if len({path.read_bytes() for path in found}) > 1:
                raise CheckpointError(
                    "{folder} has several vocabularies ({names}), and nothing says which belongs to the "
                    "weights; name that one vocab.txt, or take the others away",
                    folder=folder,
                    names=", ".join(path.relative_to(folder).as_posix() for path in found),
                )
            if found:
                return found[0]
    return None


def _pieces(model: Path, into: Path, config: Mapping[str, Any]) -> list[Message]:
    shutil.copyfile(model, into / "spiece.model")
    # All of Google's ALBERT models of SentencePiece were trained on lower-case texts.
    _write(into, {"tokenizer_class": "AlbertTokenizer", "do_lower_case": True, **_limit(config)})
    return [Message("texts are lower-cased, as in Google's ALBERT")]


def _wordpiece(
    vocabulary: Path, folders: Sequence[Path], into: Path, config: dict[str, Any]
) -> list[Message]:
    words = _words(vocabulary)
    (into / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    _require_rows(vocabulary, len(words), config)
    if "[PAD]" in words:
        # Google's is 0; those who train their own put it anywhere.
        config.setdefault("pad_token_id", words.index("[PAD]"))
    # The Chinese ALBERTs are of word pieces, as BERT.
    kind = "ElectraTokenizer" if config["model_type"] == "electra" else "BertTokenizer"
    settings: dict[str, Any] = {"tokenizer_class": kind}
    said = _said(folders[0], config)
    lower, notes = said.get("do_lower_case"), []
    if lower is None:
        lower, note = _guessed(words)
        notes.append(note)
    _write(into, {**settings, **said, "do_lower_case": bool(lower), **_limit(config, longest(folders[0]))})
    return notes


def _words(vocabulary: Path) -> list[str]:
    try:
        text = vocabulary.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            "{vocabulary} is not UTF-8 ({why}), so its words are not known; save it as UTF-8",
            vocabulary=vocabulary,
            why=error,
        ) from error
    if text.startswith("\ufeff"):
        raise CheckpointError(
            "{vocabulary} begins with a byte order mark, which becomes part of its first word; save it as "
            "UTF-8 without one",
            vocabulary=vocabulary,
        )
    # At line feeds alone: Google's own vocabularies hold words that are separators of lines in Unicode.
    words = text.split("\n")
    while words and not words[-1]:
        words.pop()
    return words


def _guessed(words: Sequence[str]) -> tuple[bool, Message]:
    """Return whether texts are lower-cased, where nothing but the vocabulary says it."""
    plain = [word.removeprefix("##") for word in words if not _SPECIAL.fullmatch(word)]
    upper = [word for word in plain if word != word.lower()]
    if not upper:
        return True, Message("texts are lower-cased, since the vocabulary has no upper-case words")
    # One that was made of texts with upper case has its letters, and thousands of such words. A few words
    # that someone wrote in place of [unused1] do not make it one.
    letters = any(len(word) == 1 for word in upper)
    if letters or len(upper) * _FEW > sum(word != word.upper() for word in plain):
        return False, Message(
            "upper and lower case are kept apart, since the vocabulary has upper-case words"
        )
    return True, Message(
        "texts are lower-cased, since the vocabulary has {count} upper-case words alone, such as {word}; "
        'where they are to be found, put a tokenizer_config.json with "do_lower_case": false beside it',
        count=len(upper),
        word=upper[0],
    )


def _require_rows(vocabulary: Path, words: int, config: Mapping[str, Any]) -> None:
    # Fewer are common: tables are rounded up.
    rows = config.get("vocab_size")
    if not words or (isinstance(rows, int) and words > rows):
        raise CheckpointError(
            "{vocabulary} has {words} words, and the weights have embeddings for {rows}; put the vocabulary "
            "that belongs to the weights beside them",
            vocabulary=vocabulary,
            words=words,
            rows=rows,
        )


def _said(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a source's own files say of lower case and accents."""
    for name in ("tokenizer.json", "config.json", "preprocessor.json"):
        for one in objects(json_of(folder / name)):
            if one.get("class_name") == "BertTokenizer" and isinstance(one.get("config"), Mapping):
                own = one["config"]
                keys = {"do_lower_case": own.get("lowercase"), "strip_accents": own.get("strip_accents")}
                return {key: value for key, value in keys.items() if isinstance(value, bool)}
    lower = config.get("do_lower_case")
    return {"do_lower_case": lower} if isinstance(lower, bool) else {}


def _limit(config: Mapping[str, Any], told: int | None = None) -> dict[str, int]:
    given = (config.get("max_position_embeddings"), told)
    limits = [limit for limit in given if isinstance(limit, int)]
    return {"model_max_length": min(limits)} if limits else {}


def _write(into: Path, settings: Mapping[str, Any]) -> None:
    (into / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
