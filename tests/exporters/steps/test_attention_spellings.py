"""How families spell attention: what still fuses, what vanishes around it, and what must not fuse.

Each spelling is one layer with something unusual in it. Answers are compared, and so is which operators are
left, for a transposition too many is slow and changes no answer.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bertonnx.errors import GraphError
from bertonnx.exporters.onnxgraph.attentions import OPERATOR, attention_inputs, require_attentions
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.probe import run_graph
from bertonnx.exporters.onnxgraph.step import BrokenContractError, run
from bertonnx.exporters.steps.attention import FuseAttention
from tests.graphs import changed

HEADS, SIZE, TEXTS, TOKENS = 3, 4, 2, 7
WIDTH = HEADS * SIZE
CHANCE = np.random.default_rng(5)
IDS = CHANCE.integers(0, 20, (TEXTS, TOKENS))
FEEDS = {"input_ids": IDS, "attention_mask": np.ones_like(IDS)}
TABLE = CHANCE.normal(size=(20, WIDTH))
WEIGHTS = {name: CHANCE.normal(size=(WIDTH, WIDTH)) for name in ("q", "k", "v", "other")}
RELATIVE = CHANCE.normal(size=(1, HEADS, TOKENS, TOKENS))
TURNS = CHANCE.normal(size=(1, 1, TOKENS, SIZE))


class _Layer:
    """One layer of attention, spelled out part by part; a test changes one part."""

    def __init__(self) -> None:
        ends = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in FEEDS]
        out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
        opsets = [helper.make_opsetid("", 18)]
        self.model = helper.make_model(
            helper.make_graph([], "g", ends, [out]), opset_imports=opsets, ir_version=9
        )
        self.graph = Graph(self.model)
        self.hidden = self.add("Gather", self.number(TABLE), "input_ids")
        self.query = self.swap(self.split(self.linear("q")))
        self.key = self.swap(self.split(self.linear("k")), 0, 2, 3, 1)
        self.value = self.swap(self.split(self.linear("v")))

    def add(self, op_type: str, *inputs: str, **attributes: int | float | list[int]) -> str:
        return self.graph.add(op_type, inputs, op_type.lower(), attributes=dict(attributes))

    def number(self, array: object) -> str:
        return self.graph.add_constant(np.asarray(array), np.float32, "number")

    def whole(self, *numbers: int) -> str:
        return self.graph.add_constant(list(numbers), np.int64, "whole")

    def linear(self, name: str) -> str:
        return self.add("MatMul", self.hidden, self.number(WEIGHTS[name]))

    def split(self, value: str) -> str:
        return self.add("Reshape", value, self.whole(0, 0, HEADS, SIZE))

    def swap(self, value: str, *order: int) -> str:
        return self.add("Transpose", value, perm=list(order or (0, 2, 1, 3)))

    def scores(self) -> str:
        return self.add("MatMul", self.query, self.key)

    def context(self, scores: str) -> str:
        return self.add("MatMul", self.add("Softmax", scores, axis=-1), self.value)

    def merge(self, context: str, *shape: int) -> str:
        return self.add("Reshape", self.swap(context), self.whole(*(shape or (0, 0, WIDTH))))

    def output(self, value: str, name: str = "out") -> None:
        if name != "out":
            info = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            self.model.graph.output.append(info)
        self.graph.add("Identity", [value], name, output=name)

    def finish(self) -> onnx.ModelProto:
        self.output(self.merge(self.context(self.scores())))
        return self.model


def _fused(model: onnx.ModelProto, count: int = 1) -> tuple[onnx.ModelProto, onnx.NodeProto]:
    """Fuse, compare answers, and return the model and its attention."""
    names = [output.name for output in model.graph.output]
    expected = run_graph(model, FEEDS, names)
    fused, counts = changed(model, FuseAttention(FEEDS), FuseAttention(FEEDS))
    assert counts == [count, 0]
    actual = run_graph(fused, FEEDS, names)
    for name in names:
        np.testing.assert_allclose(actual[name], expected[name], atol=2e-5)
    return fused, next(node for node in fused.graph.node if node.op_type == OPERATOR)


def _scale(attention: onnx.NodeProto) -> float:
    return float(next(item.f for item in attention.attribute if item.name == "scale"))


def _shapes(model: onnx.ModelProto) -> tuple[int, int]:
    """Return how many reshapes and transpositions are left."""
    counts = Counter(node.op_type for node in model.graph.node)
    return counts["Reshape"], counts["Transpose"]


def _transpositions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Transpose"]


# Queries, keys and values -----------------------------------------------------------------------------


def test_the_usual_spelling_leaves_neither_reshape_nor_transposition() -> None:
    model, attention = _fused(_Layer().finish())
    assert _shapes(model) == (0, 0)
    assert _scale(attention) == 1.0
    assert [item.i for item in attention.attribute if item.name == "num_heads"] == [HEADS]
    assert len(attention.input) == 3


def test_queries_and_keys_that_are_turned_by_place_are_merged_after_it() -> None:
    layer = _Layer()
    layer.query = layer.add("Mul", layer.query, layer.number(TURNS))
    layer.key = layer.add("Mul", layer.key, layer.number(TURNS.transpose(0, 1, 3, 2)))
    model, _ = _fused(layer.finish())
    # Each keeps its split and its transposition, and gets one of either.
    assert _shapes(model) == (4, 4)


def test_transpositions_in_a_row_count_as_one() -> None:
    layer = _Layer()
    layer.query = layer.swap(layer.swap(layer.query, 0, 1, 3, 2), 0, 1, 3, 2)
    layer.key = layer.swap(layer.swap(layer.split(layer.linear("k"))), 0, 1, 3, 2)
    model, _ = _fused(layer.finish())
    assert _shapes(model) == (0, 0)


def test_heads_that_are_split_the_other_way_round_are_transposed() -> None:
    """The width as (size, heads): merged without a transposition, heads would be mixed."""
    layer = _Layer()
    apart = layer.add("Reshape", layer.linear("q"), layer.whole(0, 0, SIZE, HEADS))
    layer.query = layer.swap(apart, 0, 3, 1, 2)
    model, _ = _fused(layer.finish())
    assert _shapes(model) == (2, 1)


@pytest.mark.parametrize("how", ["bias", "factor", "quotient", "both"])
def test_what_is_split_may_be_a_product_with_a_bias_and_a_factor(how: str) -> None:
    layer = _Layer()
    value = layer.linear("q")
    if how in ("bias", "both"):
        value = layer.add("Add", layer.number(CHANCE.normal(size=WIDTH)), value)
    if how in ("factor", "both"):
        value = layer.add("Mul", value, layer.number(0.5))
    if how == "quotient":
        value = layer.add("Div", value, layer.number(2.0))
    layer.query = layer.swap(layer.split(value))
    model, attention = _fused(layer.finish())
    assert _shapes(model) == (0, 0)
    # A factor before the split stays where it is.
    assert _scale(attention) == 1.0


def _tanh(layer: _Layer) -> str:
    return layer.add("Tanh", layer.linear("q"))


def _sum_of_two(layer: _Layer) -> str:
    return layer.add("Add", layer.linear("q"), layer.linear("other"))


def _learned(layer: _Layer) -> str:
    return layer.number(CHANCE.normal(size=(TEXTS, TOKENS, WIDTH)))


def _weight_of_three_dimensions(layer: _Layer) -> str:
    return layer.add("MatMul", layer.hidden, layer.number(WEIGHTS["q"][None]))


def _product_of_two(layer: _Layer) -> str:
    square = layer.add("MatMul", layer.add("Transpose", layer.hidden, perm=[0, 2, 1]), layer.hidden)
    return layer.add("MatMul", layer.hidden, square)


@pytest.mark.parametrize(
    "source", [_tanh, _sum_of_two, _learned, _weight_of_three_dimensions, _product_of_two]
)
def test_a_split_of_what_may_have_another_shape_stays(source: object) -> None:
    assert callable(source)
    layer = _Layer()
    layer.query = layer.swap(layer.split(source(layer)))
    model, attention = _fused(layer.finish())
    # Its split stays, and is merged again; its transposition vanishes all the same.
    assert _shapes(model)[0] == 2
    assert not any(list(node.attribute[0].ints) == [0, 1, 2, 3] for node in _transpositions(model))
    graph = Graph(model)
    assert graph.producer(attention.input[0], "Reshape") is not None
    assert graph.producer(attention.input[1], "MatMul") is not None


# Factors and biases -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "scale"), [("number first", 0.5), ("quotient", 0.25), ("three factors", 0.5 * 0.5 / 4)]
)
def test_factors_are_taken_from_every_place(how: str, scale: float) -> None:
    layer = _Layer()
    half, four = layer.number(0.5), layer.number(4.0)
    if how == "three factors":
        layer.query = layer.add("Mul", half, layer.query)
        layer.key = layer.add("Mul", layer.add("Div", layer.key, four), layer.number(1.0))
    scores = layer.scores()
    if how in ("number first", "three factors"):
        scores = layer.add("Mul", half, scores)
    if how == "quotient":
        scores = layer.add("Div", scores, four)
    layer.output(layer.merge(layer.context(scores)))
    assert _scale(_fused(layer.model)[1]) == pytest.approx(scale)


def test_a_factor_after_a_bias_is_one_on_both() -> None:
    layer = _Layer()
    biased = layer.add("Add", layer.number(RELATIVE), layer.scores())
    scaled = layer.add("Mul", layer.add("Add", biased, layer.number(RELATIVE[:, :, ::-1])), layer.number(0.5))
    layer.output(layer.merge(layer.context(scaled)))
    model, attention = _fused(layer.model)
    assert _scale(attention) == 0.5
    assert Counter(node.op_type for node in model.graph.node)["Expand"] == 0


def test_a_bias_of_one_row_gets_a_row_for_each_query() -> None:
    layer = _Layer()
    row = layer.number(RELATIVE[:, :, :1])
    layer.output(layer.merge(layer.context(layer.add("Add", layer.scores(), row))))
    model, attention = _fused(layer.model)
    shape = run_graph(model, FEEDS, [attention.input[5]])[attention.input[5]].shape
    assert shape == (1, HEADS, TOKENS, TOKENS)


def test_layers_of_one_mask_share_what_is_made_of_it() -> None:
    layer = _Layer()
    row = layer.number(RELATIVE[:, :, :1])
    for name in ("out", "second"):
        half = layer.add("Mul", layer.scores(), layer.number(0.5))
        layer.output(layer.merge(layer.context(layer.add("Add", half, row))), name)
    model, _ = _fused(layer.model, count=2)
    biases = {node.input[5] for node in model.graph.node if node.op_type == OPERATOR}
    assert len(biases) == 1
    assert Counter(node.op_type for node in model.graph.node)["Expand"] == 1


@pytest.mark.parametrize("fill", [-1e4, -3e38, -np.inf])
@pytest.mark.parametrize("kept_first", [True, False])
def test_a_mask_by_where_is_a_bias(fill: float, kept_first: bool) -> None:
    layer = _Layer()
    low = layer.number(fill)
    ids = layer.add("Cast", "input_ids", to=TensorProto.FLOAT)
    wide = layer.add("Unsqueeze", ids, layer.whole(1, 2))
    # Half of the ids are masked, in an attention mask's stead.
    condition = layer.add("Greater", wide, layer.number(10.0))
    scores = layer.scores()
    inputs = [scores, low] if kept_first else [low, scores]
    layer.output(layer.merge(layer.context(layer.add("Where", condition, *inputs))))
    model, attention = _fused(layer.model)
    bias = run_graph(model, FEEDS, [attention.input[5]])[attention.input[5]]
    assert set(np.unique(bias)) == {max(np.float32(fill), np.finfo(np.float32).min), 0.0}


@pytest.mark.parametrize("fill", [-9999.0, 0.0])
def test_a_fill_that_the_softmax_would_see_is_none(fill: float) -> None:
    layer = _Layer()
    condition = layer.add("Greater", layer.number(RELATIVE), layer.number(0.0))
    masked = layer.add("Where", condition, layer.scores(), layer.number(fill))
    layer.output(layer.merge(layer.context(masked)))
    assert changed(layer.model, FuseAttention(FEEDS))[1] == [0]


@pytest.mark.parametrize("to_scores", [True, False])
def test_a_mask_that_is_expanded_to_the_scores_need_not_be(to_scores: bool) -> None:
    layer = _Layer()
    scores = layer.scores()
    shape = layer.add("Shape", scores) if to_scores else layer.whole(TEXTS, 1, TOKENS, TOKENS)
    condition = layer.add("Greater", layer.number(RELATIVE[:, :1]), layer.number(0.0))
    wide = layer.add("Expand", condition, shape)
    masked = layer.add("Where", wide, scores, layer.number(-3e38))
    layer.output(layer.merge(layer.context(masked)))
    model, _ = _fused(layer.model)
    assert Counter(node.op_type for node in model.graph.node)["Expand"] == (0 if to_scores else 1)


# What comes out ---------------------------------------------------------------------------------------


def _rest(layer: _Layer, context: str) -> str:
    return layer.merge(context, 0, 0, -1)


def _of_its_own_shape(layer: _Layer, context: str) -> str:
    """Read texts and tokens off the transposed context, as an older PyTorch's `view` is traced."""
    tokens = layer.swap(context)
    numbers = [
        layer.add("Slice", layer.add("Shape", tokens), layer.whole(i), layer.whole(i + 1)) for i in (0, 1)
    ]
    shape = layer.add("Concat", *numbers, layer.whole(WIDTH), axis=0)
    return layer.add("Reshape", tokens, shape)


