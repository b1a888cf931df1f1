"""What a SavedModel of the Model Garden says of its encoder, which no tensor shows."""

from __future__ import annotations

import re
from pathlib import Path

from bertonnx.errors import UnsupportedError

__all__ = ["require_published"]

_METADATA = "keras_metadata.pb"
_GELU = ("<lambda>", "Text>gelu")
"""GELU by tanh: by default, and as their own name for it."""


def require_published(prefix: Path) -> None:
    """Refuse an encoder that was made with another activation, or with normalization in another place.

    Args:
        prefix: of the checkpoint; a SavedModel's lies in its folder `variables`.

    Raises:
        UnsupportedError: naming what is otherwise.
    """
    path = prefix.parent.parent / _METADATA
    if prefix.parent.name != "variables" or not path.is_file():
        return
    # Objects of JSON in a protobuf: nothing else there looks like these keys.
    text = path.read_bytes()
    activations = {found.decode() for found in re.findall(rb'"inner_activation": "([^"]*)"', text)}
    found = [f"inner_activation {name}" for name in sorted(activations - {*_GELU})]
    if re.search(rb'"norm_first": true', text):
        found.append("norm_first")
    if found:
        raise UnsupportedError(
            "{path} says that the encoder was made with {found}, and what is read is BERT as it was "
            "published, with GELU and normalization behind each part",
            path=path,
            found=" and ".join(found),
        )
