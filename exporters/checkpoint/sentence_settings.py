"""Reads config_sentence_transformers.json: what kind of model it is, prompts, similarity, activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.checkpoint.keys import Account, require_no_null
from bertonnx.exporters.checkpoint.sentence_kinds import COLBERT, CROSSES, EMBEDS, KINDS, LATE, SPARSE
from bertonnx.models.tasks import TASKS
from bertonnx.wording import Option

__all__ = ["SETTINGS", "Settings", "kind_of", "read_settings"]

SETTINGS = "config_sentence_transformers.json"

_PYLATE = frozenset(
    {"query_prefix", "document_prefix", "query_length", "document_length", "skiplist_words"}
    | {"do_query_expansion", "attend_to_expansion_tokens", "attend_to_mask_tokens", "query_expansion"}
)
"""What PyLate keeps here of how queries and documents are read."""

_READ = {
    "": frozenset({"model_type", "prompts", "default_prompt_name"}),
    EMBEDS: frozenset({"similarity_fn_name", "truncate_dim"}),
    CROSSES: frozenset({"activation_fn"}),
    SPARSE: frozenset({"similarity_fn_name", "max_active_dims"}),
    LATE: frozenset({"similarity_fn_name", *_PYLATE}),
    COLBERT: frozenset({"similarity_fn_name", *_PYLATE}),
}
_HARMLESS = frozenset(
    # `requirements` are versions to be installed, `keep_in_fp32_modules` what half precision leaves alone.
    {"__version__", "requirements", "keep_in_fp32_modules"}
)


@dataclass(frozen=True)
class Settings:
    """What config_sentence_transformers.json says.

    Attributes:
        kind: what kind of model it is, one of `sentence_kinds.KINDS`.
        prompts: name -> text that is put before a text where that prompt is asked for.
        default_prompt: name of the prompt that is used where none is asked for.
        similarity: how embeddings are compared: "cosine", "dot" and the like; None where it does not say.
        truncate_dim: how many numbers of an embedding are kept; None for all.
        activation: of a cross-encoder: path of the class that makes scores; None where it does not say.
        max_active_dims: of a sparse encoder: how many of the heaviest weights are kept; None for all.
        late: of many vectors for a text: what PyLate says of queries and documents, as it stands there.
    """

    kind: str = EMBEDS
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str | None = None
    truncate_dim: int | None = None
    activation: str | None = None
    max_active_dims: int | None = None
    late: Mapping[str, Any] = field(default_factory=dict)

    @property
    def crosses(self) -> bool:
        """Whether it is a cross-encoder."""
        return self.kind == CROSSES


def kind_of(folder: Path) -> str:
    """Return what kind of model a folder says that it is; a folder without the file embeds."""
    raw = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    return _kind(raw)


def _kind(raw: Mapping[str, Any]) -> str:
    # Until it named its models, PyLate was to be known by what it alone keeps there.
    usual = COLBERT if _PYLATE & set(raw) else EMBEDS
    return str(raw.get("model_type") or usual)


def read_settings(folder: Path, account: Account) -> Settings:
    """Return the settings of a folder; a folder without the file embeds, and has none.

    Raises:
        UnsupportedError: another kind of model.
        CheckpointError: the file is broken, contradicts itself, or has keys that nobody reads.
    """
    raw = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    kind = _kind(raw)
    require_no_null(SETTINGS, raw, ("prompts",))
    if kind not in KINDS:
        raise UnsupportedError(
            "{folder} is a {kind} of Sentence-Transformers, which cannot be exported: bertonnx does not know "
            "it; its transformer can where it has the head of a task, as with {option}",
            folder=folder,
            kind=kind,
            option=Option("task", "fill-mask"),
        )
    for key in sorted(set(raw) - _READ[""] - _READ[kind] - _HARMLESS):
        # What the other kind reads lies about in converted folders, and this kind never looks at it.
        if not any(key in read for read in _READ.values()):
            account.refuse(SETTINGS, key, raw[key], "which Sentence-Transformers does not read")
    # Sentence-Transformers itself always knows these two, empty where the file gives no text.
    own = next(row for row in TASKS if kind in row.kinds)
    prompts, default = _prompts(raw, folder, known=own.prompts)
    given = {key: raw.get(key) for key in _READ[kind]}
    _require_similarity(given.get("similarity_fn_name"), KINDS[kind].similarities, folder)
    return Settings(
        kind=kind,
        prompts=prompts,
        default_prompt=default,
        similarity=given.get("similarity_fn_name"),
        truncate_dim=_length("truncate_dim", given, folder),
        activation=given.get("activation_fn"),
        max_active_dims=_length("max_active_dims", given, folder),
        late={key: value for key, value in given.items() if key in _PYLATE and key in raw},
    )


def _require_similarity(value: Any, known: Sequence[str], folder: Path) -> None:
    if value is not None and value not in known:
        raise CheckpointError(
            "{folder}/{file} has similarity_fn_name {value!r}, and Sentence-Transformers knows {known}; "
            "correct it",
            file=SETTINGS,
            folder=folder,
            value=value,
            known=", ".join(known),
        )


def _length(key: str, given: Mapping[str, Any], folder: Path) -> int | None:
    value = given.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise CheckpointError(
        "{folder}/config_sentence_transformers.json has {key} {value!r}, which is no number of values; "
        "correct it",
        folder=folder,
        key=key,
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
