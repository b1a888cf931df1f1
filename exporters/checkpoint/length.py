"""How many tokens a checkpoint reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bertonnx.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["longest_input", "positions", "prepare_attention"]

_QUESTION_ANSWERING = 384
"""Longest window of Hugging Face's question answering pipeline (`max_seq_len` of its `preprocess`)."""

_FALLBACK = 512


def prepare_attention(config: PretrainedConfig) -> tuple[int | None, str | None]:
    """Set the attention that can be exported; returns a limit that comes with it, and a note, or Nones.

    Raises:
        UnsupportedError: Nystromformer's landmarks, which need one fixed length.
    """
    if config.model_type == "nystromformer" and config.num_landmarks != config.segment_means_seq_len:
        raise UnsupportedError(
            f"this Nystromformer has num_landmarks {config.num_landmarks} and segment_means_seq_len "
            f"{config.segment_means_seq_len}: PyTorch itself then reads only inputs padded to exactly "
            f"{config.segment_means_seq_len} tokens, and the result depends on the padding; only checkpoints "
            "where the two are equal can be exported"
        )
    if config.model_type == "big_bird" and config.attention_type == "block_sparse":
        config.attention_type = "original_full"
        # BigBirdModel.forward: up to this length block-sparse attention is full attention anyway.
        limit = (5 + 2 * config.num_random_blocks) * config.block_size
        return limit, (
            f"block-sparse attention cannot be exported: inputs up to {limit} tokens, where BigBird uses "
            "full attention"
        )
    return None, None


def positions(model: PreTrainedModel) -> int | None:
    """Return how many positions the model has, or None where no table limits it."""
    config: Any = model.config
    configured = getattr(config, "max_position_embeddings", None)
    configured = configured if isinstance(configured, int) and configured > 0 else None
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        if name.rpartition(".")[2] == "position_embeddings" and weight is not None and weight.dim() == 2:
            padding = getattr(module, "padding_idx", None)
            # RoBERTa's positions start after the padding index, whose row stands for padding.
            rows = int(weight.shape[0]) - (0 if padding is None else int(padding) + 1)
            return rows if configured is None else min(rows, configured)
    if config.model_type in ("deberta", "deberta-v2"):
        return None
    return configured


def longest_input(
    task: str,
    model: PreTrainedModel,
    *,
    tokenizer_limit: int | None,
    sentence_limit: int | None,
    attention_limit: int | None,
    asked: int | None,
    least: int,
) -> tuple[int, tuple[str, ...]]:
    """Return the longest input in tokens, special ones included, and notes on it.

    Args:
        task: the task's name.
        model: the model, for its table of positions.
        tokenizer_limit: the tokenizer's `model_max_length`, where it means something.
        sentence_limit: Sentence-Transformers' `max_seq_length`.
        attention_limit: from `prepare_attention`.
        asked: the user's `--max-length`.
        least: fewest tokens that leave room for text.

    Raises:
        UsageError: `asked` is more than the model reads, or leaves no room for text.
    """
    known = [
        limit
        for limit in (positions(model), tokenizer_limit, sentence_limit, attention_limit)
        if limit is not None
    ]
    notes: list[str] = []
    if not known:
        known = [int(getattr(model.config, "max_position_embeddings", 0) or _FALLBACK)]
        notes.append(f"neither model nor tokenizer limits the input: {known[0]} tokens")
    limit = min(known)
    if task == "question-answering" and limit > _QUESTION_ANSWERING:
        limit = _QUESTION_ANSWERING
        notes.append(f"contexts are read in windows of {limit} tokens, as Hugging Face's pipeline does")
    if asked is None:
        return limit, tuple(notes)
    if asked > limit:
        raise UsageError(f"--max-length {asked} is more than the checkpoint reads; type at most {limit}")
    if asked < least:
        raise UsageError(f"--max-length {asked} leaves no room for text; type at least {least}")
    return asked, tuple(notes)
