"""Writes what transformers' tokenizer classes do beside their files, for the installed major version.

python tools/make_tokenizer_table.py     # in an environment with 4.57, then in one with the newest 5

The table lies in `exporters/checkpoint/tokenizer_classes.json`. An export reads it, so that a folder that
one version saved is read as that version reads it, whichever is installed.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertonnx.exporters.checkpoint.tokenizer_classes import BUILT_BY
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

_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_CHARSMAP = b"\0\4\0\0" + b"\0" * 1024
"""A map of characters that changes none."""

_PARTS = ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder")


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
        # Many classes build the same, which stands once, under the name of the first of them.
        built: dict[str, Any] = {}
        for name, facts in classes.items():
            if "built" in facts:
                same = (first for first, parts in built.items() if parts == facts["built"])
                first = next(same, name)
                built.setdefault(first, facts["built"])
                facts["built"] = first
        return {
            "version": transformers.__version__,
            "models": models,
            "misnamed": sorted(getattr(auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", ())),
            "built": built,
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
    rules = sorted({rule for text, rule in _RULES.items() if text in source})
    return {
        "fast": issubclass(kind, transformers.PreTrainedTokenizerFast),
        "makes": list(kind.model_input_names),
        **{name: side for name, side in sides.items() if side != "right"},
        "defaults": {name: value for name, value in sorted(parameters.items()) if name not in _FILES},
        "rules": rules,
        **({"built": built} if "builds" in rules and (built := _built(kind, parameters)) else {}),
    }


def _built(kind: Any, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the parts that a class builds itself: for each the arguments it depends on, and what it is then.

    `{"by": names, "is": states}`, where a state stands for each combination of `BUILT_BY`, in their order. A
    token is written as the name of its argument; a part that is None is that of the file.
    """
    names = [name for name in BUILT_BY if name in parameters]
    made: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for values in itertools.product(*(BUILT_BY[name] for name in names)):
        try:
            made[values] = _parts_of(kind, dict(zip(names, values, strict=True)))
        except Exception:  # a class that needs more than a vocabulary
            return None
    return {
        part: _dependent({values: state[part] for values, state in made.items()}, names) for part in _PARTS
    }


def _dependent(states: Mapping[tuple[Any, ...], Any], names: list[str]) -> dict[str, Any]:
    def parted(i: int) -> bool:
        return any(
            state != states[(*values[:i], other, *values[i + 1 :])]
            for values, state in states.items()
            for other in BUILT_BY[names[i]]
        )

    by = [i for i in range(len(names)) if parted(i)]
    kept: dict[tuple[Any, ...], Any] = {}
    for values, state in states.items():
        kept.setdefault(tuple(values[i] for i in by), state)
    return {"by": [names[i] for i in by], "is": list(kept.values())}


def _parts_of(kind: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    first, second = (_states(kind, arguments, before=count) for count in (4, 6))
    if first["model"] != second["model"]:  # the number of the unknown token is that of its place
        first["model"]["unk_id"] = "<<unk_token>>"
    return first


def _states(kind: Any, arguments: Mapping[str, Any], before: int) -> dict[str, Any]:
    from tokenizers import processors

    tokens = {name: f"<<{name}>>" for name in _TOKENS}
    pieces = [*(f"other{i}" for i in range(before)), tokens["unk_token"], *tokens.values(), "a", "▁"]
    pieces = list(dict.fromkeys(pieces))
    model = getattr(kind.model, "__name__", "Unigram")
    unigram = model == "Unigram"
    vocab: Any = (
        [(piece, 0.0) for piece in pieces] if unigram else {piece: i for i, piece in enumerate(pieces)}
    )
    merges: dict[str, Any] = {"merges": []} if model == "BPE" else {}
    arguments = {**arguments}
    if "_spm_precompiled_charsmap" in arguments:
        given = arguments["_spm_precompiled_charsmap"]
        arguments["_spm_precompiled_charsmap"] = _CHARSMAP if given else None
    own = processors.ByteLevel(trim_offsets=False, add_prefix_space=False, use_regex=False)
    built = kind(vocab=vocab, **merges, **tokens, **arguments, post_processor=own)
    data = json.loads(built.backend_tokenizer.to_str())
    if data["post_processor"] == json.loads(own.__getstate__()):
        data["post_processor"] = None
    settings = {name: value for name, value in data["model"].items() if name not in ("vocab", "merges")}
    return {**{part: _abstract(data[part]) for part in _PARTS}, "model": _abstract(settings)}


def _abstract(state: Any) -> Any:
    """Return a state without what belongs to one vocabulary: ids of tokens, and maps of characters."""
    if isinstance(state, list):
        if len(state) == 2 and isinstance(state[0], str) and state[0].startswith("<<"):
            return [state[0], 0]
        return [_abstract(one) for one in state]
    if isinstance(state, dict):
        return {
            name: "" if name == "precompiled_charsmap" else [0] if name == "ids" else _abstract(value)
            for name, value in state.items()
        }
    return state


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
        head = {name: made[name] for name in ("version", "models", "misnamed", "built") if name in made}
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