def _of_a_shape_with_a_rest(layer: _Layer, context: str) -> str:
    shape = layer.add("Concat", layer.whole(TEXTS), layer.whole(TOKENS), layer.whole(-1), axis=0)
    return layer.add("Reshape", layer.swap(context), shape)


@pytest.mark.parametrize("merge", [_rest, _of_a_shape_with_a_rest])
def test_a_merge_of_heads_vanishes(merge: object) -> None:
    assert callable(merge)
    layer = _Layer()
    layer.output(merge(layer, layer.context(layer.scores())))
    assert _shapes(_fused(layer.model)[0]) == (0, 0)


def test_what_reads_a_shape_alone_keeps_heads_apart_for_itself() -> None:
    layer = _Layer()
    layer.output(_of_its_own_shape(layer, layer.context(layer.scores())))
    model, _ = _fused(layer.model)
    assert _shapes(model) == (0, 0)


def _no_merge(layer: _Layer, context: str) -> str:
    return layer.add("Neg", layer.swap(context))


def _other_order(layer: _Layer, context: str) -> str:
    return layer.add("Reshape", layer.swap(context, 0, 2, 3, 1), layer.whole(0, 0, WIDTH))


def _rows_of_all_texts(layer: _Layer, context: str) -> str:
    return layer.merge(context, -1, WIDTH)


