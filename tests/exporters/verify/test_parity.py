"""PyTorch against ONNX Runtime: what must be found, and how much is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

import bertonnx
from bertonnx.errors import ParityError
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.steps import pipeline
from bertonnx.exporters.steps.heads import add_heads
from bertonnx.exporters.verify import parity
from bertonnx.exporters.verify.parity import (
    TOLERANCE,
    begun,
    compare,
    reference_outputs,
    sample_feeds,
    segment_feeds,
    trial_feeds,
)
from bertonnx.exporters.verify.samples import sample_rows
from bertonnx.models.card import Card
from bertonnx.models.tasks import TASKS
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.rows import Array
from bertonnx.runtime.session.session import Feeds
from bertonnx.runtime.tokenization import TextTokenizer
from tests.checkpoints import read
from tests.tiny import save_tiny

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("parity") / "checkpoint")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return read(folder)


@pytest.fixture(scope="module")
def inputs(checkpoint: Checkpoint) -> list[Feeds]:
    card = Card(
        task=checkpoint.task, family="bert", max_length=checkpoint.max_length, inputs=INPUTS, outputs=()
    )
    rows = sample_rows(pairs=False, mask_token=None, max_length=checkpoint.max_length)
    return sample_feeds(rows, TextTokenizer(checkpoint.tokenizer_text, card), inputs=INPUTS, pad_token_id=0)


class Echo:
    """A session that answers what PyTorch would, changed by `change`."""

    provider = "cpu"

    def __init__(self, checkpoint: Checkpoint, change: Callable[[str, Array], Array]) -> None:
        self.checkpoint, self.change = checkpoint, change
        self.inputs: tuple[str, ...] = INPUTS
        self.outputs: tuple[str, ...] = ("logits", "scores")

    def run(
        self,
        outputs: Sequence[str],
        feeds: Any,
        *,
        alone: bool = False,  # noqa: ARG002
    ) -> list[npt.NDArray[np.float32]]:
        reference = reference_outputs(self.checkpoint, feeds)
        return [self.change(name, reference[name]) for name in outputs]


def test_pairs_are_among_the_inputs_of_a_model_with_segments(checkpoint: Checkpoint) -> None:
    card = Card(
        task=checkpoint.task, family="bert", max_length=checkpoint.max_length, inputs=INPUTS, outputs=()
    )
    tokenizer = TextTokenizer(checkpoint.tokenizer_text, card)
    together, *alone = segment_feeds(checkpoint, tokenizer)
    assert len(alone) == len(together["input_ids"]) == 2
    assert all(feeds["token_type_ids"].max() == 1 for feeds in alone)
    assert segment_feeds(replace(checkpoint, pairs=True), tokenizer) == []
    assert segment_feeds(replace(checkpoint, input_names=INPUTS[:2]), tokenizer) == []


def test_an_input_that_the_graph_lacks_is_a_difference(checkpoint: Checkpoint) -> None:
    class Deaf(Echo):
        def run(self, outputs: Sequence[str], feeds: Any, *, alone: bool = False) -> Any:
            assert set(feeds) == set(INPUTS[:2])
            return super().run(outputs, feeds, alone=alone)

    card = Card(
        task=checkpoint.task, family="bert", max_length=checkpoint.max_length, inputs=INPUTS, outputs=()
    )
    pairs = segment_feeds(checkpoint, TextTokenizer(checkpoint.tokenizer_text, card))
    session = Deaf(checkpoint, lambda _, array: array)
    session.inputs = INPUTS[:2]
    with pytest.raises(ParityError, match="disagree on"):
        compare(checkpoint, session, pairs)


def test_a_padded_batch_and_every_text_alone(inputs: list[Feeds]) -> None:
    together, *alone = inputs
    assert len(alone) == len(together["input_ids"]) >= 5
    lengths = together["attention_mask"].sum(axis=1)
    assert len(set(lengths.tolist())) >= 4
    assert max(lengths) == together["input_ids"].shape[1]
    for row, batch in enumerate(alone):
        assert (batch["attention_mask"] == 1).all()
        np.testing.assert_array_equal(batch["input_ids"][0], together["input_ids"][row, : lengths[row]])
        assert (together["input_ids"][row, lengths[row] :] == 0).all()


def test_the_longest_is_padded_with_the_shortest_alone(checkpoint: Checkpoint) -> None:
    card = Card(
        task=checkpoint.task, family="bert", max_length=checkpoint.max_length, inputs=INPUTS, outputs=()
    )
    rows = sample_rows(pairs=False, mask_token=None, max_length=checkpoint.max_length)
    tokenizer = TextTokenizer(checkpoint.tokenizer_text, card)
    near, long, far, *others = trial_feeds(rows, tokenizer, inputs=INPUTS, pad_token_id=0)
    alone = [long, *others]
    lengths = [int(feeds["attention_mask"].sum()) for feeds in alone]
    longest, shortest = max(lengths), min(lengths)
    assert lengths == sorted(lengths, reverse=True)
    assert len(alone) == len(rows)
    # Both are padded batches of unequal texts, and together they hold every text.
    assert sorted(near["attention_mask"].sum(axis=1).tolist(), reverse=True) == lengths[1:]
    assert far["attention_mask"].sum(axis=1).tolist() == [longest, shortest]
    assert near["input_ids"].shape[1] * 2 < longest == far["input_ids"].shape[1]
    # Texts of like lengths are one batch.
    alike = [rows[0], rows[0], rows[2]]
    together, *alone = trial_feeds(alike, tokenizer, inputs=INPUTS, pad_token_id=0)
    assert [len(feeds["input_ids"]) for feeds in (together, *alone)] == [3, 1, 1, 1]


def test_pytorch_runs_once_for_a_text_as_long_as_both_agree(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(
        task=checkpoint.task, family="bert", max_length=checkpoint.max_length, inputs=INPUTS, outputs=()
    )
    rows = sample_rows(pairs=False, mask_token=None, max_length=checkpoint.max_length)
    tokenizer = TextTokenizer(checkpoint.tokenizer_text, card)
    inputs = trial_feeds(rows, tokenizer, inputs=INPUTS, pad_token_id=0)
    asked: list[tuple[int, ...]] = []

    def counted(checkpoint: Checkpoint, feeds: Feeds) -> dict[str, Array]:
        asked.append(feeds["input_ids"].shape)
        return reference_outputs(checkpoint, feeds)

    monkeypatch.setattr(parity, "reference_outputs", counted)
    compare(checkpoint, Echo(checkpoint, lambda _, array: array), inputs)
    # The texts that are padded together, and the longest by itself.
    assert asked == [inputs[0]["input_ids"].shape, inputs[1]["input_ids"].shape]

    # What is wrong in one way of running alone is found, and PyTorch's word on just these inputs is the last.
    for wrong in (inputs[2], inputs[3], inputs[-1]):
        asked.clear()
        session = Echo(checkpoint, lambda _, array: array)
        right = session.run

        def run(outputs: Sequence[str], feeds: Any, *, at: Any = wrong, right: Any = right) -> Any:
            same = np.array_equal(feeds["input_ids"], at["input_ids"])
            return [array + same for array in right(outputs, feeds)]

        monkeypatch.setattr(session, "run", run)
        with pytest.raises(ParityError, match="disagree on"):
            compare(checkpoint, session, inputs)
        assert asked[2:] == [wrong["input_ids"].shape]


def test_what_pytorch_began_early_is_asked_for_once(
    checkpoint: Checkpoint, inputs: list[Feeds], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = compare(checkpoint, Echo(checkpoint, lambda _, array: array), inputs)
    asked: list[int] = []

    def counted(checkpoint: Checkpoint, feeds: Feeds) -> dict[str, Array]:
        asked.append(id(feeds))
        return reference_outputs(checkpoint, feeds)

    monkeypatch.setattr(parity, "reference_outputs", counted)
    with begun(checkpoint, inputs[:2]) as reference:
        echo = Echo(checkpoint, lambda _, array: array)
        assert compare(checkpoint, echo, inputs, reference=reference) == expected
        asked.remove(id(inputs[0]))
        asked.remove(id(inputs[1]))
        assert not {id(inputs[0]), id(inputs[1])} & set(asked)
        # What was not begun is computed when it is asked for, and so is what was asked for before.
        other = {name: array[:1] for name, array in inputs[0].items()}
        for feeds in (other, inputs[0]):
            assert asked.count(id(feeds)) == 0
            assert set(reference(feeds)) == {"logits", "scores"}
            assert asked.count(id(feeds)) == 1


def test_what_pytorch_fails_with_early_is_said_when_it_is_asked(checkpoint: Checkpoint) -> None:
    wrong = {"input_ids": np.full((1, 4), 10**6), "attention_mask": np.ones((1, 4), np.int64)}
    with begun(checkpoint, [wrong]) as reference, pytest.raises(IndexError):
        reference(wrong)
    with begun(checkpoint, [wrong]):  # nobody asks
        pass


def test_equal_is_zero(checkpoint: Checkpoint, inputs: list[Feeds]) -> None:
    found = compare(checkpoint, Echo(checkpoint, lambda _, array: array), inputs)
    outputs = found.outputs
    assert set(outputs) == {"logits", "scores"}
    # Alone and padded, PyTorch itself differs by rounding.
    assert found.max_abs_difference < 1e-5
    assert compare(checkpoint, Echo(checkpoint, lambda _, array: array), inputs[:1]).max_abs_difference == 0
    assert 0 < outputs["scores"].max_abs_reference <= 1 < outputs["logits"].max_abs_reference
    assert found.max_abs_reference == outputs["logits"].max_abs_reference
    assert (found.tolerance, found.allowed) == (1e-4, 1e-4 * found.max_abs_reference)


@pytest.mark.parametrize("precision", list(TOLERANCE))
@pytest.mark.parametrize(("part", "passes"), [(0.9, True), (1.1, False)])
def test_the_tolerance_grows_with_the_largest_number_but_not_below_one(
    part: float, passes: bool, precision: str, checkpoint: Checkpoint, inputs: list[Feeds]
) -> None:
    usual = compare(checkpoint, Echo(checkpoint, lambda _, array: array), inputs)
    for moved in ("logits", "scores"):
        step = part * TOLERANCE[precision] * max(1.0, usual.outputs[moved].max_abs_reference)
        session = Echo(checkpoint, lambda name, a, m=moved, s=step: a + s if name == m else a)  # type: ignore[misc]
        if passes:
            found = compare(checkpoint, session, inputs, precision=precision)
            assert found.outputs[moved].max_abs_difference == pytest.approx(step, rel=1e-2)
            assert found.max_abs_difference == found.outputs[moved].max_abs_difference
        else:
            with pytest.raises(
                ParityError, match=rf"disagree on {moved}: largest difference .*\({precision}\)"
            ):
                compare(checkpoint, session, inputs, precision=precision)


def test_fp32_allows_what_the_contract_says() -> None:
    assert TOLERANCE["fp32"] == 1e-4


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_never_small(number: float, checkpoint: Checkpoint, inputs: list[Feeds]) -> None:
    def change(_: str, array: Array) -> Array:
        changed = array.copy()
        changed.flat[0] = number
        return changed

    with pytest.raises(ParityError, match="largest difference inf"):
        compare(checkpoint, Echo(checkpoint, change), inputs)


def test_another_shape(checkpoint: Checkpoint, inputs: list[Feeds]) -> None:
    with pytest.raises(ParityError, match=r"gives shape \(\d+, 2\) where PyTorch gives \(\d+, 3\)"):
        compare(checkpoint, Echo(checkpoint, lambda _, array: array[:, :2]), inputs)


def test_a_difference_in_one_single_text_is_found(checkpoint: Checkpoint, inputs: list[Feeds]) -> None:
    def change(_: str, array: Array) -> Array:
        return array + 1 if array.shape[0] == 1 else array

    with pytest.raises(ParityError):
        compare(checkpoint, Echo(checkpoint, change), inputs)


def _wrong_weight(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if "LayerNorm.weight" in tensor.name)
    array = numpy_helper.to_array(tensor).copy()
    array.ravel()[0] += 0.1
    tensor.raw_data = array.tobytes()


def _no_softmax(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if "scores" in node.output or "logits" in node.output)
    inner = f"{node.output[0]}/before"
    output = node.output[0]
    node.output[0] = inner
    model.graph.node.append(onnx.helper.make_node("Neg", [inner], [output]))


@pytest.mark.parametrize("task", [task.name for task in TASKS])
@pytest.mark.parametrize("damage", [_wrong_weight, _no_softmax])
def test_a_wrong_graph_gives_no_file(
    damage: Callable[[onnx.ModelProto], None], task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if damage is _no_softmax and not {"logits", "scores"} & set(task_named(task).outputs):
        pytest.skip("has neither logits nor scores")
    source = save_tiny(tmp_path / "checkpoint", task=task)

    def patched(graph: Graph, checkpoint: Checkpoint) -> None:
        add_heads(graph, checkpoint)
        damage(graph.model)

    monkeypatch.setattr(pipeline, "add_heads", patched)
    hint = "no file was written. Try optimize='basic' or optimize='none'"
    with pytest.raises(ParityError, match=re.escape(hint)):
        bertonnx.export(source, tmp_path / "model.onnx", optimize="none")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
