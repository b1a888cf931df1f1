"""A worker that mutates one model file: results, or an error of ours, and nothing else.

    python tests/fuzz/models.py FOLDER FIRST LAST

FOLDER may hold the file, `model.onnx`; else a tiny one is exported. A line for each seed.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bertonnx
from bertonnx.errors import BertonnxError
from bertonnx.models.card import CARD_KEY, GOLDEN_KEY, TOKENIZER_KEY
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.modelfile.wire import extents, fields, message

METADATA, GRAPH = 14, 7

TEXTS = ["one text", "", "another, longer text " * 40, "語" * 300, "e\u0301\u200b👩‍👩‍👧"]

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, "", "x", "\ud800", "\x1b[31m", [], {}),
    *([[]], {"a": 1}, ["a"] * 1000, "[" * 5000, [None], {"": {}}),
)


def main() -> None:
    folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    model = folder / "model.onnx"
    if not model.exists():
        _export(model)
    whole = model.read_bytes()
    path = folder / "mutated.onnx"
    for seed in range(first, last):
        chance = random.Random(seed)
        path.write_bytes(chance.choice(_MUTATIONS)(whole, chance))
        print(seed, _outcome(path, chance), flush=True)


def _export(model: Path) -> None:
    from tests.tiny import save_tiny  # torch, which a file that is there makes needless

    source = save_tiny(model.parent / "checkpoint", task="text-classification", labels=("bad", "good"))
    bertonnx.export(source, model)


def _outcome(path: Path, chance: random.Random) -> str:
    said = []
    for action in chance.sample(_ACTIONS, 2):
        try:
            action(path)
        except BertonnxError as error:
            str(error)
            said.append(type(error).__name__)
        except BaseException as error:
            return f" TRACEBACK {type(error).__name__}: {str(error)[:300]!r} of {action.__name__}"
        else:
            said.append("ok")
    return ", ".join(said)


def _predict(path: Path) -> None:
    with bertonnx.load(path, "cpu", 1) as model:
        list(model.predict(TEXTS))


def _check(path: Path) -> None:
    bertonnx.check(path, "cpu")


def _info(path: Path) -> None:
    file = read_model_file(path)
    json.dumps(file.card.as_dict())
    file.golden  # noqa: B018  (it is read when it is asked for)


_ACTIONS: list[Callable[[Path], None]] = [_predict, _check, _info]


def _bytes(whole: bytes, chance: random.Random) -> bytes:
    """Change, put in or take out some bytes anywhere."""
    data = bytearray(whole)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(data))
        kind = chance.randrange(3)
        if kind == 0:
            data[place] = chance.randrange(256)
        elif kind == 1:
            data[place:place] = chance.randbytes(chance.randint(1, 4))
        else:
            del data[place : place + chance.randint(1, 4)]
    return bytes(data)


def _cut(whole: bytes, chance: random.Random) -> bytes:
    return whole[: chance.randrange(len(whole))]


def _graph(whole: bytes, chance: random.Random) -> bytes:
    """Change a byte of a node, an input, an output or a name, with all lengths right."""
    parts = []
    for number, extent, content in extents(whole, (0, len(whole))):
        if number != GRAPH:
            parts.append(whole[slice(*extent)])
            continue
        spans = [(whole[slice(*around)], n, inner) for n, around, inner in extents(whole, content)]
        victim = chance.randrange(len(spans))
        changed = bytearray()
        for place, (kept, n, inner) in enumerate(spans):
            body = bytearray(whole[slice(*inner)])
            if place == victim and body:
                for _ in range(chance.randint(1, 3)):
                    body[chance.randrange(min(len(body), 400))] = chance.randrange(256)
                changed += message(n, bytes(body))
            elif not (place == victim and chance.random() < 0.5):
                changed += kept
        parts.append(message(GRAPH, bytes(changed)))
    return b"".join(parts)


_NUMBERS = (0, -1, 1, 2, 3, 7, 255, 1 << 16, 1 << 31, -(1 << 31), 1 << 40, 1 << 62, -(1 << 63))


def _values(whole: bytes, chance: random.Random) -> bytes:
    """Change a number, a name or an operator in a graph that stays well formed."""
    import onnx  # only here, as bertonnx runs without it

    model = onnx.load_from_string(whole)
    for _ in range(chance.randint(1, 2)):
        nodes = list(_nodes(model.graph))
        node, weight = chance.choice(nodes), chance.choice(model.graph.initializer)
        kind = chance.randrange(7)
        if kind <= 2 and node.attribute:
            attribute = chance.choice(node.attribute)
            if attribute.type == onnx.AttributeProto.INTS and attribute.ints:
                attribute.ints[chance.randrange(len(attribute.ints))] = chance.choice(_NUMBERS)
            elif attribute.type == onnx.AttributeProto.FLOAT:
                attribute.f = chance.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
            elif chance.random() < 0.2:
                node.attribute.remove(attribute)
            else:
                attribute.i = chance.choice(_NUMBERS)
        elif kind == 3 and node.input:
            node.input[chance.randrange(len(node.input))] = chance.choice(
                ("", *chance.choice(nodes).output, weight.name)
            )
        elif kind == 4:
            other = chance.choice(nodes)
            node.op_type, node.domain = other.op_type, other.domain
        elif kind == 5 and weight.dims:
            weight.dims[chance.randrange(len(weight.dims))] = chance.choice(_NUMBERS)
        else:
            weight.data_type = chance.randrange(24)
    return bytes(model.SerializeToString())


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _metadata(whole: bytes, chance: random.Random) -> bytes:
    """Change the card, a golden example or the tokenizer, as JSON."""
    wanted = chance.choice((CARD_KEY, GOLDEN_KEY, TOKENIZER_KEY))
    parts = []
    for number, extent, content in extents(whole, (0, len(whole))):
        entry = dict(fields(whole, content)) if number == METADATA else {}
        key = whole[slice(*entry[1])].decode() if entry else ""
        if key != wanted:
            parts.append(whole[slice(*extent)])
            continue
        text = whole[slice(*entry[2])].decode()
        if chance.random() < 0.3:
            place = chance.randrange(len(text))
            text = (
                text[:place]
                + chance.choice(("[", '"', "9" * 5000, "NaN", "", "\\ud800", "{"))
                + text[place + 1 :]
            )
        else:
            value = json.loads(text)
            for _ in range(chance.randint(1, 3)):
                _replace(value, chance)
            text = json.dumps(value)
        parts.append(message(METADATA, message(1, key.encode()) + message(2, text.encode())))
    return b"".join(parts)


def _replace(value: Any, chance: random.Random) -> None:
    """Put something odd in the place of one value inside a JSON value."""
    while True:
        places: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not places:
            return
        # Few of thousands of words, and each of the few keys of what is around them.
        place = chance.choice(places)
        inner = value[place]
        if isinstance(inner, (dict, list)) and inner and chance.random() < 0.7:
            value = inner
            continue
        if chance.random() < 0.15 and isinstance(value, dict):
            del value[place]
        else:
            value[place] = chance.choice(ODD)
        return


_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _bytes,
    _cut,
    _graph,
    _values,
    _values,
    _metadata,
    _metadata,
)

if __name__ == "__main__":
    main()
