"""From the outputs of the graph to results: one decoder for each task, in NumPy, which its row names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bertonnx.errors import UsageError
from bertonnx.models.card import Card
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import TASKS
from bertonnx.runtime.options import DecodeOptions
from bertonnx.wording import Option

if TYPE_CHECKING:
    from bertonnx.runtime.rows import Decoder
    from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["DecoderContext", "decoder_for", "require_options"]


@dataclass(frozen=True)
class DecoderContext:
    """What a decoder is made of.

    Attributes:
        card: of the model.
        tokenizer: of the model.
        options: what the user chose.
    """

    card: Card
    tokenizer: TextTokenizer
    options: DecodeOptions = field(default_factory=DecodeOptions)

    @property
    def top_k(self) -> int:
        """How many candidates a result lists: the user's number, or the task's."""
        return self.options.top_k or self.card.row(self.options.task).candidates


def decoder_for(context: DecoderContext) -> Decoder:
    """Return the decoder of the model's task. Imports that task's module and no other's.

    Raises:
        KeyError: there is no such task.
        UsageError: an option is of other tasks.
    """
    require_options(context.card, context.options)
    # Resolved on use: a command of one task does not wait for the code of the others.
    decoder: Decoder = resolve(context.card.row(context.options.task).decoder)(context)
    return decoder


def require_options(card: Card, options: DecodeOptions) -> None:
    """Refuse an option that other tasks have, and the model's has not.

    Raises:
        UsageError: naming it.
    """
    row = card.row(options.task)
    for name in options.changed:
        owners = [one.name for one in TASKS if name in one.options]
        if owners and row.name not in owners:
            raise UsageError(
                "{asked} is for {owners}, and this model is for {task}; leave it out",
                asked=Option(name, getattr(options, name)),
                owners=", ".join(owners),
                task=row.name,
            )
