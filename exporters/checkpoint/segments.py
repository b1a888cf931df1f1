"""What a tokenizer makes of a pair of texts, and whether the model reads it in this way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.tokenizer import TokenizerFacts
from bertonnx.models.tasks import Task
from bertonnx.wording import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["pairs_read", "unanswered_id"]

_SEGMENTS = "token_type_ids"


def pairs_read(
    row: Task, said: bool | None, model: PreTrainedModel, tokenizer: TokenizerFacts
) -> tuple[bool | None, tuple[Message, ...]]:
    """Return whether pairs of texts are read, and a note where it is the segments that rule them out.

    PyTorch fails on such a pair, as ONNX Runtime does; found here, and not at the first pair of a user.

    Args:
        row: the task.
        said: what the checkpoint says of pairs: True, False, or None where it does not.
        model: its table of segments has `type_vocab_size` rows.
        tokenizer: what it makes of a pair.

    Raises:
        CheckpointError: the task, or the checkpoint, needs pairs.
    """
    rows = int(getattr(model.config, "type_vocab_size", 0) or 0)
    if not rows or row.pairs == "never" or said is False or _SEGMENTS not in tokenizer.input_names:
        return said, ()
    highest = max(Tokenizer.from_str(tokenizer.text).encode("a", "a").type_ids)
    if highest < rows:
        return said, ()
    if said:
        raise CheckpointError(
            "config.json has type_vocab_size {rows}, and the tokenizer gives the second text of a pair "
            "segment {highest}, for which there is no embedding; pairs are what it is exported for, so put "
            "config.json and tokenizer of one checkpoint together, or leave {name} out of model_input_names "
            "in tokenizer_config.json",
            rows=rows,
            highest=highest,
            name=_SEGMENTS,
        )
    note = Message(
        "single texts only: type_vocab_size is {rows}, and the tokenizer gives the second text of a pair "
        "segment {highest}",
        rows=rows,
        highest=highest,
    )
    return False, (note,)


def unanswered_id(row: Task, tokenizer: TokenizerFacts) -> int | None:
    """Return `Card.cls_token_id`: which token stands for "no answer"; None for tasks without answers.

    Raises:
        UnsupportedError: the context comes before the question.
    """
    if "no_answer" not in row.options:
        return None
    # transformers' pipeline and its training turn the two round then, so the model has read them like this.
    if tokenizer.padding_side == "left":
        raise UnsupportedError(
            "the tokenizer pads on the left, for which transformers puts the context before the question, "
            "and bertonnx puts the question first; if the model was trained so too, write {line} into "
            "tokenizer_config.json",
            line='"padding_side": "right"',
        )
    return tokenizer.special_ids.get("cls_token", -1)
