"""`arrow_arrays.py`: the arrays are those that pyarrow makes, and pandas is not imported for them."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertonnx.runtime.io.arrow_arrays import array_of

pa = pytest.importorskip("pyarrow")

STRUCT = pa.struct([("text", pa.string()), ("score", pa.float32()), ("start", pa.int64())])
KINDS = [
    *(pa.int64(), pa.float32(), pa.bool_(), pa.string()),
    *(
        pa.list_(pa.string()),
        pa.list_(pa.list_(pa.int64())),
        STRUCT,
        pa.list_(STRUCT),
        pa.list_(pa.list_(STRUCT)),
    ),
    *(pa.list_(pa.float32(), 3), pa.list_(pa.int8(), 3), pa.list_(pa.list_(pa.float32(), 3))),
]


def some(dice: random.Random, kind: Any, *, nulls: bool = True) -> Any:
    """Return a Python value of a type, or None."""
    if nulls and dice.random() < 0.2:
        return None
    if pa.types.is_fixed_size_list(kind):
        return np.array(
            [some(dice, kind.value_type, nulls=False) for _ in range(3)], kind.value_type.to_pandas_dtype()
        )
    if pa.types.is_list(kind):
        # A vector that is none within a list is a thing that no result has.
        inner = not pa.types.is_fixed_size_list(kind.value_type)
        return [some(dice, kind.value_type, nulls=inner) for _ in range(dice.randrange(4))]
    if pa.types.is_struct(kind):
        found = {field.name: some(dice, field.type) for field in kind}
        return {**found, "other": 1} if dice.random() < 0.5 else dict(list(found.items())[:2])
    if pa.types.is_string(kind):
        return dice.choice(["", "film", "über", "\N{FACE WITH TEARS OF JOY}\0x"])
    if pa.types.is_boolean(kind):
        return dice.random() < 0.5
    return (
        dice.randrange(100)
        if pa.types.is_integer(kind)
        else dice.choice([0.1, -0.0, 1e-45, 3e38, float("inf")])
    )


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 300])
def test_arrays_are_those_that_pyarrow_makes(kind: Any, rows: int) -> None:
    dice = random.Random(f"{kind} {rows}")
    for nulls in (True, False):
        cells = [some(dice, kind, nulls=nulls) for _ in range(rows)]
        made, wanted = array_of(pa, cells, kind), pa.array(cells, kind)
        made.validate(full=True)
        assert made.equals(wanted)
        assert made.null_count == wanted.null_count
        assert made.slice(rows // 2).to_pylist() == wanted.slice(rows // 2).to_pylist()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_columns_of_nulls_alone_have_their_type(kind: Any) -> None:
    made = array_of(pa, (None, None, None), kind)
    made.validate(full=True)
    assert made.equals(pa.nulls(3, kind))


def test_not_a_number_and_the_bits_of_floats_stay() -> None:
    bits = np.array([0x7FC00001, 0x80000000, 0x00000001], np.uint32).view(np.float32)
    assert np.frombuffer(array_of(pa, list(bits), pa.float32()).buffers()[1], np.uint32).tolist() == [
        *(0x7FC00001, 0x80000000, 0x00000001)
    ]
    vectors = array_of(pa, [bits, None], pa.list_(pa.float32(), 3))
    assert vectors[0].values.buffers()[1].to_pybytes()[:12] == bits.tobytes()


@pytest.mark.parametrize(
    ("cells", "kind", "error"),
    [
        ([1.5], pa.int64(), TypeError),
        (["1"], pa.float32(), TypeError),
        (["\ud800"], pa.string(), ValueError),
        ([np.zeros(2, np.float32)], pa.list_(pa.float32(), 3), ValueError),
        ([b"x"], pa.binary(), TypeError),
        ([1], pa.int32(), TypeError),
    ],
)
def test_values_of_other_kinds_are_errors(cells: list[Any], kind: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        array_of(pa, cells, kind)


def test_more_than_a_column_can_count_is_an_error() -> None:
    class Long:
        def __len__(self) -> int:
            return 2**31

        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(OverflowError, match="2147483648"):
        array_of(pa, [Long()], pa.list_(pa.int64()))


READ_AND_WRITE = """
import sys
import bertonnx, pyarrow as pa
from bertonnx.runtime.io.arrow_arrays import array_of
model, source, target = sys.argv[1:]
texts = array_of(pa, ["a text", None, "another"], pa.string())
batch = pa.RecordBatch.from_arrays([texts, texts.dictionary_encode()], ["text", "shared"])
with bertonnx.load(model, threads=1) as opened:
    opened.predict_batch(batch, column="text", keep=True)
    opened.predict_batch(batch, column="shared")
bertonnx.run(model, source, target)
bertonnx.run(model, source, target + ".arrow")
if "extraction" in model:
    bertonnx.search(target, target + ".arrow", top_k=1)
assert "pandas" not in sys.modules
"""


@pytest.mark.parametrize("name", ["feature-extraction", "token-classification"])
def test_pandas_is_not_imported(name: str, exported: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "pandas").mkdir()
    (tmp_path / "pandas" / "__init__.py").write_text("raise SystemExit('pandas was imported')\n")
    source = tmp_path / "in.txt"
    source.write_text("a text\nanother\n")
    program = [
        sys.executable,
        "-c",
        READ_AND_WRITE,
        str(exported[name]),
        str(source),
        str(tmp_path / "out.parquet"),
    ]
    found = subprocess.run(
        program, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(tmp_path), "PATH": ""}
    )
    assert (found.returncode, found.stderr) == (0, "")
