"""The form of a graph for a GPU, where each addition is a pass over all token vectors and a launch.

- A key bias adds the same number to all scores of a query, and softmax does not change by it: it goes.
- The weights of a query sum to 1, so a value bias comes out of attention as it went in: multiplied by the
  next product's weights, it is added to that product's bias.
- A product's bias and the residual are added by the layer normalization behind them
  (`SkipLayerNormalization`). ONNX Runtime finds that by itself only where it knows that shapes are equal,
  which positions cut to the length of a text hide from it.

The file keeps its weights as they are: this changes only what ONNX Runtime is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bertonnx.runtime.modelfile import wire
from bertonnx.runtime.modelfile.wire import (
    Readable,
    Span,
    extents,
    fields,
    message,
    number_at,
    number_field,
    numbers_at,
)

__all__ = ["device_form"]

_ATTENTION = b"MultiHeadAttention"
_KEY, _VALUE = 1, 2  # its inputs
_MICROSOFT = b"com.microsoft"

_INPUT, _OUTPUT, _NAME, _OP, _ATTRIBUTE, _DOMAIN = 1, 2, 3, 4, 5, 7  # NodeProto
_SUBGRAPH = 6  # AttributeProto
_DIMENSIONS = 1  # TensorProto
_DTYPES: Mapping[int, np.dtype[np.floating]] = {1: np.dtype("<f4"), 10: np.dtype("<f2")}

Floats = npt.NDArray[np.floating]


@dataclass
class _Node:
    """A node of the graph, or of a branch; `attentions` are those in its branches."""

    op: bytes = b""
    name: bytes = b""
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    attentions: list[_Node] = field(default_factory=list)
    attributes: dict[bytes, bytes] = field(default_factory=dict)


def device_form(model: bytes, file: Readable) -> bytes | None:
    """Return the model in the form for a GPU; None where there is nothing to change.

    Args:
        model: the bytes of a `ModelProto`, its large weights elsewhere (`mapped.without_weights`).
        file: what these lie in.
    """
    for number, whole, span in extents(model, (0, len(model))):
        if number == wire.GRAPH:
            graph = _Graph(model, span, file)
            graph.fold()
            graph.join()
            if not graph.replaced:
                return None
            return model[: whole[0]] + message(wire.GRAPH, b"".join(graph.written())) + model[whole[1] :]
    return None


class _Graph:
    """One graph, read once, and what of it is replaced.

    Attributes:
        replaced: outputs of nodes -> the nodes that stand in their place.
    """

    def __init__(self, model: bytes, span: Span, file: Readable) -> None:
        self._model, self._span, self._file = model, span, file
        self._uses: Counter[bytes] = Counter()
        self._tensors: dict[bytes, Span] = {}
        self._made: dict[bytes, _Node] = {}
        self._readers: dict[bytes, list[_Node]] = {}
        self._attentions: dict[bytes, list[_Node]] = {}
        self.replaced: dict[bytes, bytes] = {}
        self._added: list[bytes] = []
        self._moved: dict[bytes, tuple[bytes, bytes]] = {}
        self._gone: set[bytes] = set()
        for number, content in fields(model, span):
            if number == wire.INITIALIZER:
                self._tensors[self._name_of(content)] = content
            elif number == wire.OUTPUT:
                self._uses[self._text(content, 1)] += 1
            elif number == wire.NODE:
                self._add(self._node(content))

    def fold(self) -> None:
        """Find what can be taken out."""
        for output, attentions in self._attentions.items():
            keys, values = ({node.inputs[place] for node in attentions} for place in (_KEY, _VALUE))
            if len(keys) == 1:
                self._drop(keys.pop(), len(attentions))
            if len(values) == 1:
                self._move(values.pop(), output, len(attentions))

    def join(self) -> None:
        """Let layer normalizations behind a residual add a product's bias and the residual themselves."""
        for node in list(self._made.values()):
            if node.op != b"LayerNormalization" or len(node.inputs) != 3 or len(node.outputs) != 1:
                continue
            total = self._made.get(node.inputs[0])
            if total is None or total.op != b"Add" or self._uses[total.outputs[0]] != 1:
                continue
            for product, residual in (total.inputs, total.inputs[::-1]):
                parts = self._product(product)
                # Of the same shape, which only equal ways of being made tell.
                if parts is not None and self._op_of(residual) == b"LayerNormalization":
                    source, bias = parts
                    inputs = [source, residual, *node.inputs[1:], *([bias] if bias else [])]
                    epsilon = node.attributes.get(b"epsilon", b"")
                    self.replaced[node.outputs[0]] = _written(
                        "SkipLayerNormalization", inputs, node.outputs[0], epsilon, domain=_MICROSOFT
                    )
                    self._gone |= {total.outputs[0]} | ({product} - {source})
                    break

    def _product(self, name: bytes) -> tuple[bytes, bytes] | None:
        """Return a product and the bias that is added to it, b"" for none, where the sum is read once."""
        if self._op_of(name) == b"MatMul" and self._uses[name] == 1:
            return name, b""
        if name in self._moved and self._uses[name] == 1:
            return self._moved[name]
        found = self._biased(name, 1)
        return found if found is not None and self._op_of(found[0]) == b"MatMul" else None

    def _op_of(self, name: bytes) -> bytes:
        node = self._made.get(name)
        return node.op if node is not None else b""

    def written(self) -> Iterator[bytes]:
        """Yield the graph's fields as they are now."""
        for number, whole, content in extents(self._model, self._span):
            if number == wire.NODE:
                outputs = [
                    self._model[slice(*span)] for n, span in fields(self._model, content) if n == _OUTPUT
                ]
                if outputs and outputs[0] in self._gone:
                    continue
                if outputs and outputs[0] in self.replaced:
                    yield self.replaced[outputs[0]]
                    continue
            yield self._model[slice(*whole)]
        yield from self._added

    def _drop(self, key: bytes, readers: int) -> None:
        """Let a key be itself without its bias."""
        found = self._biased(key, readers)
        if found is not None:
            self.replaced[key] = _written("Identity", [found[0]], key)

    def _move(self, value: bytes, output: bytes, readers: int) -> None:
        """Let a value be itself without its bias, which goes to the bias of the product behind attention."""
        found, product = self._biased(value, readers), self._reader(output, b"MatMul")
        if found is None or product is None or product.inputs[0] != output:
            return
        behind = self._reader(product.outputs[0], b"Add")
        if behind is None:
            return
        _, name = found
        other = next((i for i in behind.inputs if i != product.outputs[0]), b"")
        bias, weight, rest = (self._numbers(part) for part in (name, product.inputs[1], other))
        if bias is None or weight is None or rest is None or weight.ndim != 2 or rest.ndim != 1:
            return
        if bias.shape != weight.shape[:1] or rest.shape != weight.shape[1:]:
            return
        # In float64, so that the sum is rounded once.
        moved = (rest + bias.astype(np.float64) @ weight.astype(np.float64)).astype(rest.dtype)
        # By the sum, for layers may share a bias.
        made = behind.outputs[0] + b"/with value bias"
        self._added.append(message(wire.INITIALIZER, _tensor(made, moved)))
        self.replaced[value] = _written("Identity", [found[0]], value)
        self._moved[behind.outputs[0]] = (product.outputs[0], made)
        self.replaced[behind.outputs[0]] = _written("Add", [product.outputs[0], made], behind.outputs[0])

    def _biased(self, name: bytes, readers: int) -> tuple[bytes, bytes] | None:
        """Return what a bias is added to and the bias, where nothing but attention reads the sum."""
        node = self._made.get(name)
        if node is None or node.op != b"Add" or self._uses[name] != readers:
            return None
        biases = [i for i in node.inputs if i in self._tensors]
        others = [i for i in node.inputs if i not in self._tensors]
        if len(biases) != 1 or len(others) != 1:
            return None
        numbers = self._numbers(biases[0])
        # One that differs from token to token is no bias.
        return (others[0], biases[0]) if numbers is not None and numbers.ndim == 1 else None

    def _reader(self, name: bytes, op: bytes) -> _Node | None:
        """Return the one node that reads a value, if it is of this operator."""
        readers = self._readers.get(name, [])
        return readers[0] if self._uses[name] == 1 and len(readers) == 1 and readers[0].op == op else None

    def _add(self, node: _Node) -> None:
        for output in node.outputs:
            self._made[output] = node
        for name in node.inputs:
            self._uses[name] += 1
            self._readers.setdefault(name, []).append(node)
        attentions = [node] if node.op == _ATTENTION else node.attentions
        if attentions and len(node.outputs) == 1:
            self._attentions[node.outputs[0]] = attentions

    def _node(self, span: Span) -> _Node:
        node = _Node()
        for number, content in fields(self._model, span):
            if number in (_INPUT, _OUTPUT):
                (node.inputs if number == _INPUT else node.outputs).append(self._model[slice(*content)])
            elif number == _OP:
                node.op = self._model[slice(*content)]
            elif number == _ATTRIBUTE:
                node.attributes[self._text(content, 1)] = self._model[slice(*content)]
                for graph in (part for n, part in fields(self._model, content) if n == _SUBGRAPH):
                    self._branch(node, graph)
        return node

    def _branch(self, node: _Node, graph: Span) -> None:
        """Read a branch of a node: what it uses from outside, and its attention."""
        for inner in (self._node(part) for number, part in fields(self._model, graph) if number == wire.NODE):
            self._uses.update(inner.inputs)
            node.attentions += [inner] if inner.op == _ATTENTION else inner.attentions

    def _text(self, span: Span, number: int) -> bytes:
        return next((self._model[slice(*part)] for n, part in fields(self._model, span) if n == number), b"")

    def _name_of(self, tensor: Span) -> bytes:
        return self._text(tensor, wire.NAME)

    def _numbers(self, name: bytes) -> Floats | None:
        """Return an initializer's numbers; None where they are neither float16 nor float32, or elsewhere."""
        if name not in self._tensors:
            return None
        shape: list[int] = []
        raw: bytes | memoryview | None = None
        dtype = None
        entries: dict[bytes, bytes] = {}
        for number, content in fields(self._model, self._tensors[name]):
            if number == _DIMENSIONS:
                shape += numbers_at(self._model, content)
            elif number == wire.DATA_TYPE:
                dtype = _DTYPES.get(number_at(self._model, content))
            elif number == wire.RAW:
                raw = self._model[slice(*content)]
            elif number == wire.EXTERNAL:
                entries[self._text(content, 1)] = self._text(content, 2)
        if dtype is None:
            return None
        if raw is None and b"offset" in entries:
            start, size = int(entries[b"offset"]), int(entries[b"length"])
            raw = self._file[start : start + size]
        if raw is None or len(raw) != dtype.itemsize * int(np.prod(shape)):
            return None
        return np.frombuffer(raw, dtype).reshape(shape)


def _written(
    op: str, inputs: Sequence[bytes], output: bytes, *attributes: bytes, domain: bytes = b""
) -> bytes:
    parts = [*(message(_INPUT, name) for name in inputs), message(_OUTPUT, output)]
    parts += [message(_NAME, output + b"/node"), message(_OP, op.encode())]
    parts += [message(_ATTRIBUTE, attribute) for attribute in attributes if attribute]
    return message(wire.NODE, b"".join([*parts, message(_DOMAIN, domain)] if domain else parts))


def _tensor(name: bytes, array: Floats) -> bytes:
    code = next(code for code, dtype in _DTYPES.items() if dtype == array.dtype)
    dimensions = b"".join(number_field(_DIMENSIONS, size) for size in array.shape)
    kind = number_field(wire.DATA_TYPE, code)
    return dimensions + kind + message(wire.NAME, name) + message(wire.RAW, array.tobytes())
