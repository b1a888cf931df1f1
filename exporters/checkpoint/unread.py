"""Weights that a class of transformers passes over, and without which the model is another one.

A head of pre-training may lie beside an encoder, unread. What an adapter adds to a product, by what a
quantized number is to be multiplied, or what a class of somebody's own puts after a head, may not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bertonnx.errors import CheckpointError
from bertonnx.models.tasks import ENCODER, Task
from bertonnx.wording import Message, Option

__all__ = ["require_no_parts"]

_SHOWN = 3

_ENCODER_ALONE = Message(
    "no task has such a head; its encoder can be exported, with {option}", option=Option("task", ENCODER.name)
)


@dataclass(frozen=True)
class _Part:
    """One kind of such weights.

    Attributes:
        names: matches a part of a name between its dots.
        what: what they are, to follow "the weights hold NAMES, ".
        remedy: what to do.
        head: whether it is the head alone that means nothing without them.
    """

    names: re.Pattern[str]
    what: str
    remedy: Message | str
    head: bool = False


_PARTS = (
    _Part(
        re.compile(r"lora_.+|ia3_l|hada_w.+|lokr_w.+|oft_[rs]|boft_.+|vera_.+|randlora_.+|hra_u"),
        "of an adapter of peft that was not merged",
        "merge it with peft, and save what that returns: model.merge_and_unload()",
    ),
    _Part(
        re.compile(r"adapters|loras|prefix_tunings|prefix_gates|invertible_adapters|adapter_fusion_layer"),
        "of adapters of the library of that name, which transformers leaves out",
        "merge the adapter there, and save what is left: model.merge_adapter('name')",
    ),
    _Part(
        re.compile(
            r"SCB|weight_scale(_inv)?|weight_zero_point|weight_packed|qweight|qzeros|absmax|quant_map"
        ),
        "by which quantized weights are to be read",
        "export the checkpoint that they were made from",
    ),
    _Part(
        re.compile(r"crf", re.IGNORECASE),
        "of a conditional random field, which labels the tokens of a text together",
        _ENCODER_ALONE,
        head=True,
    ),
    _Part(
        re.compile(r"(bi_?)?(lstm|gru)|rnn", re.IGNORECASE),
        "of a recurrent layer between the encoder and its head",
        _ENCODER_ALONE,
        head=True,
    ),
)


def require_no_parts(row: Task, unread: Iterable[str]) -> None:
    """Refuse weights that the model has no place for where those that it has mean nothing without them.

    Args:
        row: the task of the model.
        unread: their names.

    Raises:
        CheckpointError: naming some, what they are, and what to do.
    """
    names = sorted(unread)
    for part in _PARTS:
        if part.head and row == ENCODER:
            continue
        found = [name for name in names if any(map(part.names.fullmatch, name.split(".")))]
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise CheckpointError(
                "the weights hold {names}, {what}, so that the model would give other answers without them; "
                "{remedy}",
                names=", ".join(found[:_SHOWN]) + more,
                what=part.what,
                remedy=part.remedy,
            )
