"""How many tokens a checkpoint reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertonnx.errors import UnsupportedError, UsageError
from bertonnx.models.families import family as family_named
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import Task
from bertonnx.wording import Message, Option

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = [
    "Limit",
    "longest_input",
    "positions",
    "prepare_attention",
    "require_equal_landmarks",
    "require_language",
    "use_full_attention",
]

_FALLBACK = 512


@dataclass(frozen=True)
class Limit:
    """A limit on the input that comes with a family's attention: `tokens`, None where there is none."""

    tokens: int | None = None
    notes: tuple[Message, ...] = ()


def prepare_attention(config: PretrainedConfig) -> Limit:
    """Set the attention that can be exported; returns the limit that comes with it.

    Raises:
        UnsupportedError: this checkpoint's attention cannot be exported.
    """
    row = family_named(config.model_type)
    limit = Limit()
    if row is not None and row.prepare:
        limit = resolve(row.prepare)(config)
    return limit


def require_equal_landmarks(config: PretrainedConfig) -> Limit:
    """Refuse a Nystromformer whose landmarks need one fixed length."""
    if config.num_landmarks != config.segment_means_seq_len:
        raise UnsupportedError(
            "this Nystromformer has num_landmarks {landmarks} and segment_means_seq_len {length}: PyTorch "
            "itself then reads only inputs padded to exactly {length} tokens, and the result depends on the "
            "padding; only checkpoints where the two are equal can be exported",
            landmarks=config.num_landmarks,
            length=config.segment_means_seq_len,
        )
    return Limit()


def require_language(config: PretrainedConfig) -> Limit:
    """Refuse an X-MOD of which nothing says which language's layers a text goes through."""
    if getattr(config, "default_language", None) is None:
        known = [*(getattr(config, "languages", None) or ())]
        raise UnsupportedError(
            "config.json has no default_language, and this {family} model has layers of its own for each "
            "language; write one there (default_language): {known}",
            family=config.model_type,
            known=", ".join(map(str, known)),
        )
    return Limit()


def use_full_attention(config: PretrainedConfig) -> Limit:
    """Set BigBird's full attention, up to the length at which it computes the same as block-sparse."""
    if config.attention_type != "block_sparse":
        return Limit()
    kind, config.attention_type = config.attention_type, "original_full"
    # BigBirdModel.forward: up to this length block-sparse attention is full attention anyway.
    tokens = (5 + 2 * config.num_random_blocks) * config.block_size
    note = Message(
        "config.json has attention_type {kind}: block-sparse attention cannot be exported, so inputs are "
        "read up to {tokens} tokens, where BigBird uses full attention",
        kind=kind,
        tokens=tokens,
    )
    return Limit(tokens, (note,))


def positions(model: PreTrainedModel) -> int | None:
    """Return how many positions the model has, or None where no table limits it."""
    config: Any = model.config
    configured = getattr(config, "max_position_embeddings", None)
    # Some configurations say -1 for no limit, as XLNet's does.
    configured = configured if isinstance(configured, int) and configured > 0 else None
    # The table itself is looked at: RoBERTa's configuration says 514 where 512 tokens fit.
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        if name.rpartition(".")[2] == "position_embeddings" and weight is not None and weight.dim() == 2:
            padding = getattr(module, "padding_idx", None)
            # PyTorch counts a negative one from the end; positions then start at 0 all the same.
            if padding is not None and (getattr(config, "pad_token_id", None) or 0) < 0:
                padding = config.pad_token_id
            # RoBERTa's positions start after the padding index, whose row stands for padding.
            rows = int(weight.shape[0]) - (0 if padding is None else int(padding) + 1)
            return rows if configured is None else min(rows, configured)
    # Such a family has max_position_embeddings in its configuration too, where no table needs it.
    row = family_named(config.model_type)
    return None if row is not None and row.relative_positions else configured


def longest_input(
    row: Task, model: PreTrainedModel, *others: int | None, asked: int | None, least: int
) -> tuple[int, tuple[Message, ...]]:
    """Return the longest input in tokens, special ones included, and notes on it.

    Args:
        row: the task.
        model: the model, for its table of positions.
        others: further limits, None for those that there are not: of the tokenizer (`model_max_length`),
            of Sentence-Transformers (`max_seq_length`), of `prepare_attention`.
        asked: what the user wants.
        least: fewest tokens that leave room for text.

    Raises:
        UsageError: `asked` is more than the model reads, or leaves no room for text.
    """
    known = [limit for limit in (positions(model), *others) if limit is not None]
    notes: list[Message] = []
    if not known:
        known = [int(getattr(model.config, "max_position_embeddings", 0) or _FALLBACK)]
        notes.append(
            Message("neither model nor tokenizer limits the input: {tokens} tokens", tokens=known[0])
        )
    limit = min(known)
    if row.longest is not None and limit > row.longest:
        limit = row.longest
        notes.append(
            Message(
                "{texts}s are read in windows of {tokens} tokens, as Hugging Face's pipeline does",
                texts=row.pair_names[1] if row.pair_is_cut else row.pair_names[0],
                tokens=limit,
            )
        )
    if asked is None:
        return limit, tuple(notes)
    if asked > limit:
        raise UsageError(
            "{asked} is more than the checkpoint reads; type at most {limit}",
            asked=Option("max_length", asked),
            limit=limit,
        )
    if asked < least:
        raise UsageError(
            "{asked} leaves no room for text; type at least {least}",
            asked=Option("max_length", asked),
            least=least,
        )
    return asked, tuple(notes)
