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
_SPECIAL = re.compile(r"\[[A-Z]+\d*\]|<[^>]*>")


def copy_tokenizer(folders: Sequence[Path], into: Path, config: dict[str, Any]) -> list[Message]:
    """Write the tokenizer's files of a source; returns what was chosen for the user.

    Args:
        folders: of the source: what an archive holds, and where it lies.
        into: of the replica.
        config: config.json; gets the id of padding, where a vocabulary says another than 0.

    Raises:
        CheckpointError: there is no vocabulary.
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
    found = (path for folder in folders for pattern in patterns for path in sorted(folder.glob(pattern)))
    return next((path for path in found if path.is_file()), None)


def _pieces(model: Path, into: Path, config: Mapping[str, Any]) -> list[Message]:
    shutil.copyfile(model, into / "spiece.model")
    # All of Google's ALBERT models of SentencePiece were trained on lower-case texts.
    _write(into, {"tokenizer_class": "AlbertTokenizer", "do_lower_case": True, **_limit(config)})
    return [Message("texts are lower-cased, as in Google's ALBERT")]


def _wordpiece(
    vocabulary: Path, folders: Sequence[Path], into: Path, config: dict[str, Any]
) -> list[Message]:
    text = vocabulary.read_text(encoding="utf-8", errors="replace")
    (into / "vocab.txt").write_text(text, encoding="utf-8")
    words = text.splitlines()
    _require_rows(vocabulary, len(words), config)
    if "[PAD]" in words:
        # Google's is 0; those who train their own put it anywhere.
        config.setdefault("pad_token_id", words.index("[PAD]"))
    # The Chinese ALBERTs are of word pieces, as BERT.
    kind = "ElectraTokenizer" if config["model_type"] == "electra" else "BertTokenizer"
    settings: dict[str, Any] = {"tokenizer_class": kind}
    said = _said(folders[0], config)
    config.pop("do_lower_case", None)
    lower, notes = said.get("do_lower_case"), []
    if lower is None:
        lower = not any(word != word.lower() for word in words if not _SPECIAL.fullmatch(word))
        found = "has no upper-case words" if lower else "has upper-case words"
        kept = "texts are lower-cased" if lower else "upper and lower case are kept apart"
        notes.append(Message("{kept}, since the vocabulary {found}", kept=kept, found=found))
    _write(into, {**settings, **said, "do_lower_case": bool(lower), **_limit(config, longest(folders[0]))})
    return notes


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
