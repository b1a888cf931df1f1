"""Whether a card and the graph beside it speak of the same model, before anything is allocated for either."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bertonnx.errors import ModelFileError
from bertonnx.models.card import Card
from bertonnx.runtime.modelfile.structure import Value

__all__ = ["require_agreement", "sizes_of"]

_KNOWN_INPUTS = frozenset(("input_ids", "attention_mask", "token_type_ids", "pooling_mask"))

_FLOAT, _INT64 = 1, 7  # TensorProto.DataType


def require_agreement(
    path: Path, card: Card, inputs: Mapping[str, Value], outputs: Mapping[str, Value]
) -> None:
    """Refuse a file whose card says other things than its graph.

    Args:
        path: the file.
        card: its card.
        inputs: what its graph declares to take.
        outputs: what its graph declares to put out.

    Raises:
        ModelFileError: naming what differs.
    """
    for problem in (*_of_inputs(inputs), *_of_outputs(card, outputs)):
        raise ModelFileError(
            "the card of {path} does not fit its graph: {problem}; export the checkpoint again",
            path=path,
            problem=problem,
        )


def sizes_of(card: Card) -> dict[str, int]:
    """Return how large the dimensions of outputs are that do not depend on texts."""
    sizes = {"labels": len(card.labels), "width": card.width or 0, "one": 1}
    sizes["vector"] = 0 if card.late is None else card.late.width
    return {name: size for name, size in sizes.items() if size}


def _of_inputs(inputs: Mapping[str, Value]) -> Iterator[str]:
    if "input_ids" not in inputs:
        yield "there is no input input_ids"
    for name, value in inputs.items():
        if name not in _KNOWN_INPUTS:
            yield f"nothing is known to fill the input {name} with"
        if value.type not in (0, _INT64) or value.rank not in (None, 2):
            yield f"the input {name} takes no token ids"


def _of_outputs(card: Card, outputs: Mapping[str, Value]) -> Iterator[str]:
    sizes = sizes_of(card)
    for name, dimensions in card.dimensions.items():
        value = outputs.get(name)
        if value is None:
            yield f"{card.task} needs the output {name}"
        elif value.type not in (0, _FLOAT):
            yield f"the output {name} holds no float32 numbers"
        elif value.rank not in (None, len(dimensions)):
            yield f"the output {name} has {value.rank} dimensions and not {len(dimensions)}"
        elif value.width is not None and sizes.get(dimensions[-1], value.width) != value.width:
            yield f"the output {name} is {value.width} wide and the card says {sizes[dimensions[-1]]}"
