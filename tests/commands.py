"""What tests of the command line share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Command", "Outcome", "process", "read_lines", "with_metadata", "written"]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> str:
        """The only line of standard error, which is an error in our words."""
        assert self.out == ""
        assert self.err.startswith("error: "), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("error: ").strip()


Command = Callable[..., Outcome]


def process(
    *arguments: object, module: bool = False, stdin: Any = subprocess.DEVNULL, stdout: Any = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    program = (
        [sys.executable, "-m", "bertonnx"] if module else [str(Path(sys.executable).parent / "bertonnx")]
    )
    return subprocess.Popen(
        [*program, *map(str, arguments)], stdin=stdin, stdout=stdout, stderr=subprocess.PIPE
    )


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def with_metadata(source: Path, target: Path, change: Callable[[dict[str, str]], None]) -> Path:
    import onnx

    model = onnx.load(source)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    change(metadata)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, target)
    return target
