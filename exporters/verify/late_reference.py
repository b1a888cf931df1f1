"""Weights of words, in PyTorch, as Sentence-Transformers computes them.

Source: sentence_transformers/sparse_encoder/modules/splade_pooling.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.sentence_layers import SENTENCE, TOKENS
from bertonnx.exporters.verify.reference import layered
from bertonnx.models.splade import Saturation

if TYPE_CHECKING:
    import torch

__all__ = ["sparse_reference", "splade_max", "splade_sum", "vectors_reference"]

Tensors = dict[str, "torch.Tensor"]


def sparse_reference(checkpoint: Checkpoint, tensors: Tensors, feeds: Mapping[str, torch.Tensor]) -> None:
    """Make `sparse_embedding` (batch, vocabulary) of `logits` (batch, tokens, vocabulary)."""
    tensors["sparse_embedding"] = layered(checkpoint.layers, tensors["logits"], feeds)[SENTENCE]


def vectors_reference(checkpoint: Checkpoint, tensors: Tensors, feeds: Mapping[str, torch.Tensor]) -> None:
    """Make `token_embeddings` (batch, tokens, vector) of `last_hidden_state` (batch, tokens, hidden)."""
    tensors["token_embeddings"] = layered(checkpoint.layers, tensors["last_hidden_state"], feeds)[TOKENS]


def splade_max(logits: torch.Tensor, mask: torch.Tensor, saturation: Saturation) -> torch.Tensor:
    """Return the largest weight of each word, (batch, tokens, vocabulary) -> (batch, vocabulary)."""
    return _weights(logits, mask, saturation).amax(dim=1)


def splade_sum(logits: torch.Tensor, mask: torch.Tensor, saturation: Saturation) -> torch.Tensor:
    """Return the sum of each word's weights, (batch, tokens, vocabulary) -> (batch, vocabulary)."""
    return _weights(logits, mask, saturation).sum(dim=1)


def _weights(logits: torch.Tensor, mask: torch.Tensor, saturation: Saturation) -> torch.Tensor:
    weights = (logits * mask.unsqueeze(-1).to(logits.dtype)).relu()
    for _ in range(saturation.logarithms):
        weights = weights.log1p()
    return weights
