"""What in a graph mixes tokens, and what does the same to each of them, whatever text it is of.

Every value is of a kind, found from the inputs on by rules for operators. An operator without a rule mixes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bertonnx.runtime.modelfile import wire
from bertonnx.runtime.modelfile.nodes import FLOAT16, INT64, Node, read_node, text_at
from bertonnx.runtime.modelfile.wire import Span, fields, number_at, numbers_at

__all__ = ["ATTENTION", "Graph", "Kind", "UnknownGraphError", "for_all_tokens"]

ATTENTION = b"MultiHeadAttention"

_CONDITION = b"no_padding"
"""The value that every `If` around an attention asks for, as the exporter names it."""

_INPUTS = {b"input_ids", b"attention_mask", b"token_type_ids", b"pooling_mask"}

_DIMENSIONS, _INT64_DATA = 1, 7  # TensorProto

_SAME = frozenset(
    b"Abs Add Cast Ceil Clip Div Equal Floor Greater Identity Less Max Min Mul Neg Not Reciprocal Relu Round "
    b"Sqrt Sub Where".split()
)
"""Operators that do the same to every number, or to numbers at the same place, exactly rounded."""

_CURVED = frozenset(b"BiasGelu Erf Exp FastGelu Gelu Log Pow QuickGelu Sigmoid Tanh".split())
_AT_ONCE = 16
"""Functions that are computed for so many numbers at once, and for what is left at the end in another way: a
token's numbers must not be of both, whatever lies before them."""

_OVER_WIDTH = frozenset(b"ReduceMax ReduceMin ReduceSum ReduceMean ReduceL2".split())
_NORMALIZATION = frozenset(b"LayerNormalization SimplifiedLayerNormalization SkipLayerNormalization".split())
_PRODUCT = frozenset(b"MatMul MatMulIntegerToFloat".split())
_SOFTMAX = frozenset(b"Softmax LogSoftmax".split())


class UnknownGraphError(Exception):
    """The graph has something that these rules do not know at all."""


class Kind(NamedTuple):
    """What a value's first dimensions are.

    Attributes:
        of: "fixed" depends on no input; "tokens" is of shape (texts, tokens, ...) and "rows" of
            (texts x tokens, ...), each token's numbers made of that token alone; "shape" and "count" are the
            shapes of such values; "other" may be anything.
        rest: the sizes of the dimensions behind those, and all of them for what is fixed; None where they
            are not known.
    """

    of: str
    rest: tuple[int, ...] | None = None

    @property
    def vectors(self) -> bool:
        """Whether it is a vector for each token."""
        return self.of == "tokens" and self.rest is not None and len(self.rest) == 1

    @property
    def mixes(self) -> bool:
        """Whether it must be computed for texts of each length by itself."""
        return self.of in ("other", "shape", "count")


def for_all_tokens(name: bytes) -> bytes:
    """Return the name of what a lookup gives for all tokens of all texts."""
    return name + b"/for all tokens"


_OTHER, _UNKNOWN, _IDS, _NUMBERS = Kind("other"), Kind("fixed"), Kind("tokens", ()), Kind("rows", ())


