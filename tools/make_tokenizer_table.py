"""Writes what transformers' tokenizer classes do beside their files, for the installed major version.

python tools/make_tokenizer_table.py     # in an environment with 4.57, then in one with the newest 5

The table lies in `exporters/checkpoint/tokenizer_classes.json`. An export reads it, so that a folder that
one version saved is read as that version reads it, whichever is installed.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertonnx.exporters.quiet import quiet

TABLE = Path(__file__).resolve().parent.parent / "exporters" / "checkpoint" / "tokenizer_classes.json"

_BASES = ("PreTrainedTokenizerBase", "PreTrainedTokenizerFast", "TokenizersBackend", "PreTrainedTokenizer")
_MORE_BASES = ("PythonBackend", "SentencePieceBackend", "SpecialTokensMixin", "PushToHubMixin", "object")

_FILES = ("vocab", "vocab_file", "merges", "merges_file", "tokenizer_file")

_WIDE_MASK = "AddedToken(mask_token, lstrip=True"

_RULES: Mapping[str, str] = {
    "normalizer_state": "bert normalizer",
    'pre_tok_state["lowercase"]': "cases",
    "tokenizer_component": "affixes",
    "PreTokenizer.custom": "python",
    "self._tokenizer = ": "builds",
    "post_processor": "template",
    "update_post_processor": "bos and eos",
    _WIDE_MASK: "wide mask",
    "AddedToken(mask_token, lstrip=True, rstrip=False, normalized=False)": "raw mask",
}
"""A text in a class's `__init__` -> the rule that it follows."""


def table() -> dict[str, Any]:
    """Return what the installed version's classes do: `{"version", "models", "classes"}`."""
    with quiet():
        import transformers
        from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS
        from transformers.models.auto import tokenization_auto

        auto: Any = tokenization_auto
        models = dict(_of_models(auto.TOKENIZER_MAPPING_NAMES))
        names = {name for name in dir(transformers) if name.endswith(("Tokenizer", "TokenizerFast"))}
        names |= {name for name in models.values() if name} | {*_BASES} & {*dir(transformers)}
        # Version 5 has names of version 4 that it does not list, and finds by what converts their files.
        names |= {*SLOW_TO_FAST_CONVERTERS}
        classes = {name: facts for name in sorted(names) if (facts := _facts(transformers, name)) is not None}
        return {
            "version": transformers.__version__,
            "models": models,
            "misnamed": sorted(getattr(auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", ())),
            "classes": classes,
        }


def _of_models(mapping: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    for model, names in mapping.items():
        # Version 4 has a slow and a fast class for a model.
        slow, fast = names if isinstance(names, tuple) else (names, None)
        yield model, fast or slow


def _facts(transformers: Any, name: str) -> dict[str, Any] | None:
    try:
        found = getattr(transformers, name)
    except Exception:  # a class whose packages are missing fails in its own way
        return None
    if not (inspect.isclass(found) and issubclass(found, transformers.PreTrainedTokenizerBase)):
        return None
    kind: Any = found
    parameters: dict[str, Any] = {}
    source = ""
    for base in kind.__mro__:
        made = vars(base).get("__init__")
        if made is not None and base.__name__ not in (*_BASES, *_MORE_BASES):
            source += inspect.getsource(made)
            for parameter in inspect.signature(made).parameters.values():
                if parameter.default is not parameter.empty:
                    parameters.setdefault(parameter.name, _plain(parameter.default))
    sides = {"padding_side": kind.padding_side, "truncation_side": kind.truncation_side}
    return {
        "fast": issubclass(kind, transformers.PreTrainedTokenizerFast),
        "makes": list(kind.model_input_names),
        **{name: side for name, side in sides.items() if side != "right"},
        "defaults": {name: value for name, value in sorted(parameters.items()) if name not in _FILES},
        "rules": sorted({rule for text, rule in _RULES.items() if text in source}),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, (str, bool, int, list, type(None))) else str(value)


def written(tables: Mapping[str, Any]) -> str:
    """Return the file's text: a line for each class, so that a change shows what changed."""
    parts = []
    for major, made in sorted(tables.items()):
        classes = ",\n".join(
            f"  {json.dumps(name)}: {_line(made['classes'][name])}" for name in made["classes"]
        )
        head = {name: made[name] for name in ("version", "models", "misnamed")}
        lines = ",\n".join(f" {json.dumps(name)}: {_line(value)}" for name, value in head.items())
        parts.append(f'"{major}": {{\n{lines},\n "classes": {{\n{classes}\n }}\n}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    made = table()
    tables = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    tables[made["version"].partition(".")[0]] = made
    TABLE.write_text(written(tables), encoding="utf-8")
