"""The file formats: a row each, by the ending of a file's name.

Adding one is a row here and a file beside this one. What opens a format is an import path, as in
`models.tasks`, so that nobody waits for the import of a format that is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bertonnx.models.registry import Registry

__all__ = ["INPUTS", "OUTPUTS", "Format", "ending_of"]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: the ending of its files, in small letters.
        opens: of an input `(Choice) -> Input` (`runtime.io.inputs`); of an output
            `(Path, Card, DecodeOptions, *, resume) -> Writer` (`runtime.io.outputs`).
        requires: `() -> object`: raises a MissingDependencyError where a package is not there that the
            format needs; empty where it needs none.
        safe: of an output that spreadsheets open: what opens it so that no text is a formula for them; empty
            where there is no such thing.
        says_why: of an output: whether a failed row's error is in it, and not only that it failed.
    """

    name: str
    opens: str
    requires: str = ""
    safe: str = ""
    says_why: bool = True


_PYARROW = "bertonnx.runtime.io.arrow:require_pyarrow"

INPUTS: Registry[Format] = Registry(
    "input format",
    Format(".txt", "bertonnx.runtime.io.lines:open_text"),
    Format(".csv", "bertonnx.runtime.io.tables:open_csv"),
    Format(".tsv", "bertonnx.runtime.io.tables:open_tsv"),
    Format(".jsonl", "bertonnx.runtime.io.lines:open_json"),
    Format(".ndjson", "bertonnx.runtime.io.lines:open_json"),
    Format(".parquet", "bertonnx.runtime.io.arrow_in:open_parquet", _PYARROW),
    Format(".arrow", "bertonnx.runtime.io.arrow_in:open_ipc", _PYARROW),
    Format(".feather", "bertonnx.runtime.io.arrow_in:open_ipc", _PYARROW),
)

OUTPUTS: Registry[Format] = Registry(
    "output format",
    Format(".jsonl", "bertonnx.runtime.io.text:open_json"),
    Format(".ndjson", "bertonnx.runtime.io.text:open_json"),
    Format(".csv", "bertonnx.runtime.io.text:open_csv", safe="bertonnx.runtime.io.text:open_safe_csv"),
    Format(".tsv", "bertonnx.runtime.io.text:open_tsv", safe="bertonnx.runtime.io.text:open_safe_tsv"),
    Format(".parquet", "bertonnx.runtime.io.arrow_out:open_parquet", _PYARROW),
    Format(".arrow", "bertonnx.runtime.io.arrow_out:open_ipc", _PYARROW),
    Format(".feather", "bertonnx.runtime.io.arrow_out:open_ipc", _PYARROW),
    Format(".npy", "bertonnx.runtime.io.npy:open_npy", says_why=False),
)


def ending_of(path: str | Path) -> str:
    """Return the name of the format that a file's name says."""
    return Path(path).suffix.lower()