class Graph:
    """One graph, read once.

    Attributes:
        nodes: in order.
        inputs: names of the inputs, in order.
        outputs: name -> ValueInfoProto.
        attentions: outputs of attentions that are of one text each where nothing is padded.
        lookups: outputs of nodes that take rows of a table for every token, by numbers that depend on which
            tokens are a text: positions. What adds them to the tokens reads `for_all_tokens` of them instead.

    Args:
        model: the bytes of a `ModelProto`.
        span: where in them the graph is.

    Raises:
        UnknownGraphError: it is none that the exporter makes, or its nodes are not in order.
    """

    def __init__(self, model: bytes, span: Span) -> None:
        self._model = model
        self._fixed: dict[bytes, Span] = {}
        self._kinds: dict[bytes, Kind] = {}
        self.nodes: list[Node] = []
        self.inputs: list[bytes] = []
        self.outputs: dict[bytes, bytes] = {}
        self.attentions: set[bytes] = set()
        self.lookups: set[bytes] = set()
        self._read(span)
        if not _INPUTS.issuperset(self.inputs) or self._kinds.keys() & set(self.inputs):
            raise UnknownGraphError
        self._kinds.update(dict.fromkeys(self.inputs, _IDS))
        self._classify()

    @property
    def names(self) -> Iterable[bytes]:
        """The names of all values."""
        return self._kinds.keys()

    def kind(self, name: bytes) -> Kind:
        """Return what a value is."""
        return self._kinds.get(name, _OTHER)

    def copied(self, results: Iterable[bytes]) -> list[Node]:
        """Return the nodes that values come from, as far back as tokens are mixed, in order."""
        wanted, found = set(results), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs) and self.kind(node.outputs[0]).mixes:
                found.append(node)
                wanted.update(node.read())
        return found[::-1]

    def leaves(self, results: Iterable[bytes]) -> list[bytes]:
        """Return what those nodes, or the results themselves, are of tokens."""
        results = list(results)
        read = [*results, *(name for node in self.copied(results) for name in node.read())]
        return [name for name in dict.fromkeys(read) if self.kind(name).of in ("tokens", "rows")]

    def _read(self, span: Span) -> None:
        try:
            for number, content in fields(self._model, span):
                if number == wire.INITIALIZER:
                    name = text_at(self._model, content, wire.NAME)
                    self._fixed[name] = content
                    self._kinds[name] = Kind("fixed", self._dimensions(content))
                elif number == wire.INPUT:
                    self.inputs.append(text_at(self._model, content, 1))
                elif number == wire.OUTPUT:
                    self.outputs[text_at(self._model, content, 1)] = self._model[slice(*content)]
                elif number == wire.NODE:
                    node = read_node(self._model, content)
                    if not node.outputs:
                        raise UnknownGraphError
                    self.nodes.append(node)
        except LookupError as error:
            raise UnknownGraphError from error

    def _dimensions(self, tensor: Span) -> tuple[int, ...]:
        found: list[int] = []
        for number, content in fields(self._model, tensor):
            if number == _DIMENSIONS:
                found += numbers_at(self._model, content)
            elif number == wire.DATA_TYPE and number_at(self._model, content) == FLOAT16:
                raise UnknownGraphError  # made for a GPU
        return tuple(found)

    def _integers(self, name: bytes) -> list[int] | None:
        """Return what is in a fixed value of int64 with one dimension; None where it is no such value."""
        kind = self.kind(name)
        if name not in self._fixed or kind.rest is None or len(kind.rest) != 1:
            return None
        raw, numbers, is_int64 = b"", list[int](), False
        for number, content in fields(self._model, self._fixed[name]):
            if number == wire.DATA_TYPE:
                is_int64 = number_at(self._model, content) == INT64
            elif number == wire.RAW:
                raw = self._model[slice(*content)]
            elif number == _INT64_DATA:
                numbers += [each - (each >> 63 << 64) for each in numbers_at(self._model, content)]
        if not is_int64 or len(raw) % 8:
            return None
        numbers += np.frombuffer(raw, "<i8").tolist()
        return numbers if len(numbers) == kind.rest[0] else None

    def _classify(self) -> None:
        for place, node in enumerate(self.nodes):
            if any(name not in self._kinds for name in node.read()):
                raise UnknownGraphError  # out of order, as ONNX Runtime takes a graph but not a loop
            if len(node.outputs) != 1:
                self._kinds.update(dict.fromkeys(node.outputs, _OTHER))
                continue
            (output,) = node.outputs
            # Where they are added, each token has its own again.
            if node.op == b"Add" and any(self.kind(name).vectors for name in node.inputs):
                inputs = [self._of_all_tokens(name) for name in node.inputs]
                if inputs != node.inputs:
                    node = self.nodes[place] = replace(node, inputs=inputs, raw=b"")
            kind = self._kinds[output] = self._kind_of(node)
            width = self._looks_up(node) if kind == _OTHER else 0
            if width:
                self.lookups.add(output)
                self._kinds[for_all_tokens(output)] = Kind("tokens", (width,))

    def _of_all_tokens(self, name: bytes) -> bytes:
        other = for_all_tokens(name)
        return other if other in self._kinds else name

    def _kind_of(self, node: Node) -> Kind:
        if node.branches:
            return self._attention(node)
        kinds = [self.kind(name) for name in node.inputs if name]
        if all(kind.of == "fixed" for kind in kinds):
            return _UNKNOWN
        rule, inputs = _RULES.get(node.op), _INPUTS_OF.get(node.op)
        if inputs is not None and len(kinds) != inputs:
            return _OTHER
        return (rule(self, node, kinds) if rule is not None else None) or _OTHER

    def _attention(self, node: Node) -> Kind:
        """Return what attention gives where nothing is padded, if that is of the tokens of a text alone."""
        then = node.branches.get(b"then_branch")
        if node.op != b"If" or node.inputs != [_CONDITION] or then is None or len(then.nodes) != 1:
            return _OTHER
        (inner,) = then.nodes
        if inner.op != ATTENTION or len(inner.inputs) != 3 or len(inner.outputs) != 1:
            return _OTHER
        query, key, result = (self.kind(name) for name in inner.inputs)
        if not query.vectors or not result.vectors or query != key:
            return _OTHER
        self.attentions.add(node.outputs[0])
        return result

    def _looks_up(self, node: Node) -> int:
        """Return the width of the table whose rows a node takes, by numbers that are of no kind; else 0."""
        if node.op != b"Gather" or len(node.inputs) != 2 or node.integer(b"axis", 0) != 0:
            return 0
        table, ids = (self.kind(name) for name in node.inputs)
        if table.of != "fixed" or table.rest is None or len(table.rest) != 2 or ids != _OTHER:
            return 0
        return table.rest[1]

    # A rule for each operator: of what kind its output is; None for other.

    def _same(self, node: Node, kinds: list[Kind]) -> Kind | None:
        of, rest = next(kind for kind in kinds if kind.of != "fixed")
        if of not in ("tokens", "rows") or rest is None:
            return None
        shapes = []
        for kind in kinds:
            if kind.rest is None or kind.of not in ("fixed", of):
                return None
            if kind.of == "fixed":
                # It must be the same for all tokens.
                place = max(0, len(kind.rest) - len(rest))
                if place > (2 if of == "tokens" else 1) or any(size != 1 for size in kind.rest[:place]):
                    return None
                shapes.append(kind.rest[place:])
            elif len(kind.rest) != len(rest):
                return None
            else:
                shapes.append(kind.rest)
        try:
            made = Kind(of, np.broadcast_shapes(*shapes))
        except ValueError:
            return None
        if node.op in _CURVED and (not made.rest or made.rest[-1] % _AT_ONCE):
            return None
        return made

    def _reduced(self, node: Node, kinds: list[Kind]) -> Kind | None:
        if len(node.inputs) != 2 or not kinds[0].vectors or node.integer(b"keepdims", 1) != 1:
            return None
        return Kind("tokens", (1,)) if self._integers(node.inputs[1]) in ([-1], [2]) else None

    def _normalized(self, node: Node, kinds: list[Kind]) -> Kind | None:
        first = kinds[0]
        if not first.vectors or node.integer(b"axis", -1) not in (-1, 2):
            return None
        return first if all(kind in (first, Kind("fixed", first.rest)) for kind in kinds[1:]) else None

    def _product(self, _: Node, kinds: list[Kind]) -> Kind | None:
        (of, rest), weight = kinds[0], kinds[1] if len(kinds) > 1 else _OTHER
        if of not in ("tokens", "rows") or any(kind.of != "fixed" for kind in kinds[1:]):
            return None
        if rest is None or weight.rest is None or len(weight.rest) != 2 or rest != weight.rest[:1]:
            return None
        return Kind(of, weight.rest[1:])

    def _softmax(self, node: Node, kinds: list[Kind]) -> Kind | None:
        return kinds[0] if kinds[0].vectors and node.integer(b"axis", -1) in (-1, 2) else None

    def _gathered(self, node: Node, kinds: list[Kind]) -> Kind | None:
        table, ids = kinds
        if table.of != "fixed" or ids != _IDS or node.integer(b"axis", 0) != 0:
            return None
        return Kind("tokens", table.rest[1:]) if table.rest is not None and len(table.rest) == 2 else None

    def _reshaped(self, node: Node, kinds: list[Kind]) -> Kind | None:
        data, shape = kinds
        if data.rest is None or node.integer(b"allowzero", 0):
            return None
        if data.of == "tokens" and shape.of == "fixed":
            wanted = self._integers(node.inputs[1])
            if wanted == [-1, *data.rest]:
                return Kind("rows", data.rest)
            return _NUMBERS if wanted == [-1] and data.rest == (1,) else None
        back = data.of == "rows" and shape == Kind("shape", data.rest)
        return Kind("tokens", data.rest) if back else None

    def _shaped(self, node: Node, kinds: list[Kind]) -> Kind | None:
        (kind,) = kinds
        if node.plain:
            return None
        return Kind("shape", kind.rest) if kind.vectors else Kind("count") if kind == _NUMBERS else None

    def _expanded(self, _: Node, kinds: list[Kind]) -> Kind | None:
        one = kinds[0].of == "fixed" and kinds[0].rest in ((), (1,))
        return _NUMBERS if one and kinds[1].of == "count" else None

    def _quantized(self, node: Node, kinds: list[Kind]) -> Kind | None:
        first, *steps = kinds
        if first.of not in ("tokens", "rows") or first.rest is None:
            return None
        if all(kind == Kind("fixed", ()) for kind in steps):
            return first
        by_row = first.of == "rows" and len(first.rest) == 1 and node.integer(b"axis", 1) == 0
        return first if by_row and all(kind == _NUMBERS for kind in steps) else None


_INPUTS_OF = {b"Gather": 2, b"Reshape": 2, b"Shape": 1, b"Expand": 2}
"""How many inputs a rule takes, where it takes no other number."""

_RULES: dict[bytes, Callable[[Graph, Node, list[Kind]], Kind | None]] = {
    **dict.fromkeys(_SAME | _CURVED, Graph._same),
    **dict.fromkeys(_OVER_WIDTH, Graph._reduced),
    **dict.fromkeys(_NORMALIZATION, Graph._normalized),
    **dict.fromkeys(_PRODUCT, Graph._product),
    **dict.fromkeys(_SOFTMAX, Graph._softmax),
    b"Gather": Graph._gathered,
    b"Reshape": Graph._reshaped,
    b"Shape": Graph._shaped,
    b"Expand": Graph._expanded,
    b"QuantizeLinear": Graph._quantized,
}