def _rows_of_heads(layer: _Layer, context: str) -> str:
    return layer.merge(context, 0, -1, SIZE)


def _of_a_shape_of_rows(layer: _Layer, context: str) -> str:
    shape = layer.add("Concat", layer.whole(-1), layer.whole(WIDTH), axis=0)
    return layer.add("Reshape", layer.swap(context), shape)


def _of_a_shape_of_heads(layer: _Layer, context: str) -> str:
    shape = layer.add("Concat", layer.whole(TEXTS), layer.whole(-1), layer.whole(SIZE), axis=0)
    return layer.add("Reshape", layer.swap(context), shape)


def _of_a_shape_that_is_computed(layer: _Layer, context: str) -> str:
    shape = layer.add("Add", layer.whole(0, 0, WIDTH - 1), layer.whole(0, 0, 1))
    return layer.add("Reshape", layer.swap(context), shape)


def _two_merges(layer: _Layer, context: str) -> str:
    tokens = layer.swap(context)
    merged = [layer.add("Reshape", tokens, layer.whole(0, 0, last)) for last in (WIDTH, -1)]
    return layer.add("Add", *merged)


def _read_twice(layer: _Layer, context: str) -> str:
    return layer.add("Add", layer.add("ReduceMax", context), layer.merge(context))


