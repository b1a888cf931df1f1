"""How token vectors become embeddings: what a checkpoint's modules say, and what a user asks for instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bertonnx.errors import CheckpointError, UsageError
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.m3 import UNUSED, read_heads
from bertonnx.exporters.checkpoint.sentence_layers import SENTENCE, Cut, Layer, Normalize, Pool, widths
from bertonnx.exporters.checkpoint.sentence_transformers import SentenceModules
from bertonnx.exporters.checkpoint.source import Source
from bertonnx.exporters.checkpoint.tokenizer import TokenizerFacts
from bertonnx.exporters.options import ExportOptions, require_reduced
from bertonnx.models.pooling import named
from bertonnx.models.retrieval import LateInteraction, SparseWeights
from bertonnx.models.tasks import TASKS, Task
from bertonnx.wording import Message, Option, Options

__all__ = ["Embedding", "no_embedding", "planned_embedding", "require_unpooled"]


@dataclass(frozen=True, eq=False)
class Embedding:
    """How token vectors become one, and what is said of it; nothing where they do not.

    Attributes:
        layers: what follows the encoder, in order.
        pooling: names of rows of `models.pooling`, with commas between several.
        normalize: whether embeddings have length 1 in the end.
        width: length of an embedding.
        also: other tasks that the file serves too.
        sparse: of sparse embeddings: which weights count.
        unused: what tokens are called (`cls_token`) whose weights never count.
        late: of many vectors for a text: says how queries and documents are read, by the tokenizer and the
            longest input.
        longest: longest input in tokens, where the checkpoint says it of queries and documents.
        default_prompt: name of the prompt that is used where none is asked for and the folder says none.
        used: names of weights that `layers` took from the encoder's file.
        notes: what was chosen, a sentence each.
    """

    layers: tuple[Layer, ...] = ()
    pooling: str | None = None
    normalize: bool = False
    width: int | None = None
    also: tuple[str, ...] = ()
    sparse: SparseWeights | None = None
    unused: tuple[str, ...] = ()
    late: Callable[[TokenizerFacts, int], LateInteraction] | None = None
    longest: int | None = None
    default_prompt: str | None = None
    used: tuple[str, ...] = ()
    notes: tuple[Message, ...] = ()


def no_embedding(
    row: Task,
    modules: SentenceModules | None,  # noqa: ARG001
    options: ExportOptions,
    config: Any,  # noqa: ARG001
    *,
    source: Source,  # noqa: ARG001
    account: Account,  # noqa: ARG001
) -> Embedding:
    """Return that nothing follows the traced model which a task's own head does not say.

    Raises:
        UsageError: the user asks for what the task does not have.
    """
    require_unpooled(row, options)
    return Embedding()


def planned_embedding(
    row: Task,  # noqa: ARG001
    modules: SentenceModules | None,
    options: ExportOptions,
    config: Any,
    *,
    source: Source,
    account: Account,  # noqa: ARG001
) -> Embedding:
    """Return how a task's embeddings are made.

    Args:
        row: the task.
        modules: of a Sentence-Transformers folder; None for another checkpoint.
        options: what the user asks for.
        config: the encoder's `PretrainedConfig`.
        source: of the checkpoint.
        account: takes down keys that nothing reads.

    Raises:
        UsageError: the user asks for what the task does not have.
        CheckpointError: the modules do not fit together.
    """
    hidden, folder = config.hidden_size, source.folder
    # Plain checkpoints say nothing of pooling: the mean is a guess, and the note below says so.
    own = [Pool(modes=("mean",))] if modules is None else list(modules.layers)
    whole = widths(own, hidden, folder=folder)[SENTENCE]
    kept = None if modules is None else modules.settings.truncate_dim
    layers = _asked(own, options, cut=kept if kept is not None and kept < whole else None)
    unit = isinstance(_last(layers), Normalize)
    width = _width(layers, hidden, options, folder=folder)
    _require_within(options, width)
    heads = read_heads(source, hidden)
    pooling = ",".join(name for layer in layers if isinstance(layer, Pool) for name in layer.modes)
    return Embedding(
        # Before all others, which may put other vectors in the place of the encoder's.
        layers=(*heads.layers, *layers),
        also=heads.also,
        sparse=SparseWeights() if heads.also else None,
        unused=UNUSED if heads.also else (),
        late=heads.late if heads.also else None,
        pooling=pooling,
        normalize=unit,
        width=width,
        notes=(
            _note(pooling, unit, options, changed=layers != own, says=modules is not None),
            *_cut_note(layers, whole),
            *heads.notes,
        ),
    )


def _width(layers: Sequence[Layer], hidden: int, options: ExportOptions, *, folder: object) -> int:
    try:
        return widths(layers, hidden, folder=folder)[SENTENCE]
    except CheckpointError as error:
        # The modules as they are have been found to fit (`planned_embedding`).
        raise UsageError(
            "{asked} joins vectors to a length that the checkpoint's modules do not read; give one mode",
            asked=Option("pooling", options.pooling),
        ) from error


def _require_within(options: ExportOptions, width: int) -> None:
    for number in options.dimensions:
        if number > width:
            raise UsageError(
                "{asked} is more than the embeddings have ({width}); give a number of at most {width}",
                asked=Option("dimensions", number),
                width=width,
            )


def _asked(own: Sequence[Layer], options: ExportOptions, *, cut: int | None) -> list[Layer]:
    """Return the layers as the user asks for them."""
    layers = list(own)
    if options.pooling is not None:
        modes = tuple(row.name for row in named(options.pooling))
        layers = [replace(layer, modes=modes) if isinstance(layer, Pool) else layer for layer in layers]
    last = _last(layers)
    if options.normalize is False and isinstance(last, Normalize):
        layers.remove(last)
    if cut is not None:
        layers.append(Cut(length=cut))
    # After the cut, as Sentence-Transformers' normalize_embeddings; its modules come before.
    if options.normalize and not isinstance(_last(layers), Normalize):
        layers.append(Normalize())
    return layers


def _last(layers: Sequence[Layer]) -> Layer:
    """Return the layer that writes the embedding last."""
    return next(layer for layer in reversed(layers) if layer.writes == SENTENCE)


def _note(pooling: str, unit: bool, options: ExportOptions, *, changed: bool, says: bool) -> Message:
    asked = options.pooling is not None or options.normalize is not None
    if says:
        why = Message(", as asked" if asked and changed else ", as its modules say")
    elif options.pooling is None:
        why = Message(
            ": the checkpoint does not say (set {options})",
            options=Options([Option("pooling"), Option("normalize")], last="and"),
        )
    else:
        why = Message("")
    return Message(
        "pooling {pooling}, {normalized}{why}",
        pooling=pooling,
        normalized="normalized" if unit else "not normalized",
        why=why,
    )


def _cut_note(layers: Sequence[Layer], whole: int) -> tuple[Message, ...]:
    return tuple(
        Message(
            "embeddings are the first {kept} of {whole} values, as truncate_dim says",
            kept=layer.length,
            whole=whole,
        )
        for layer in layers
        if isinstance(layer, Cut)
    )


def require_unpooled(row: Task, options: ExportOptions) -> None:
    """Refuse options of tasks that pool.

    Raises:
        UsageError: naming these tasks.
    """
    given = [name for name in ("pooling", "normalize") if getattr(options, name) is not None]
    given += ["dimensions"] if options.dimensions else []
    given += ["hidden_states"] if options.hidden_states is not None else []
    if options.calibration is not None:
        require_reduced(options, "calibration")
    if given:
        pooled = [row.name for row in TASKS if row.pooled]
        raise UsageError(
            "{option} is for {pooled}, and the task is {task}; leave it out, or add {either}",
            option=Option(given[0]),
            pooled=", ".join(pooled),
            task=row.name,
            either=Options([Option("task", name) for name in pooled]),
        )
