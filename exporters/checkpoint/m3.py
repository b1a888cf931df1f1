"""The heads of bge-m3: beside its embedding, a weight and a vector for each token.

Read as FlagEmbedding does (FlagEmbedding/finetune/embedder/encoder_only/m3/runner.py, `get_model`, and
modeling.py, `_sparse_embedding` and `_colbert_embedding`; which tokens count:
FlagEmbedding/inference/embedder/encoder_only/m3.py, `_process_token_weights` and `_process_colbert_vecs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.folder import HEADS
from bertonnx.exporters.checkpoint.sentence_layers import (
    TOKEN_VECTORS,
    TOKEN_WEIGHTS,
    TOKENS,
    Dense,
    Layer,
    Normalize,
)
from bertonnx.exporters.checkpoint.source import Source
from bertonnx.exporters.checkpoint.tokenizer import TokenizerFacts
from bertonnx.models.retrieval import DOCUMENT, QUERY, LateInteraction, Side
from bertonnx.models.tasks import TASKS
from bertonnx.wording import Message, Option

__all__ = ["UNUSED", "Heads", "read_heads"]

_SPARSE, _VECTORS = HEADS

UNUSED = ("cls_token", "eos_token", "pad_token", "unk_token")
"""The tokens whose weights never count."""


@dataclass(frozen=True, eq=False)
class Heads:
    """What a folder has beside its encoder.

    Attributes:
        layers: what makes weights and vectors of tokens; none where the files are not trusted.
        width: length of a vector.
        also: the tasks that they serve.
        notes: what the user should know.
    """

    layers: tuple[Layer, ...] = ()
    width: int = 0
    also: tuple[str, ...] = ()
    notes: tuple[Message, ...] = ()

    def late(self, tokenizer: TokenizerFacts, longest: int) -> LateInteraction:  # noqa: ARG002
        """Return how queries and documents are read: alike, and all but the first token has a vector."""
        return LateInteraction(self.width, dict.fromkeys((QUERY, DOCUMENT), Side(first=1)), mean=True)


def read_heads(source: Source, hidden: int) -> Heads:
    """Return the heads of a folder; none for any other folder.

    Args:
        source: of the checkpoint.
        hidden: length of the encoder's vectors.

    Raises:
        CheckpointError: one of the two is missing, broken, or of another width than the encoder.
    """
    folder = source.model_folder
    there = [name for name in (_SPARSE, _VECTORS) if (folder / name).is_file()]
    if not there:
        return Heads()
    also = tuple(row.name for row in TASKS if row.library)
    if not source.trust.allow_pickle:
        note = Message(
            "its heads for {tasks} lie in pickle files ({files}) and are left out; if you trust their "
            "author, add {option}",
            tasks=" and ".join(also),
            files=", ".join(there),
            option=Option("allow_pickle", True),
        )
        return Heads(notes=(note,))
    if len(there) == 1:
        raise CheckpointError(
            "{folder} has {there} without {other}; use a complete checkpoint, or take that away as well",
            folder=folder,
            there=there[0],
            other=next(name for name in (_SPARSE, _VECTORS) if name not in there),
        )
    dense = partial(Dense, reads=TOKENS, module="")
    sparse, vectors = (_linear(folder / name, hidden) for name in (_SPARSE, _VECTORS))
    if len(sparse[0]) != 1:
        raise CheckpointError(
            "{path} makes {count} weights for a token, and one is wanted; use a complete checkpoint",
            path=folder / _SPARSE,
            count=len(sparse[0]),
        )
    layers = (
        dense(weight=sparse[0], bias=sparse[1], activation="relu", writes=TOKEN_WEIGHTS),
        dense(weight=vectors[0], bias=vectors[1], activation="none", writes=TOKEN_VECTORS),
        Normalize(reads=TOKEN_VECTORS, writes=TOKEN_VECTORS),
    )
    note = Message("its other heads are exported too: {tasks}", tasks=" and ".join(also))
    return Heads(layers, len(vectors[0]), also, (note,))


def _linear(path: Path, hidden: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the weight, (outputs, hidden), and bias of a linear layer that torch.save wrote."""
    import torch

    try:
        # Even of a trusted author no more than tensors is needed, so nothing else may be unpickled.
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
        weight, bias = (found[name].to(torch.float32).numpy() for name in ("weight", "bias"))
    except Exception as error:  # torch raises many kinds for a damaged file
        raise CheckpointError(
            "{path} cannot be read as a linear layer ({kind}: {why}); download it again",
            path=path,
            kind=type(error).__name__,
            why=str(error).splitlines()[0] if str(error) else "",
        ) from error
    if weight.ndim != 2 or weight.shape[1] != hidden or bias.shape != weight.shape[:1]:
        raise CheckpointError(
            "{path} has a weight of shape {weight} and a bias of {bias}, and the encoder's vectors have "
            "{hidden} numbers; the files do not belong together",
            path=path,
            weight=weight.shape,
            bias=bias.shape,
            hidden=hidden,
        )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise CheckpointError("{path} holds NaN or infinity; the checkpoint is damaged", path=path)
    return weight, bias