@pytest.mark.parametrize(
    ("reads", "left"),
    [
        (_no_merge, (1, 2)),
        (_other_order, (2, 2)),
        (_rows_of_all_texts, (2, 2)),
        (_rows_of_heads, (2, 2)),
        (_of_a_shape_of_rows, (2, 2)),
        (_of_a_shape_of_heads, (2, 2)),
        (_of_a_shape_that_is_computed, (2, 2)),
        (_two_merges, (3, 2)),
        (_read_twice, (2, 2)),
    ],
)
def test_what_reads_heads_apart_gets_them_apart(reads: object, left: tuple[int, int]) -> None:
    assert callable(reads)
    layer = _Layer()
    layer.output(reads(layer, layer.context(layer.scores())))
    assert _shapes(_fused(layer.model)[0]) == left


def test_who_reads_tokens_beside_the_merge_gets_heads_apart_and_the_merge_does_not() -> None:
    layer = _Layer()
    tokens = layer.swap(layer.context(layer.scores()))
    layer.output(layer.add("Reshape", tokens, layer.whole(0, 0, WIDTH)))
    layer.output(layer.add("Neg", tokens), "second")
    model, attention = _fused(layer.model)
    assert _shapes(model) == (1, 2)
    graph = Graph(model)
    out = graph.producer("out", "Identity")
    assert out is not None
    assert out.input[0] == attention.output[0]


