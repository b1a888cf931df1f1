"""Objects within objects of a JSON file, as Keras writes its configurations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["json_of", "objects"]


def json_of(path: Path) -> Mapping[str, Any]:
    """Return a JSON file's object; empty where there is none, which reading it for what it is will say."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def objects(data: Any) -> Iterator[Mapping[str, Any]]:
    """Yield all objects of some JSON."""
    # By hand, since a stranger's JSON may be nested deeper than Python calls itself.
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
