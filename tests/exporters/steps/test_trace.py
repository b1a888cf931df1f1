"""What is traced: through Optimum's table, with all that the tokenizer makes and the model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import masking_utils

import bertonnx
from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.steps.trace import trace, traced_lengths, without_dump
from bertonnx.models.families import FAMILIES
from tests.checkpoints import read
from tests.tiny import HEADS, save_tiny

BERT = FAMILIES["bert"]


def _inputs(model: object) -> list[str]:
    return [value.name for value in model.graph.input]  # type: ignore[attr-defined]


@pytest.mark.parametrize("task", HEADS.values())
def test_optimum_knows_our_configuration_of_what_was_traced(task: str, tmp_path: Path) -> None:
    from optimum.exporters.tasks import TasksManager

    checkpoint = read(save_tiny(tmp_path, "electra", task))
    outputs = [value.name for value in trace(checkpoint).graph.output]
    constructor = TasksManager.get_exporter_config_constructor(
        "bertonnx", model_type="electra", task=task, library_name="transformers"
    )
    assert list(constructor(checkpoint.config).outputs) == outputs


def test_segment_ids_that_the_model_reads_are_an_input_whatever_the_family(tmp_path: Path) -> None:
    source = save_tiny(tmp_path, "roberta", "text-classification", tokenizer="wordpiece", type_vocab_size=2)
    checkpoint = read(source)
    graph = trace(checkpoint)
    assert _inputs(graph) == ["input_ids", "attention_mask", "token_type_ids"]

    ids = np.arange(5, 29).reshape(2, 12)
    segments = np.repeat([[0] * 6 + [1] * 6], 2, axis=0)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": segments}
    with torch.no_grad():
        expected = checkpoint.model(**{name: torch.from_numpy(array) for name, array in feeds.items()}).logits
    actual = run_graph(graph, feeds, ["logits"])["logits"]
    np.testing.assert_allclose(actual, expected.numpy(), atol=1e-5)
    without = run_graph(graph, feeds | {"token_type_ids": np.zeros_like(ids)}, ["logits"])["logits"]
    assert np.abs(without - actual).max() > 1e-2


def test_segment_ids_that_the_model_does_not_take_are_no_input(tmp_path: Path) -> None:
    source = save_tiny(tmp_path, "distilbert", "text-classification")
    assert _inputs(trace(read(source))) == ["input_ids", "attention_mask"]


def test_the_model_is_the_same_after_a_trace(tmp_path: Path) -> None:
    checkpoint = read(save_tiny(tmp_path, "xlm", "text-classification"))
    before = checkpoint.model.forward
    trace(checkpoint)
    assert checkpoint.model.forward == before


def test_what_the_model_itself_raises_is_an_error_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = read(save_tiny(tmp_path, "bert", "text-classification"))

    def forward(*_: object, **__: object) -> None:
        raise RuntimeError("no {such} operator")

    monkeypatch.setattr(type(checkpoint.model), "forward", forward)
    with pytest.raises(
        CheckpointError,
        match=r"cannot run this bert model itself \(RuntimeError: no \{such\} operator\); .* transformers==",
    ):
        trace(checkpoint)


def test_a_model_that_reads_padding_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = read(save_tiny(tmp_path, "bert", "text-classification"))
    own = type(checkpoint.model).forward

    def forward(self: Any, input_ids: torch.Tensor, **given: Any) -> Any:
        return own(self, input_ids, **{**given, "attention_mask": torch.ones_like(input_ids)})

    monkeypatch.setattr(type(checkpoint.model), "forward", forward)
    with pytest.raises(UnsupportedError, match="this bert model reads no attention_mask"):
        trace(checkpoint)


def test_code_that_takes_the_shape_of_an_example_for_all_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = read(save_tiny(tmp_path, "bert", "text-classification"))
    FAMILIES.unregister("bert")
    own = type(checkpoint.model).forward

    def forward(self: Any, input_ids: torch.Tensor, **others: Any) -> Any:
        texts, tokens = (int(size) for size in input_ids.shape)
        return own(self, input_ids.reshape(texts, tokens), **others)

    monkeypatch.setattr(type(checkpoint.model), "forward", forward)
    try:
        with pytest.raises(UnsupportedError, match="takes the shape of one example for that of all"):
            trace(checkpoint)
    finally:
        FAMILIES.register(BERT)
    assert capfd.readouterr() == ("", "")


def test_a_model_with_one_segment(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", "bert", "feature-extraction", type_vocab_size=1)
    assert bertonnx.export(source, tmp_path / "model.onnx").card.inputs[-1] == "token_type_ids"


_WORDS = [f"layer {number}" for number in range(20)]


def test_sets_of_names_are_gone_through_in_the_same_order_in_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ModernBERT's code of transformers 5 does; a graph in another order is another file."""
    checkpoint = read(save_tiny(tmp_path, "bert", "feature-extraction"))
    maker: Any = type(checkpoint.model)
    own, met = maker.forward, []

    def forward(self: Any, input_ids: torch.Tensor, **others: Any) -> Any:
        met.append([*set(_WORDS)])
        return own(self, input_ids, **others)

    monkeypatch.setattr(maker, "forward", forward)
    monkeypatch.setattr(maker, "__module__", __name__)
    trace(checkpoint)
    assert met
    assert all(words == sorted(_WORDS) for words in met)
    assert "set" not in globals()