def test_a_context_that_is_an_output_stays_one() -> None:
    layer = _Layer()
    context = layer.context(layer.scores())
    layer.output(context, "second")
    layer.output(layer.merge(context))
    assert _shapes(_fused(layer.model)[0]) == (2, 2)


# What must not fuse -----------------------------------------------------------------------------------


def _unfused(layer: _Layer) -> None:
    assert changed(layer.model, FuseAttention(FEEDS))[1] == [0]


def test_scores_that_something_else_reads() -> None:
    layer = _Layer()
    scores = layer.scores()
    layer.output(layer.add("Neg", scores), "second")
    layer.output(layer.merge(layer.context(scores)))
    _unfused(layer)


def test_a_number_divided_by_the_scores() -> None:
    layer = _Layer()
    scores = layer.add("Div", layer.number(2.0), layer.scores())
    layer.output(layer.merge(layer.context(scores)))
    _unfused(layer)


def test_scores_of_a_weight() -> None:
    layer = _Layer()
    layer.key = layer.number(CHANCE.normal(size=(1, HEADS, SIZE, TOKENS)))
    layer.finish()
    _unfused(layer)


def test_values_that_stand_first() -> None:
    layer = _Layer()
    weights = layer.add("Softmax", layer.scores(), axis=-1)
    square = layer.add("MatMul", layer.query, layer.key)
    layer.output(layer.add("MatMul", square, weights))
    _unfused(layer)


def test_a_softmax_that_nothing_multiplies() -> None:
    layer = _Layer()
    layer.output(layer.add("Softmax", layer.scores(), axis=-1))
    _unfused(layer)


def test_a_softmax_of_something_else() -> None:
    layer = _Layer()
    layer.output(layer.merge(layer.context(layer.add("Sigmoid", layer.scores()))))
    _unfused(layer)


def test_heads_that_are_folded_into_the_batch() -> None:
    layer = _Layer()
    folded = layer.whole(TEXTS * HEADS, TOKENS, SIZE)
    layer.query, layer.value = (layer.add("Reshape", value, folded) for value in (layer.query, layer.value))
    layer.key = layer.add("Reshape", layer.key, layer.whole(TEXTS * HEADS, SIZE, TOKENS))
    layer.output(layer.context(layer.scores()))
    _unfused(layer)


@pytest.mark.parametrize("part", ["key", "value", "query"])
def test_one_head_that_all_share(part: str) -> None:
    layer = _Layer()
    if part == "query":
        layer.query = layer.add("ReduceMean", layer.query, layer.whole(1), keepdims=1)
    elif part == "key":
        layer.key = layer.add("ReduceMean", layer.key, layer.whole(1), keepdims=1)
    else:
        layer.value = layer.add("ReduceMean", layer.value, layer.whole(1), keepdims=1)
    layer.output(layer.context(layer.scores()))
    _unfused(layer)


def test_a_bias_of_fewer_dimensions() -> None:
    layer = _Layer()
    layer.output(layer.merge(layer.context(layer.add("Add", layer.scores(), layer.number(RELATIVE[0])))))
    _unfused(layer)


# The contract -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "feeds",
    [
        {"input_ids": IDS[:, :2], "attention_mask": np.ones((2, 2), np.int64)},
        {"input_ids": IDS, "attention_mask": np.eye(TEXTS, TOKENS, dtype=np.int64)},
    ],
    ids=["as many tokens as texts", "padded"],
)
def test_shapes_must_tell_texts_from_tokens(feeds: dict[str, np.ndarray]) -> None:
    with pytest.raises(GraphError, match="the small run is padded, or of as many texts as tokens"):
        run([FuseAttention(feeds)], Graph(_Layer().finish()))


def test_attention_reads_queries_keys_values_and_at_most_a_bias() -> None:
    model, attention = _fused(_Layer().finish())
    require_attentions(Graph(model))
    graph = Graph(model)
    assert attention_inputs(graph, attention.output[0]) == tuple(attention.input)
    assert attention_inputs(graph, attention.input[0]) is None
    assert attention_inputs(graph, "input_ids") is None
    query = attention.input[0]
    for more, allowed in (
        ([""], False),
        (["", "", query], True),
        (["", query], False),
        (["", "", ""], False),
    ):
        del attention.input[3:]
        attention.input.extend(more)
        if allowed:
            require_attentions(Graph(model))
        else:
            with pytest.raises(BrokenContractError, match="reads more than queries, keys, values and a bias"):
                require_attentions(Graph(model))
