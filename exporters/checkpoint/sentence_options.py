"""Reads sentence_bert_config.json: how Sentence-Transformers loads a transformer, and what it takes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.checkpoint.keys import Account, require_no_null
from bertonnx.exporters.checkpoint.module_list import Module
from bertonnx.exporters.checkpoint.sentence_layers import SCORES, TOKENS
from bertonnx.wording import Message

__all__ = ["TransformerOptions", "read_options"]

# Early versions named the file after the family; these are the names that Sentence-Transformers looks for.
_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


@dataclass(frozen=True)
class _Task:
    """What a `transformer_task` takes of a transformer, and under which name it hands it on."""

    takes: str
    writes: str


_EMBEDS, _CLASSIFIES, _FILLS = "feature-extraction", "sequence-classification", "fill-mask"
_TASKS: Mapping[str, _Task] = {
    _EMBEDS: _Task("last_hidden_state", TOKENS),
    _CLASSIFIES: _Task("logits", SCORES),
    _FILLS: _Task("logits", TOKENS),
}
_MASKED = "MLMTransformer"
"""The module of a transformer with its fill-mask head, until version 5.4."""

_OTHER_TASKS = (
    ("text-generation", "it scores by the next word of a model that generates text"),
    ("any-to-any", "it reads more than text, and generates"),
    ("retrieval", "it gives many vectors for a text"),
)


@dataclass(frozen=True)
class TransformerOptions:
    """What sentence_bert_config.json says.

    Attributes:
        classifies: whether its own classification head makes the scores; else it gives token vectors.
        words: whether what it gives for each token are the logits of words.
        writes: the name under which it hands on what it gives.
        max_seq_length: longest input in tokens, or None where it does not say.
        lower: whether texts are lower-cased first.
        query_length: of a model with many vectors for a text: longest query in tokens.
        document_length: of the same: longest document.
        expansion: of the same: how queries are filled up, as the file says it; None where they are not.
    """

    classifies: bool = False
    words: bool = False
    writes: str = TOKENS
    max_seq_length: int | None = None
    lower: bool = False
    query_length: int | None = None
    document_length: int | None = None
    expansion: Mapping[str, Any] | None = None


def read_options(module: Module, account: Account, *, late: bool = False) -> TransformerOptions:
    """Return the options of a Transformer module; those of a folder without the file are the usual ones.

    Args:
        module: the module.
        account: takes down keys that nothing reads.
        late: whether the model gives many vectors for a text, and reads queries and documents differently.

    Raises:
        UnsupportedError: it takes something of the transformer that is not exported.
        CheckpointError: the file is broken, or a key changes tokens or numbers in a way that is not followed.
    """
    name = next((name for name in _FILES if (module.path / name).is_file()), _FILES[0])
    raw = read_json(module.path / name) if (module.path / name).is_file() else {}
    file = module.file(name)
    require_no_null(file, raw, ("modality_config", "module_output_name"))
    task_name = str(raw.get("transformer_task", _FILLS if module.name == _MASKED else _EMBEDS))
    task = _task(task_name, module.path / name)
    _require_text(raw, task, module.path / name)
    for key, value in sorted(raw.items()):
        if key in _ARGUMENTS:
            _account(file, key, value, account)
        elif late and key in _LENGTHS:
            continue
        elif key not in _READ and key not in _HARMLESS and not _is_idle(key, value):
            account.refuse(file, key, value, _why(key))
    return TransformerOptions(
        classifies=task_name == _CLASSIFIES,
        words=task_name == _FILLS,
        writes=str(raw.get("module_output_name") or task.writes),
        max_seq_length=_longest(raw, file),
        lower=bool(raw.get("do_lower_case", False)),
        query_length=raw.get("query_length") if late else None,
        document_length=raw.get("document_length") if late else None,
        expansion=raw.get("query_expansion") if late else None,
    )


_READ = frozenset(
    {"transformer_task", "modality_config", "module_output_name", "max_seq_length", "do_lower_case"}
)
_HARMLESS = frozenset(
    # How padding is spared on a GPU, and how Sentence-Transformers itself would run the model.
    {"unpad_inputs", "backend"}
)
_LENGTHS = ("query_length", "document_length", "query_expansion")
_EXPANDS = "which only models with many vectors for a text have"
_WHY: Mapping[str, str] = {
    "query_length": "and a query would be cut there",
    "document_length": "and a document would be cut there",
    "query_expansion": _EXPANDS,
    "tokenizer_name_or_path": "and the tokenizer that is exported is the folder's own",
}


def _is_idle(key: str, value: Any) -> bool:
    return key in _WHY and value is None


def _why(key: str) -> str:
    return _WHY.get(key, "which Sentence-Transformers does not read")


def _task(name: str, path: Path) -> _Task:
    if name not in _TASKS:
        raise UnsupportedError(
            "{path}: transformer_task {task!r} cannot be exported: {why}; what can: {known}",
            path=path,
            task=name,
            why=next((why for other, why in _OTHER_TASKS if other == name), "bertonnx does not know it"),
            known=", ".join(_TASKS),
        )
    return _TASKS[name]


def _require_text(raw: Mapping[str, Any], task: _Task, path: Path) -> None:
    """Refuse a transformer that is asked for something else than its last vectors or its logits of texts."""
    modalities = raw.get("modality_config")
    if modalities is None:
        return
    # Where a chat template makes messages of texts, all texts go through it.
    text = modalities.get("text") if isinstance(modalities, Mapping) and "message" not in modalities else None
    taken = text.get("method_output_name") if isinstance(text, Mapping) else None
    taken = taken[0] if isinstance(taken, list) and len(taken) == 1 else taken
    if not isinstance(text, Mapping) or (text.get("method"), taken) != ("forward", task.takes):
        raise UnsupportedError(
            "{path}: modality_config {found} cannot be exported; for texts, what can is method forward with "
            "method_output_name {takes}",
            path=path,
            found=modalities,
            takes=task.takes,
        )


def _longest(raw: Mapping[str, Any], file: str) -> int | None:
    """Return the longest input: what is given when texts are read, else to the tokenizer, else here."""
    called = raw.get("processing_kwargs") or {}
    # What is given for all modalities comes last, and the older of the two keys replaces the newer.
    made = raw.get("tokenizer_args", raw.get("processor_kwargs")) or {}
    given = [
        (called.get("common") or {}).get("max_length"),
        (called.get("text") or {}).get("max_length"),
        made.get("model_max_length"),
        raw.get("max_seq_length"),
    ]
    longest = next((value for value in given if value is not None), None)
    if longest is not None and (not isinstance(longest, int) or longest < 1):
        raise CheckpointError(
            "{file} has a longest input of {value!r} tokens; correct it", file=file, value=longest
        )
    return longest


_LOADING = frozenset(
    {"attn_implementation", "cache_dir", "device_map", "dtype", "local_files_only", "low_cpu_mem_usage"}
    | {
        "torch_dtype",
        "token",
        "trust_remote_code",
        "use_auth_token",
        "use_safetensors",
        "revision",
        "subfolder",
    }
)
"""Arguments of `from_pretrained` that leave tokens and numbers as they are, but for half precision."""

_MORE_OUTPUTS = frozenset({"output_attentions", "output_hidden_states", "use_cache"})
"""Settings of a model that let it give more, and leave what is read of it as it is."""


def _is_usual_call(name: str, value: Any) -> bool:
    """Say whether an argument of the tokenizer's call is what bertonnx does, or changes padding alone."""
    usual: Mapping[str, tuple[Any, ...]] = {
        "truncation": (True, "longest_first"),
        "add_special_tokens": (True,),
        "stride": (0,),
        "padding_side": ("right", "left"),
        "is_split_into_words": (False,),
    }
    padding = ("padding", "pad_to_multiple_of", "return_tensors", "return_attention_mask")
    return name in (*padding, "max_length", "logits_to_keep") or value in usual.get(name, ())


