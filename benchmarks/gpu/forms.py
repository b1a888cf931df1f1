"""One batch in the forms that its graph can take: as in the file, as bertonnx loads it, with other attention
kernels, replayed as a CUDA graph; and texts of many lengths packed, against a batch for each length."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import common
from bertonnx.runtime.modelfile.device_form import device_form
from bertonnx.runtime.modelfile.unpadded import assume_unpadded
from bertonnx.runtime.opening import opened
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.session.cuda_options import CUDA, prepared, provider_options
from bertonnx.runtime.session.ort_session import options_for
from bertonnx.runtime.session.session import SessionOptions, import_onnxruntime
from gpu.recipe import SHAPES
from peers.texts import LONGEST, SHORTEST_PASSAGE, useful_flops

__all__ = ["forms"]

BATCHES = ((1, 16), (1, 128), (1, 512), (64, 16), (8, 128), (256, 64), (64, 256), (32, 512), (128, 256))
PACKED = (2048, 16_384, 65_536)
REPLAYED = 4096
CUDNN = "255"
"""All attention kernels of ONNX Runtime, of which cuDNN's comes first."""


def forms(models: Sequence[str], options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Yield a table for every model, in fp16."""
    yield "## Forms of one batch"
    for name in models:
        path = work / f"{name}-fp16.onnx"
        yield f"### {name}"
        yield _table(name, path, options)
        if options.device == "cuda":
            yield _packed(name, path, options)


def _table(name: str, path: Path, options: argparse.Namespace) -> str:
    plain, better = _graph(path, better=False), _graph(path, better=True)
    sessions = {
        "as the file": _session(plain, options),
        "as loaded": _session(better, options),
        "as loaded, cuDNN's attention": _session(better, options, sdpa_kernel=CUDNN),
    }
    _, _, replaying = opened(path, LoadOptions(provider=options.device))
    shape, rows = SHAPES[name], []
    for texts, length in BATCHES[:2] if options.rehearse else BATCHES:
        flops = useful_flops([length] * texts, layers=shape.layers, width=shape.width, inner=shape.inner)
        cells = []
        for session in sessions.values():
            feeds = _feeds(session, texts, length)
            seconds = _seconds(partial(session.run, None, feeds))
            cells.append(f"{1e3 * seconds:.2f} ms, {flops / seconds / 1e12:.0f} TFLOP/s")
        if texts * length <= REPLAYED:
            feeds = _feeds(sessions["as loaded"], texts, length)
            seconds = _seconds(partial(replaying.run, replaying.outputs, feeds, alone=True))
            cells.append(f"{1e3 * seconds:.2f} ms")
        else:
            cells.append("")
        rows.append((f"{texts} x {length}", *cells))
    return common.table(("texts x tokens", *sessions, "replayed"), rows)


def _packed(name: str, path: Path, options: argparse.Namespace) -> str:
    graph, last = _unpadded_at_all(onnx.load_from_string(_graph(path, better=True)), SHAPES[name].width)
    together = _session(graph.SerializeToString(), options)
    by_length = _session(_graph(path, better=True), options)
    dice, rows = np.random.default_rng(0), []
    for tokens in PACKED:
        lengths: list[int] = []
        while sum(lengths) < tokens:
            lengths.append(int(dice.integers(SHORTEST_PASSAGE, LONGEST + 1)))
        binding = together.io_binding()
        for key, array in _packed_feeds(together, lengths, dice).items():
            binding.bind_cpu_input(key, array)
        binding.bind_output(last, "cuda", 0)  # where the next kernel would find it
        batches = [_feeds(by_length, count, length) for length, count in Counter(lengths).items()]
        packed = _seconds(partial(together.run_with_iobinding, binding))
        apart = _seconds(partial(_all, by_length, batches))
        rows.append(
            (len(lengths), sum(lengths), f"{1e3 * packed:.2f} ms", len(batches), f"{1e3 * apart:.2f} ms")
        )
    header = ("texts", "tokens", "packed, without a head", "lengths", "a batch for each length")
    return common.table(header, rows)


def _all(session: Any, batches: Sequence[Any]) -> None:
    for feeds in batches:
        session.run(None, feeds)


def _graph(path: Path, *, better: bool) -> bytes:
    """Return the graph as the runtime gives it to ONNX Runtime, or without its changes but for padding."""
    model = onnx.load(str(path))
    del model.metadata_props[:]
    plain = model.SerializeToString()
    plain = assume_unpadded(plain) or plain
    return (device_form(plain, b"") or plain) if better else plain


def _session(model: bytes, options: argparse.Namespace, **more: str) -> Any:
    ort = import_onnxruntime()
    if options.device == "cpu":
        return ort.InferenceSession(model, options_for(ort), providers=["CPUExecutionProvider"])
    chosen = {**provider_options(SessionOptions()), **more}
    with prepared(ort):
        return ort.InferenceSession(
            model, options_for(ort), providers=[(CUDA, chosen), "CPUExecutionProvider"]
        )


def _feeds(session: Any, texts: int, length: int) -> dict[str, Any]:
    ids = np.random.default_rng(texts).integers(1000, 20_000, (texts, length))
    made = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {item.name: made[item.name] for item in session.get_inputs()}


def _packed_feeds(session: Any, lengths: Sequence[int], dice: np.random.Generator) -> dict[str, Any]:
    """Return what `PackedMultiHeadAttention` needs: tokens, where texts start, and what is padding."""
    total, longest = sum(lengths), max(lengths)
    real = np.arange(longest)[None] < np.array(lengths)[:, None]
    places = np.arange(real.size).reshape(real.shape)
    ids = dice.integers(1000, 20_000, (1, total))
    made: Mapping[str, Any] = {
        "input_ids": ids,
        "token_type_ids": np.zeros_like(ids),
        "positions": np.concatenate([np.arange(length) for length in lengths])[None],
        "token_offset": np.concatenate([places[real], places[~real]]).reshape(real.shape).astype(np.int32),
        "starts": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
    }
    return {item.name: made[item.name] for item in session.get_inputs()}


def _unpadded_at_all(model: onnx.ModelProto, width: int) -> tuple[onnx.ModelProto, str]:
    """Return the graph for texts one after the other in one row, up to its last layer, and its name."""
    graph, nodes, last = model.graph, [], ""
    for name, shape in (("in rows", [-1, width]), ("in one text", [1, -1, width])):
        graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
    for node in _without_branches(graph):
        if node.op_type == "MultiHeadAttention":
            heads = next(attribute.i for attribute in node.attribute if attribute.name == "num_heads")
            flat = [f"{name}/flat" for name in node.input[:3]]
            nodes += [
                helper.make_node("Reshape", [a, "in rows"], [b])
                for a, b in zip(node.input, flat, strict=False)
            ]
            inputs = [*flat, "", "token_offset", "starts"]
            made = f"{node.output[0]}/flat"
            nodes.append(
                helper.make_node(
                    "PackedMultiHeadAttention", inputs, [made], domain="com.microsoft", num_heads=heads
                )
            )
            nodes.append(helper.make_node("Reshape", [made, "in one text"], [node.output[0]]))
            continue
        if node.op_type == "Gather" and "position_embeddings" in node.input[0]:
            node.input[1] = "positions"
        nodes.append(node)
        if node.op_type.endswith("LayerNormalization"):
            last = node.output[0]
    _keep(graph, nodes, last)
    return model, last


def _without_branches(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        if node.op_type != "If":
            yield node
            continue
        way = next(attribute.g for attribute in node.attribute if attribute.name == "then_branch")
        graph.initializer.extend(way.initializer)
        renamed = {output.name: node.output[place] for place, output in enumerate(way.output)}
        for inner in way.node:
            inner.output[:] = [renamed.get(name, name) for name in inner.output]
            yield inner


def _keep(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], last: str) -> None:
    """Let a graph be the nodes that its new output needs, with the inputs that a packed row has."""
    needed, kept = {last}, []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:], graph.output[:]
    graph.node.extend(kept[::-1])
    graph.output.append(helper.make_tensor_value_info(last, TensorProto.FLOAT16, None))
    for name, kind, shape in (
        ("token_offset", TensorProto.INT32, ["texts", "longest"]),
        ("starts", TensorProto.INT32, ["ends"]),
        ("positions", TensorProto.INT64, ["one", "tokens"]),
    ):
        graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    for item in [item for item in graph.input if item.name not in needed]:
        graph.input.remove(item)


def _seconds(work: Callable[[], object], runs: int = 12) -> float:
    for _ in range(4):
        work()
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return common.median(seconds)