def test_flaubert_with_norms_first(tmp_path: Path) -> None:
    """With a cache of its own, version 5 of transformers cannot run it."""
    source = save_tiny(tmp_path / "checkpoint", "flaubert", "text-classification", pre_norm=True)
    card = bertonnx.export(source, tmp_path / "model.onnx").card
    assert card.parity is not None
    assert card.parity.max_abs_reference > 0.1


def test_what_only_the_trace_raises_is_said_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = read(save_tiny(tmp_path, "bert", "text-classification"))

    def export(*_: object, **__: object) -> None:
        raise RuntimeError("no {such} operator")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(CheckpointError, match=r"this bert model for text-classification: .*no \{such\} oper"):
        trace(checkpoint)


def test_an_activation_that_cannot_be_exported_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = read(save_tiny(tmp_path, hidden_act="xielu", num_hidden_layers=1))
    said = r'cannot export this bert model .*; config.json has hidden_act "xielu", which may be why'
    with pytest.raises(CheckpointError, match=said):
        trace(checkpoint)
    # PyTorch would print the whole graph.
    assert capfd.readouterr().out == ""


def test_a_torch_without_its_log_of_graphs_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_jit_onnx_log")
    with without_dump():
        assert not hasattr(torch._C, "_jit_onnx_log")
    assert not hasattr(torch._C, "_jit_onnx_log")


def test_a_traced_length_stays_one_under_transformers_that_take_it_for_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As transformers 5.5 does: what is a tensor is taken for positions, and the length is that of them."""

    def sdpa_mask(q_length: Any, q_offset: Any = 0) -> torch.Tensor:
        if isinstance(q_length, torch.Tensor):
            q_length, q_offset = q_length.shape[0], q_length[0]
        positions: torch.Tensor = torch.arange(q_length) + q_offset
        return positions

    def forward(ids: torch.Tensor) -> Any:
        return module["sdpa_mask"](q_length=ids.shape[1])

    module = vars(masking_utils)
    monkeypatch.setitem(module, "sdpa_mask", sdpa_mask)
    # By its name: parts of version 4 put a second module in its place when they are imported.
    monkeypatch.setattr("transformers.__version__", "5.5.4")
    with traced_lengths():
        traced = torch.jit.trace(forward, torch.zeros(2, 3), check_trace=False)
    assert traced(torch.zeros(2, 7)).tolist() == list(range(7))
    assert module["sdpa_mask"] is sdpa_mask
    monkeypatch.setattr("transformers.__version__", "5.24.0")
    with traced_lengths():
        assert module["sdpa_mask"] is sdpa_mask
