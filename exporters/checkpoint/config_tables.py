"""Which keys of config.json each version of transformers reads: the table that `tools/` made.

The file is compact: what all versions have alike is written once, the rest under each version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bertonnx.exporters.checkpoint.config_reads import Reads

__all__ = ["TABLES", "Tables", "read_tables", "written"]

TABLES = Path(__file__).with_name("config_keys.json")

_ALL = "all"
_PARTS = ("reads", "idle", "aliases", "values", "kept")


@dataclass(frozen=True)
class Tables:
    """The table.

    Attributes:
        shared: version -> keys that any configuration class of it takes, with defaults.
        families: version -> `model_type` -> what it reads.
    """

    shared: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    families: Mapping[str, Mapping[str, Reads]] = field(default_factory=dict)

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions of transformers that the table is made from, oldest first."""
        return tuple(sorted(self.shared, key=_order))

    def of(self, family: str) -> dict[str, Reads]:
        """Return version -> what it reads for a family, for the versions that know it; oldest first."""
        return {
            version: self.families[version][family]
            for version in self.versions
            if family in self.families[version]
        }

    def replaced(self, version: str, shared: Mapping[str, Any], families: Mapping[str, Reads]) -> Tables:
        """Return the table with one version's part in place of what was there."""
        return Tables({**self.shared, version: shared}, {**self.families, version: families})

    def without(self, version: str) -> Tables:
        """Return the table without one version."""
        return Tables(
            {name: keys for name, keys in self.shared.items() if name != version},
            {name: found for name, found in self.families.items() if name != version},
        )


@cache
def read_tables() -> Tables:
    """Return the table that comes with the package."""
    data = json.loads(TABLES.read_text(encoding="utf-8"))
    versions = data["versions"]
    families: dict[str, dict[str, Reads]] = {version: {} for version in versions}
    for name, parts in data["families"].items():
        for version in parts["in"]:
            own = {part: _joined(parts.get(part, {}), version) for part in _PARTS}
            values = {key: tuple(texts) for key, texts in own["values"].items()}
            families[version][name] = Reads(
                own["reads"], tuple(sorted(own["idle"])), own["aliases"], values, own["kept"]
            )
    return Tables({version: _joined(data["shared"], version) for version in versions}, families)


def written(tables: Tables) -> str:
    """Return the text of a table's file, a line for each family."""
    names = sorted({name for found in tables.families.values() for name in found})
    lines = [f"  {json.dumps(name)}: {json.dumps(_family(tables, name))}" for name in names]
    return "\n".join(
        [
            "{",
            f'"versions": {json.dumps(list(tables.versions))},',
            f'"shared": {json.dumps(_split(tables.shared))},',
            '"families": {',
            ",\n".join(lines),
            "}",
            "}",
            "",
        ]
    )


def _family(tables: Tables, name: str) -> dict[str, Any]:
    own = tables.of(name)
    parts = {
        "reads": _split({version: reads.reads for version, reads in own.items()}),
        "idle": _split({version: dict.fromkeys(reads.idle) for version, reads in own.items()}),
        "aliases": _split({version: reads.aliases for version, reads in own.items()}),
        "values": _split({version: reads.values for version, reads in own.items()}),
        "kept": _split({version: reads.kept for version, reads in own.items()}),
    }
    return {"in": list(own), **{part: split for part, split in parts.items() if split}}


def _split(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what all tables have alike under `_ALL`, and the rest of each under its version."""
    alike = set.intersection(*({_item(*item) for item in table.items()} for table in tables.values()))
    found: dict[str, dict[str, Any]] = {}
    for version in sorted(tables, key=_order):
        for key, value in sorted(tables[version].items()):
            found.setdefault(_ALL if _item(key, value) in alike else version, {})[key] = value
    return found


def _item(key: str, value: object) -> tuple[str, str]:
    # As text, since True and 1 are equal in Python and two defaults in JSON.
    return key, json.dumps(value)


def _joined(split: Mapping[str, Mapping[str, Any]], version: str) -> dict[str, Any]:
    return {**split.get(_ALL, {}), **split.get(version, {})}


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in _numbers(version.split(".")))


def _numbers(parts: Iterable[str]) -> Iterable[str]:
    return (part for part in parts if part.isdigit())
