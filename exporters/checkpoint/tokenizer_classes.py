"""What transformers' tokenizer classes do beside their files, in version 4 and in version 5.

The same name means different things: version 5's `AlbertTokenizer` makes no `token_type_ids`, its
`TokenizersBackend` is version 4's `PreTrainedTokenizerFast` without them. So the class of a folder is looked
up in the table of the version that saved it (`tools/make_tokenizer_table.py` makes both), not imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = [
    "BUILT_BY",
    "GENERIC",
    "NAMED_TOKENS",
    "TokenizerClass",
    "class_of",
    "defaults_of",
    "known_parameters",
    "known_version",
    "of_slow",
    "parts_built",
]

_EITHER = (True, False)

BUILT_BY: Mapping[str, tuple[Any, ...]] = {
    "do_lower_case": _EITHER,
    "strip_accents": (None, True, False),
    "tokenize_chinese_chars": _EITHER,
    "keep_accents": _EITHER,
    "remove_space": _EITHER,
    "clean_text": _EITHER,
    "add_prefix_space": _EITHER,
    "split_by_punct": _EITHER,
    "trim_offsets": _EITHER,
    "_spm_precompiled_charsmap": (False, True),
}
"""Arguments that parts of a tokenizer may depend on, and what they may be; the last, whether there is one."""

GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend", "PythonBackend", "PreTrainedTokenizer")
"""Classes that add nothing to a `tokenizer.json`."""

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""transformers' `SPECIAL_TOKENS_ATTRIBUTES`, those with one token."""


@dataclass(frozen=True)
class TokenizerClass:
    """A tokenizer class of one major version of transformers.

    Attributes:
        name: as that version calls it.
        known: whether that version has it; otherwise the rest is that of its class for any tokenizer.json.
        makes: names of its outputs, `model_input_names`.
        padding_side: "right" or "left".
        truncation_side: "right" or "left".
        defaults: its own arguments with their defaults, special tokens among them.
        rules: what it changes when it reads a tokenizer.json (`tools/make_tokenizer_table.py`).
    """

    name: str
    known: bool
    makes: tuple[str, ...]
    padding_side: str
    truncation_side: str
    defaults: Mapping[str, Any]
    rules: frozenset[str]


def class_of(version: int, named: str | None, family: str | None) -> TokenizerClass:
    """Return the class that a version's `AutoTokenizer` takes for a folder with a tokenizer.json.

    Args:
        version: 4 or 5.
        named: `tokenizer_class` of tokenizer_config.json, or else of config.json; None where neither says.
        family: `model_type` of config.json.
    """
    table = _table()[str(version)]
    name = _fast_name(table, named, family) if version == 4 else _one_name(table, named, family)
    found = table["classes"].get(name)
    facts = found or table["classes"]["PreTrainedTokenizerFast"]
    return TokenizerClass(
        name=name or "PreTrainedTokenizerFast",
        known=found is not None or name is None,
        makes=tuple(facts["makes"]),
        padding_side=facts.get("padding_side", "right"),
        truncation_side=facts.get("truncation_side", "right"),
        defaults=facts["defaults"],
        rules=frozenset(facts["rules"]),
    )


def defaults_of(version: int, name: str) -> Mapping[str, Any]:
    """Return the arguments of one class, by exactly this name, with their defaults."""
    defaults: Mapping[str, Any] = _table()[str(version)]["classes"][name]["defaults"]
    return defaults


def parts_built(name: str, settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the parts of a tokenizer that a class of version 5 builds; None where these are unknown.

    Args:
        name: the class.
        settings: a value for each name of `BUILT_BY`.

    Returns:
        Parts as tokenizer.json has them, the model without its vocabulary. A special token is written as the
        name of its argument, "<<cls_token>>"; a post-processor that is None is that of the file.
    """
    table = _table()["5"]
    built = table["built"].get(table["classes"].get(name, {}).get("built"))
    if built is None:
        return None
    found = {}
    for part, states in built.items():
        place = 0
        for key in states["by"]:
            place = place * len(BUILT_BY[key]) + BUILT_BY[key].index(settings[key])
        found[part] = states["is"][place]
    return found


def of_slow(kind: TokenizerClass) -> TokenizerClass:
    """Return a class of version 4 with the defaults of its Python class, for want of a tokenizer.json."""
    slow = _table()["4"]["classes"].get(kind.name.removesuffix("Fast"))
    if slow is None:
        return kind
    rules = kind.rules | {"wide mask", "raw mask"} & {*slow["rules"]}
    return replace(kind, defaults={**kind.defaults, **slow["defaults"]}, rules=rules)


@cache
def known_parameters() -> frozenset[str]:
    """Return the names of arguments of any class of any version."""
    tables = _table().values()
    return frozenset(
        key for table in tables for facts in table["classes"].values() for key in facts["defaults"]
    )


def known_version() -> str:
    """Return the newest version of transformers that the table knows."""
    return str(_table()["5"]["version"])


@cache
def _table() -> Mapping[str, Any]:
    text = files(__package__).joinpath("tokenizer_classes.json").read_text(encoding="utf-8")
    table: Mapping[str, Any] = json.loads(text)
    return table


def _fast_name(table: Mapping[str, Any], named: str | None, family: str | None) -> str | None:
    """Return version 4's choice: the fast class of a name, where there is one."""
    if named is None:
        chosen: str | None = table["models"].get(family)
        return chosen
    fast = f"{named.removesuffix('Fast')}Fast"
    return fast if fast in table["classes"] else named


def _one_name(table: Mapping[str, Any], named: str | None, family: str | None) -> str | None:
    """Return version 5's choice: a name that is not that of the family's class must be known to it."""
    registered = table["models"].get(family)
    if named is None:
        chosen: str | None = registered
        return chosen
    if registered is not None and registered.removesuffix("Fast") != named.removesuffix("Fast"):
        if registered in GENERIC:
            return "TokenizersBackend"
        named = registered if family in table["misnamed"] else named
    for name in (named, named.removesuffix("Fast"), f"{named}Fast"):
        if name in table["classes"]:
            return "TokenizersBackend" if name in GENERIC else name
    return named
