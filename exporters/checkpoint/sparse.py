"""Sparse embeddings: what makes a weight for each word of the vocabulary of a masked language model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.embedding import Embedding, require_unpooled
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.sentence_layers import Splade
from bertonnx.exporters.checkpoint.sentence_transformers import SentenceModules
from bertonnx.exporters.checkpoint.source import Source
from bertonnx.exporters.options import ExportOptions
from bertonnx.models.retrieval import SparseWeights
from bertonnx.models.tasks import Task
from bertonnx.wording import Message

__all__ = ["planned_sparse"]


def planned_sparse(
    row: Task,
    modules: SentenceModules | None,
    options: ExportOptions,
    config: Any,
    *,
    source: Source,
    account: Account,  # noqa: ARG001
) -> Embedding:
    """Return how the logits of words become weights.

    Args:
        row: the task.
        modules: of a folder of a SparseEncoder; None for another checkpoint, which says nothing of it.
        options: what the user asks for.
        config: the transformer's `PretrainedConfig`.
        source: of the checkpoint.
        account: takes down keys that nothing reads.

    Raises:
        UsageError: the user asks for what the task does not have.
        CheckpointError: the pooling is of another vocabulary.
    """
    require_unpooled(row, options)
    if modules is None:
        usual = Splade()
        return Embedding(layers=(usual,), sparse=SparseWeights(), notes=(_note(usual, says=False),))
    (splade,) = (layer for layer in modules.layers if isinstance(layer, Splade))
    words = config.vocab_size
    if splade.dimension is not None and splade.dimension != words:
        raise CheckpointError(
            "{folder}: the module {module} makes embeddings of {dimension} words, and config.json has "
            "vocab_size {words}; the two files do not belong together",
            folder=source.folder,
            module=splade.module,
            dimension=splade.dimension,
            words=words,
        )
    most = modules.settings.max_active_dims
    return Embedding(
        layers=(replace(splade, dimension=None),),
        sparse=SparseWeights(most=most),
        notes=(_note(splade, says=True), *_most_note(most)),
    )


def _note(layer: Splade, *, says: bool) -> Message:
    return Message(
        "a word's weight is the {strategy} of its tokens' {saturation}{why}",
        strategy=layer.strategy,
        saturation=layer.saturation,
        why=", as its modules say" if says else ", as SPLADE's: the checkpoint does not say",
    )


def _most_note(most: int | None) -> tuple[Message, ...]:
    if most is None:
        return ()
    return (Message("the {most} heaviest words of a text are kept, as max_active_dims says", most=most),)
