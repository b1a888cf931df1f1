"""Names that no system can look up, at every face that takes one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import bertonnx
from bertonnx.errors import BertonnxError, InputError, ModelFileError, OutputError, SourceError
from tests.jobs import write_input

NAMES = ["x" * 300, "nul\0", "half\ud800", "circle"]
FACES: list[tuple[type[BertonnxError], Callable[[Path, Path, Path], object]]] = [
    (ModelFileError, lambda name, _, __: bertonnx.load(name)),
    (ModelFileError, lambda name, _, __: bertonnx.check(name)),
    (ModelFileError, lambda name, _, __: bertonnx.sign(name, "key.pem")),
    (ModelFileError, lambda name, _, __: bertonnx.verify_signature(name, "key.pub", signature=__file__)),
    (ModelFileError, lambda name, _, input: bertonnx.run(name, input, input.with_suffix(".jsonl"))),
    (InputError, lambda name, model, input: bertonnx.run(model, name, input.with_suffix(".jsonl"))),
    (OutputError, lambda name, model, input: bertonnx.run(model, input, f"{name}.jsonl")),
    (
        OutputError,
        lambda name, model, input: bertonnx.run(model, input, input.with_suffix(".jsonl"), manifest=name),
    ),
    (SourceError, lambda name, _, input: bertonnx.export(name, input.with_suffix(".onnx"))),
    (OutputError, lambda name, _, input: bertonnx.export(input, name)),
]


@pytest.mark.parametrize("name", NAMES, ids=["too long", "NUL", "half a character", "circle"])
def test_a_name_that_cannot_be_looked_up_is_an_error_of_ours(
    tmp_path: Path, classifier: Path, name: str
) -> None:
    for link in ("circle", "circle.jsonl"):
        (tmp_path / link).symlink_to(tmp_path / link)
    input = write_input(tmp_path, 3)
    for kind, act in FACES:
        with pytest.raises(kind):
            act(tmp_path / name, classifier, input)
