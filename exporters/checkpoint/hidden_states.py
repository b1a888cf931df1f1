"""Which layers' vectors a user wants as outputs, and which the model has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bertonnx.errors import UnsupportedError, UsageError
from bertonnx.exporters.checkpoint.encoders import without_cache
from bertonnx.models.hidden import ALL, layers_meant
from bertonnx.wording import Option

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["hidden_states_of"]

_TOKENS = 4


def hidden_states_of(
    model: PreTrainedModel, asked: Sequence[int] | str | None
) -> tuple[tuple[int, ...], int | None]:
    """Return the layers whose vectors shall be outputs, and how many layers there are.

    Args:
        model: the encoder.
        asked: as `ExportOptions.hidden_states`; None for no layers.

    Raises:
        UsageError: the model has not all of these layers.
        UnsupportedError: its layers do not give a vector for each token.
    """
    if asked is None:
        return (), None
    count = _count(model)
    layers = layers_meant(asked, count)
    if layers is None:
        raise UsageError(
            "{asked}: this model has the layers 0 to {last} (0 is what enters the first), or {first} to -1 "
            "counted from the last; or give {all}",
            asked=Option("hidden_states", asked),
            last=count - 1,
            first=-count,
            all=ALL,
        )
    return layers, count - 1


def _count(model: PreTrainedModel) -> int:
    import torch

    ids = torch.ones((1, _TOKENS), dtype=torch.int64)
    with torch.no_grad():
        found = model(
            input_ids=ids, attention_mask=ids, output_hidden_states=True, **without_cache(model)
        ).hidden_states
    # Funnel's encoder has fewer vectors than tokens in its later blocks.
    if not found or any(part.shape[:2] != ids.shape for part in found):
        raise UnsupportedError(
            "{option}: the layers of this {family} model do not give a vector for each token; leave it out",
            option=Option("hidden_states"),
            family=str(model.config.model_type),
        )
    return len(found)
