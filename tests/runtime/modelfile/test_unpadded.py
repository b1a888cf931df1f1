"""A graph that was told that nothing is padded answers the same, without asking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bertonnx.runtime.modelfile.mapped import without_weights
from bertonnx.runtime.modelfile.unpadded import assume_unpadded
from bertonnx.runtime.session.session import import_onnxruntime

TASKS = ("feature-extraction", "text-classification", "token-classification", "question-answering")


def _session(model: bytes, folder: Path) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder.resolve())
    )
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _operators(session: Any) -> list[str]:
    parts = session.get_provider_graph_assignment_info()
    return [node.op_type for part in parts for node in part.get_nodes()]


@pytest.mark.parametrize("task", TASKS)
def test_the_same_bits_without_a_question(exported: dict[str, Path], task: str) -> None:
    path = exported[task]
    asking = without_weights(path)
    told = assume_unpadded(asking)
    assert told is not None
    asks, knows = _session(asking, path.parent), _session(told, path.parent)
    assert "If" in _operators(asks)
    assert not {"If", "ReduceMin"} & set(_operators(knows))
    assert _operators(knows).count("MultiHeadAttention") * 2 == _operators(asks).count("MultiHeadAttention")
    for batch, tokens in ((1, 5), (4, 17)):
        ids = np.random.default_rng(tokens).integers(5, 100, (batch, tokens))
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": 0 * ids}
        for one, other in zip(asks.run(None, feeds), knows.run(None, feeds), strict=True):
            assert np.array_equal(one, other)


def test_a_graph_that_does_not_ask_is_left_alone() -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"], name="no_padding")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "no_padding", [x], [y]))
    assert assume_unpadded(model.SerializeToString()) is None