def _is_usual_call_of(modality: str, value: Any) -> bool:
    # Arguments for pictures and sounds reach no text, nor do those of a chat template that is not used.
    reaches = modality in ("text", "common")
    return not reaches or all(_is_usual_call(*item) for item in (value or {}).items())


_ARGUMENTS: Mapping[str, Callable[[str, Any], bool]] = {
    **dict.fromkeys(
        ("model_args", "model_kwargs"),
        lambda name, _: (
            name in {*_LOADING, *_MORE_OUTPUTS, "add_pooling_layer", "provider", "file_name", "export"}
        ),
    ),
    **dict.fromkeys(("config_args", "config_kwargs"), lambda name, _: name in {*_LOADING, *_MORE_OUTPUTS}),
    **dict.fromkeys(
        ("tokenizer_args", "processor_kwargs"),
        lambda name, value: (
            name in {*_LOADING, "model_max_length", "padding_side"} or (name, value) == ("use_fast", True)
        ),
    ),
    "processing_kwargs": _is_usual_call_of,
}
"""Key that holds arguments -> whether an argument and its value leave tokens and numbers as they are."""


def _account(file: str, key: str, arguments: Any, account: Account) -> None:
    # Refused, not skipped: one could change tokens or weights without a word.
    for name, value in sorted((arguments or {}).items()):
        if not _ARGUMENTS[key](name, value):
            account.refuse(
                file,
                f"{key}.{name}",
                value,
                "which bertonnx cannot follow",
                remedy=Message("write what it says into config.json or tokenizer_config.json and remove it"),
            )
