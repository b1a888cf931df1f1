"""Models of one file, and models whose weights need a sidecar."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bertonnx
from bertonnx.errors import ModelFileError
from bertonnx.exporters.onnxgraph import files
from bertonnx.exporters.onnxgraph.files import hollow_weights, load_proto, save_proto, weight_bytes
from bertonnx.runtime.modelfile.modelfile import read_model_file
from tests.corpus import SENTENCES
from tests.tiny import save_tiny

TEXTS = list(SENTENCES[:6])


def _model() -> onnx.ModelProto:
    weights: dict[str, npt.NDArray[np.generic]] = {
        "large": np.arange(2000, dtype=np.float32).reshape(20, 100),
        "shape": np.array([1, -1], dtype=np.int64),
        "other": np.linspace(0, 1, 777, dtype=np.float32),
    }
    node = helper.make_node("Identity", ["large"], ["out"])
    graph = helper.make_graph(
        [node],
        "graph",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [20, 100])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model.metadata_props.add(key="who", value="me")
    return model


def test_weight_bytes_counts_every_weight() -> None:
    assert weight_bytes(_model()) == 4 * 2000 + 8 * 2 + 4 * 777


def test_weights_without_numbers_are_found() -> None:
    model = _model()
    empty = np.zeros((0, 3), dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(empty, "of no rows"))
    model.graph.initializer.append(helper.make_tensor("by field", TensorProto.FLOAT, [2], [1.0, 2.0]))
    model.graph.initializer.append(helper.make_tensor("whole", TensorProto.INT64, [1], [1]))
    model.graph.initializer.append(
        onnx.TensorProto(name="outside", dims=[9], data_location=TensorProto.EXTERNAL)
    )
    assert hollow_weights(model) == []
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[5].ClearField("int64_data")
    assert hollow_weights(model) == ["large", "whole"]


def test_a_small_model_is_one_file(tmp_path: Path) -> None:
    model = _model()
    assert save_proto(model, tmp_path / "m.onnx") is None
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert load_proto(tmp_path / "m.onnx") == model
    # Written one weight at a time, and to the last byte what protobuf writes of the whole.
    assert (tmp_path / "m.onnx").read_bytes() == model.SerializeToString(deterministic=True)


def test_a_large_model_has_a_sidecar_and_comes_back_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", 5000)
    model = _model()
    before = model.SerializeToString(deterministic=True)
    assert save_proto(model, tmp_path / "m.onnx") == tmp_path / "m.onnx.data"
    assert model.SerializeToString(deterministic=True) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]

    shell = onnx.load(str(tmp_path / "m.onnx"), load_external_data=False)
    where = {
        tensor.name: {item.key: item.value for item in tensor.external_data}
        for tensor in shell.graph.initializer
    }
    assert where["shape"] == {}
    assert where["large"] == {"location": "m.onnx.data", "offset": "0", "length": "8000"}
    # Aligned, so that ONNX Runtime can map it.
    assert where["other"] == {"location": "m.onnx.data", "offset": "8000", "length": "3108"}

    back = load_proto(tmp_path / "m.onnx")
    assert [(p.key, p.value) for p in back.metadata_props] == [("who", "me")]
    assert back.opset_import == model.opset_import
    for left, right in zip(back.graph.initializer, model.graph.initializer, strict=True):
        assert left.name == right.name
        np.testing.assert_array_equal(numpy_helper.to_array(left), numpy_helper.to_array(right))


def test_the_sidecar_can_have_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", 5000)
    assert save_proto(_model(), tmp_path / "m.onnx", sidecar="weights") == tmp_path / "weights"
    assert load_proto(tmp_path / "m.onnx").graph.initializer[0].dims == [20, 100]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("files") / "checkpoint", task="feature-extraction")


@pytest.fixture(scope="module")
def inline(checkpoint: Path) -> Path:
    return bertonnx.export(checkpoint, checkpoint.parent / "inline.onnx").path


@pytest.fixture(scope="module")
def beside(checkpoint: Path) -> Path:
    """Export with a limit so low that all larger weights go to a sidecar."""
    folder = checkpoint.parent / "beside"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "SINGLE_FILE_LIMIT", 1000)
        report = bertonnx.export(checkpoint, folder / "model.onnx")
    assert report.sidecar == folder / "model.onnx.data"
    assert report.bytes == sum(path.stat().st_size for path in folder.iterdir())
    return report.path


def test_an_export_with_a_sidecar_is_two_files_and_nothing_else(beside: Path) -> None:
    assert sorted(path.name for path in beside.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert read_model_file(beside).sidecars == (beside.parent / "model.onnx.data",)
    assert beside.with_name("model.onnx.data").stat().st_size > 100_000


def test_both_kinds_of_file_predict_the_same_bits(inline: Path, beside: Path) -> None:
    with bertonnx.load(inline) as one, bertonnx.load(beside) as two:
        np.testing.assert_array_equal(one.embed(TEXTS), two.embed(TEXTS))
        assert one.card.weights_sha256 == two.card.weights_sha256
        assert one.identity == two.identity
    assert bertonnx.check(beside).examples == bertonnx.check(inline).examples


def test_both_files_copied_elsewhere_work_and_the_model_file_may_be_renamed(
    beside: Path, inline: Path, tmp_path: Path
) -> None:
    shutil.copy(beside, tmp_path / "renamed.onnx")
    shutil.copy(beside.with_name("model.onnx.data"), tmp_path)
    assert bertonnx.check(tmp_path / "renamed.onnx").max_abs_difference == 0
    with bertonnx.load(tmp_path / "renamed.onnx") as there, bertonnx.load(inline) as here:
        np.testing.assert_array_equal(there.embed(TEXTS), here.embed(TEXTS))


@pytest.mark.parametrize("action", [bertonnx.load, bertonnx.check, read_model_file])
def test_a_missing_sidecar_is_named(action: object, beside: Path, tmp_path: Path) -> None:
    assert callable(action)
    path = Path(shutil.copy(beside, tmp_path))
    with pytest.raises(ModelFileError, match=r"needs model\.onnx\.data beside it.*copy both files together"):
        action(path)


@pytest.mark.parametrize("action", [bertonnx.load, bertonnx.check, read_model_file])
def test_a_truncated_sidecar_is_named(action: object, beside: Path, tmp_path: Path) -> None:
    assert callable(action)
    path = Path(shutil.copy(beside, tmp_path))
    whole = beside.with_name("model.onnx.data").read_bytes()
    (tmp_path / "model.onnx.data").write_bytes(whole[:-200])
    with pytest.raises(
        ModelFileError, match=r"model\.onnx\.data is truncated: \d+ bytes, and \d+ are needed"
    ):
        action(path)


@pytest.mark.big
def test_a_model_over_two_gigabytes(tmp_path: Path) -> None:
    # The sizes of xlm-roberta-large: 2.24 GB of float32.
    checkpoint = save_tiny(
        tmp_path / "checkpoint",
        task="feature-extraction",
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        vocab_size=250_002,
        initializer_range=0.02,
    )
    folder = tmp_path / "out"
    folder.mkdir()
    report = bertonnx.export(checkpoint, folder / "model.onnx")
    assert report.sidecar == folder / "model.onnx.data"
    assert report.sidecar.stat().st_size > 2**31
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert report.card.fusions["attention"] == {"found": 24, "expected": 24}
    shutil.rmtree(checkpoint)

    moved = tmp_path / "moved"
    folder.rename(moved)
    assert bertonnx.check(moved / "model.onnx").max_abs_difference == 0
    with bertonnx.load(moved / "model.onnx") as model:
        embeddings = model.embed(TEXTS)
        assert embeddings.shape == (len(TEXTS), 1024)
        np.testing.assert_array_equal(embeddings[2], model.embed([TEXTS[2]])[0])
        assert np.linalg.matrix_rank(embeddings) == len(TEXTS)
