"""What follows a model, in PyTorch, as Sentence-Transformers computes it: pooling, layers, activations.

Sources: sentence_transformers/sentence_transformer/modules/pooling.py, layer_norm.py and
sentence_transformers/base/modules/dense.py, normalize.py; util/tensor.py (`truncate_embeddings`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertonnx.exporters.checkpoint.sentence_layers import (
    TOKENS,
    Cut,
    Dense,
    Layer,
    LayerNorm,
    Normalize,
    Pool,
    Splade,
)
from bertonnx.models.activations import ACTIVATIONS
from bertonnx.models.pooling import POOLINGS
from bertonnx.models.registry import resolve
from bertonnx.models.splade import SATURATIONS, STRATEGIES
from bertonnx.runtime.rows import POOLING_MASK

if TYPE_CHECKING:
    import torch

__all__ = [
    "activated",
    "layered",
    "pool_cls",
    "pool_last",
    "pool_max",
    "pool_mean",
    "pool_mean_sqrt_len_tokens",
    "pool_weightedmean",
]

Tensors = Mapping[str, "torch.Tensor"]


def activated(name: str, value: torch.Tensor) -> torch.Tensor:
    """Return what an activation, a row of `models.activations`, makes of a value of any shape."""
    import torch

    row = ACTIVATIONS[name]
    # Over the last axis, as PyTorch does by itself for (texts, labels), with a warning.
    settings = {"dim": -1} if row.over_classes else row.settings
    result: torch.Tensor = getattr(torch.nn, row.torch)(**settings)(value)
    return result


def layered(layers: Sequence[Layer], hidden: torch.Tensor, feeds: Tensors) -> dict[str, torch.Tensor]:
    """Return the values behind all names, after all layers.

    Args:
        layers: in their order.
        hidden: the transformer's vectors, (batch, tokens, hidden), or its logits of words.
        feeds: `attention_mask`, and `pooling_mask` where a layer leaves the prompt out, (batch, tokens).
    """
    values = {TOKENS: hidden}
    for layer in layers:
        values[layer.writes] = _COMPUTED[type(layer)](values[layer.reads], layer, feeds)
    return values


def _pool(tokens: torch.Tensor, layer: Pool, feeds: Tensors) -> torch.Tensor:
    import torch

    mask = feeds["attention_mask"]
    counted = mask if layer.prompt else mask * feeds[POOLING_MASK]
    return torch.cat([resolve(POOLINGS[name].reference)(tokens, counted, mask) for name in layer.modes], -1)


def _dense(value: torch.Tensor, layer: Dense, feeds: Tensors) -> torch.Tensor:  # noqa: ARG001
    import torch

    weight, bias, projection = (
        None if array is None else torch.from_numpy(array)
        for array in (layer.weight, layer.bias, layer.projection)
    )
    assert weight is not None
    out = activated(layer.activation, torch.nn.functional.linear(value, weight, bias))
    if not layer.residual:
        return out
    return out + (value if projection is None else torch.nn.functional.linear(value, projection))


def _layer_norm(value: torch.Tensor, layer: LayerNorm, feeds: Tensors) -> torch.Tensor:  # noqa: ARG001
    import torch

    weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
    return torch.nn.functional.layer_norm(value, [len(layer.weight)], weight, bias, layer.epsilon)


def _normalize(value: torch.Tensor, layer: Normalize, feeds: Tensors) -> torch.Tensor:  # noqa: ARG001
    import torch

    return torch.nn.functional.normalize(value, p=2, dim=-1)


def _cut(value: torch.Tensor, layer: Cut, feeds: Tensors) -> torch.Tensor:  # noqa: ARG001
    return value[..., : layer.length]


def _splade(logits: torch.Tensor, layer: Splade, feeds: Tensors) -> torch.Tensor:
    strategy, saturation = STRATEGIES[layer.strategy], SATURATIONS[layer.saturation]
    found: torch.Tensor = resolve(strategy.reference)(logits, feeds["attention_mask"], saturation)
    return found


_COMPUTED: Mapping[type, Callable[[torch.Tensor, Any, Tensors], torch.Tensor]] = {
    Pool: _pool,
    Dense: _dense,
    LayerNorm: _layer_norm,
    Normalize: _normalize,
    Cut: _cut,
    Splade: _splade,
}


def pool_mean(tokens: torch.Tensor, counted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    """Return the mean over the tokens that count, (batch, tokens, hidden) -> (batch, hidden)."""
    return _sums(tokens, counted) / _counts(counted)


def pool_mean_sqrt_len_tokens(
    tokens: torch.Tensor,
    counted: torch.Tensor,
    mask: torch.Tensor,  # noqa: ARG001
) -> torch.Tensor:
    """Return the sum over the tokens that count, by the square root of their number, (batch, hidden)."""
    return _sums(tokens, counted) / _counts(counted).sqrt()


def pool_weightedmean(tokens: torch.Tensor, counted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over the tokens that count, weighted by their places in the text, (batch, hidden)."""
    import torch

    places = torch.arange(1, tokens.shape[1] + 1)[None] - mask.argmax(dim=1, keepdim=True)
    return _sums(tokens, counted * places) / _counts(counted * places)


def pool_cls(tokens: torch.Tensor, counted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    """Return the vectors of the first tokens that count, (batch, hidden)."""
    import torch

    return tokens[torch.arange(len(tokens)), counted.argmax(dim=1)]


def pool_max(tokens: torch.Tensor, counted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    """Return each channel's largest number over the tokens that count, (batch, hidden)."""
    # A zero would win over negative numbers of real tokens.
    return tokens.masked_fill(counted.unsqueeze(-1) == 0, -1e9).amax(dim=1)


def pool_last(tokens: torch.Tensor, counted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    """Return the vectors of the last tokens that count, (batch, hidden)."""
    import torch

    return tokens[torch.arange(len(tokens)), counted.shape[1] - 1 - counted.flip(1).argmax(dim=1)]


def _sums(tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (tokens * weights.unsqueeze(-1).to(tokens.dtype)).sum(dim=1)


def _counts(weights: torch.Tensor) -> torch.Tensor:
    return weights.sum(dim=1, keepdim=True).float().clamp(min=1e-9)
