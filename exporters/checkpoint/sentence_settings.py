"""Reads config_sentence_transformers.json: what kind of model it is, prompts, similarity, activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.models.tasks import ENCODER
from bertonnx.wording import Option

__all__ = ["SETTINGS", "Settings", "read_settings"]

SETTINGS = "config_sentence_transformers.json"

_EMBEDS, _CROSSES = "SentenceTransformer", "CrossEncoder"

_REFUSED: Mapping[str, str] = {
    "SparseEncoder": "its embeddings are sparse, as those of SPLADE",
    "MultiVectorEncoder": "it gives many vectors for a text",
    "ColBERT": "it gives many vectors for a text",
}
"""The other kinds of model that Sentence-Transformers has -> why they cannot be exported."""

_READ = {
    "": frozenset({"model_type", "prompts", "default_prompt_name"}),
    _EMBEDS: frozenset({"similarity_fn_name", "truncate_dim"}),
    _CROSSES: frozenset({"activation_fn"}),
}
_HARMLESS = frozenset(
    # `requirements` are versions to be installed, `keep_in_fp32_modules` what half precision leaves alone.
    {"__version__", "requirements", "keep_in_fp32_modules"}
)


@dataclass(frozen=True)
class Settings:
    """What config_sentence_transformers.json says.

    Attributes:
        crosses: whether it is a cross-encoder; else it embeds.
        prompts: name -> text that is put before a text where that prompt is asked for.
        default_prompt: name of the prompt that is used where none is asked for.
        similarity: how embeddings are compared: "cosine", "dot" and the like; None where it does not say.
        truncate_dim: how many numbers of an embedding are kept; None for all.
        activation: of a cross-encoder: path of the class that makes scores; None where it does not say.
    """

    crosses: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str | None = None
    truncate_dim: int | None = None
    activation: str | None = None


def read_settings(folder: Path, account: Account) -> Settings:
    """Return the settings of a folder; a folder without the file embeds, and has none.

    Raises:
        UnsupportedError: another kind of model.
        CheckpointError: the file is broken, contradicts itself, or has keys that nobody reads.
    """
    raw = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    kind = str(raw.get("model_type", _EMBEDS))
    if kind not in (_EMBEDS, _CROSSES):
        raise UnsupportedError(
            "{folder} is a {kind} of Sentence-Transformers, which cannot be exported: {why}; its transformer "
            "can where it has the head of a task, as with {option}",
            folder=folder,
            kind=kind,
            why=_REFUSED.get(kind, "bertonnx does not know it"),
            option=Option("task", "fill-mask"),
        )
    for key in sorted(set(raw) - _READ[""] - _READ[kind] - _HARMLESS):
        # What the other kind reads lies about in converted folders, and this kind never looks at it.
        if not any(key in read for read in _READ.values()):
            account.refuse(SETTINGS, key, raw[key], "which Sentence-Transformers does not read")
    crosses = kind == _CROSSES
    # Sentence-Transformers itself always knows these two, empty where the file gives no text.
    prompts, default = _prompts(raw, folder, known=() if crosses else ENCODER.prompts)
    own = {key: raw.get(key) for key in _READ[kind]}
    _require_name(own.get("similarity_fn_name"), folder)
    return Settings(
        crosses=crosses,
        prompts=prompts,
        default_prompt=default,
        similarity=own.get("similarity_fn_name"),
        truncate_dim=_length(own.get("truncate_dim"), folder),
        activation=own.get("activation_fn"),
    )


def _require_name(value: Any, folder: Path) -> None:
    if value is not None and not isinstance(value, str):
        raise CheckpointError(
            "{folder}/config_sentence_transformers.json has similarity_fn_name {value!r}, which is no name; "
            "correct it",
            folder=folder,
            value=value,
        )


def _length(value: Any, folder: Path) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise CheckpointError(
        "{folder}/config_sentence_transformers.json has truncate_dim {value!r}, which is no number of "
        "values; correct it",
        folder=folder,
        value=value,
    )


def _prompts(
    settings: Mapping[str, Any], folder: Path, *, known: Sequence[str]
) -> tuple[Mapping[str, str], str | None]:
    """Return the texts of the prompts by their names, and the name of the default one."""
    for place, text in (settings.get("prompts") or {}).items():
        if text is not None and not isinstance(text, str):
            raise CheckpointError(
                "{folder}/config_sentence_transformers.json has the prompt {name!r} with {text!r}, which is "
                "no text; correct it",
                folder=folder,
                name=place,
                text=text,
            )
    # sentence-transformers takes a null for a prompt without text.
    prompts = {str(name): str(text or "") for name, text in (settings.get("prompts") or {}).items()}
    name = settings.get("default_prompt_name")
    if name is not None and name not in (*prompts, *known):
        raise CheckpointError(
            "{folder}/config_sentence_transformers.json names the default prompt {name!r}, and its prompts "
            "are {prompts}; correct the name",
            folder=folder,
            name=name,
            prompts=", ".join(sorted(prompts)) or "none",
        )
    return prompts, name
