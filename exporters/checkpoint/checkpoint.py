"""From a source to a checkpoint that is complete, consistent and ready to be exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx.errors import CheckpointError, UsageError
from bertonnx.exporters.checkpoint.encoders import accepted_inputs, require_encoder
from bertonnx.exporters.checkpoint.folder import Source, model_folder, read_json
from bertonnx.exporters.checkpoint.length import longest_input, prepare_attention
from bertonnx.exporters.checkpoint.sentence_transformers import POOLINGS, Dense, SentenceModules, read_modules
from bertonnx.exporters.checkpoint.task import (
    Head,
    cross_encoder_activation,
    require_exportable,
    require_known,
    task_of,
    text_pairs,
    values_of,
)
from bertonnx.exporters.checkpoint.tokenizer import TokenizerFacts, read_tokenizer
from bertonnx.exporters.checkpoint.weights import load_config, load_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["Checkpoint", "load"]

_FEATURES = "feature-extraction"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint for one task, all of it checked.

    Fields that `models.card.Card` has too mean the same there.

    Attributes:
        source: where it came from.
        model: in evaluation mode, float32, on the CPU, with plain ("eager") attention.
        config: the model's configuration.
        family: `model_type`.
        task: one of `models.tasks.TASKS`.
        tokenizer_text: a `tokenizer.json` without padding and truncation; Sentence-Transformers'
            lower-casing is in it.
        labels: class names in the order of the logits.
        problem_type: of text classification.
        activation: softmax, sigmoid or none.
        pairs: whether it reads text pairs; None where the checkpoint does not say.
        pooling: of feature extraction, one of `POOLINGS`.
        normalize: whether embeddings get length 1.
        dense: layers between pooling and normalisation.
        width: of feature extraction: length of an embedding.
        prefix: text put before every input.
        max_length: longest input in tokens, special ones included.
        mask_token: of fill-mask.
        mask_token_id: of fill-mask.
        pad_token_id: id for padding.
        padding_side: "right" or "left".
        truncation_side: "right" or "left".
        clean_up_spaces: of decoded text.
        input_names: what the tokenizer makes and the model reads, in their usual order.
        notes: what was chosen for the user, a sentence each.
    """

    source: Source
    model: PreTrainedModel
    config: PretrainedConfig
    family: str
    task: str
    tokenizer_text: str
    labels: tuple[str, ...]
    problem_type: str | None
    activation: str
    pairs: bool | None
    pooling: str | None
    normalize: bool
    dense: tuple[Dense, ...]
    width: int | None
    prefix: str
    max_length: int
    mask_token: str | None
    mask_token_id: int | None
    pad_token_id: int
    padding_side: str
    truncation_side: str
    clean_up_spaces: bool
    input_names: tuple[str, ...]
    notes: tuple[str, ...]


def load(
    source: Source,
    *,
    task: str | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Read a checkpoint and check that its parts belong together.

    Args:
        source: from `sources.resolve`.
        task: default from the checkpoint's architecture.
        max_length: a shorter limit than the checkpoint's own, in tokens.
        pooling: of feature extraction; default from Sentence-Transformers' modules, else mean.
        normalize: of feature extraction; default from the modules, else off.
        trust_remote_code: run the checkpoint's own Python code.
        allow_pickle: read `.bin` weights where there is no safetensors.

    Raises:
        UsageError: arguments that are wrong in themselves.
        UnsupportedError: the family, task or modules cannot be exported, or there is no such head.
        CheckpointError: a part is missing, broken, or contradicts another.
        SourceError: a part lies in a pickle file, and `allow_pickle` is off.
    """
    plan = _planned(
        source,
        task,
        pooling=pooling,
        normalize=normalize,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    loaded = load_model(
        plan.folder,
        plan.config,
        plan.task,
        asked=task is not None,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )
    tokenizer = read_tokenizer(
        plan.folder,
        embeddings=_embedding_rows(loaded.model),
        lower=plan.sentence is not None and plan.sentence.lower,
        trust_remote_code=trust_remote_code,
    )
    limit, limit_notes = longest_input(
        plan.task,
        loaded.model,
        tokenizer_limit=tokenizer.max_length,
        sentence_limit=None if plan.sentence is None else plan.sentence.max_seq_length,
        attention_limit=plan.attention_limit,
        asked=max_length,
        least=tokenizer.least,
    )
    notes = (*plan.notes, *_unused_note(loaded.unused, plan.task), *limit_notes)
    return _assembled(source, plan, loaded.model, tokenizer, max_length=limit, notes=notes)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is decided before any weight is read."""

    folder: Path
    config: PretrainedConfig
    task: str
    head: Head
    pairs: bool | None
    sentence: SentenceModules | None
    pooling: str | None
    normalize: bool
    attention_limit: int | None
    notes: tuple[str, ...]


def _planned(
    source: Source,
    task: str | None,
    *,
    pooling: str | None,
    normalize: bool | None,
    trust_remote_code: bool,
    allow_pickle: bool,
) -> _Plan:
    _require_options(task, pooling)
    sentence = read_modules(source.folder, allow_pickle=allow_pickle) if task in (None, _FEATURES) else None
    folder = model_folder(source.folder) if sentence is None else sentence.folder
    raw = read_json(folder / "config.json")
    require_encoder(raw, source.id)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    chosen, task_note = _chosen_task(task, config, sentence)
    require_exportable(chosen, config.model_type, getattr(config, "auto_map", None) or ())
    head = values_of(chosen, config, raw)
    attention_limit, attention_note = prepare_attention(config)
    pooling, normalize, pooling_note = _pooled(chosen, sentence, pooling, normalize)
    notes = (task_note, attention_note, pooling_note, _cross_encoder_note(chosen, raw, head))
    return _Plan(
        folder=folder,
        config=config,
        task=chosen,
        head=head,
        pairs=text_pairs(chosen, head.labels, raw),
        sentence=sentence,
        pooling=pooling,
        normalize=normalize,
        attention_limit=attention_limit,
        notes=tuple(note for note in notes if note),
    )


def _require_options(task: str | None, pooling: str | None) -> None:
    if task is not None:
        require_known(task)
    if pooling is not None and pooling not in POOLINGS:
        raise UsageError(f"--pooling {pooling} is unknown; type one of: {', '.join(POOLINGS)}")


def _chosen_task(
    task: str | None, config: PretrainedConfig, sentence: SentenceModules | None
) -> tuple[str, str | None]:
    if task is not None:
        return task, None
    if sentence is not None:
        return _FEATURES, f"task {_FEATURES}, because it is a Sentence-Transformers folder"
    return task_of(config.architectures or ())


def _pooled(
    task: str, sentence: SentenceModules | None, pooling: str | None, normalize: bool | None
) -> tuple[str | None, bool, str | None]:
    """Return pooling, normalisation and a note."""
    if task != _FEATURES:
        given = [
            name for name, value in (("pooling", pooling), ("normalize", normalize)) if value is not None
        ]
        if given:
            raise UsageError(
                f"--{given[0]} is for feature-extraction, and the task is {task}; leave it out, "
                "or add --task feature-extraction"
            )
        return None, False, None
    if sentence is None:
        chosen = pooling or "mean"
        note = f"pooling {chosen}, {'normalized' if normalize else 'not normalized'}"
        if pooling is None:
            note += ": the checkpoint does not say (set --pooling and --normalize)"
        return chosen, bool(normalize), note
    chosen = pooling or sentence.pooling
    unit = sentence.normalize if normalize is None else normalize
    origin = "as its modules say" if (chosen, unit) == (sentence.pooling, sentence.normalize) else "as asked"
    return chosen, unit, f"pooling {chosen}, {'normalized' if unit else 'not normalized'}, {origin}"


def _cross_encoder_note(task: str, raw: Mapping[str, Any], head: Head) -> str | None:
    name = cross_encoder_activation(raw)
    if task != "text-classification" or name is None:
        return None
    return (
        f"a Sentence-Transformers cross-encoder, whose own activation is {name.rpartition('.')[2]}: scores "
        f"use {head.activation}, as Hugging Face's pipeline does, and the output logits holds the raw values"
    )


def _unused_note(unused: Sequence[str], task: str) -> tuple[str, ...]:
    if not unused:
        return ()
    groups = sorted({".".join(name.split(".")[:2]) for name in unused})
    more = f" and {len(groups) - 8} more" if len(groups) > 8 else ""
    return (f"weights that {task} has no use for: {', '.join(groups[:8])}{more}",)


def _embedding_rows(model: PreTrainedModel) -> int:
    table: Any = model.get_input_embeddings()
    return int(table.weight.shape[0])


def _width(plan: _Plan) -> int | None:
    """Return the length of an embedding, having checked that each dense layer fits the one before."""
    if plan.task != _FEATURES:
        return None
    width = int(plan.config.hidden_size)
    for layer in plan.sentence.dense if plan.sentence is not None else ():
        out_features, in_features = layer.weight.shape
        if in_features != width:
            raise CheckpointError(
                f"a Dense module of {plan.folder} reads {in_features} values, and the step before it gives "
                f"{width}; the modules do not belong together"
            )
        width = int(out_features)
    return width


def _assembled(
    source: Source,
    plan: _Plan,
    model: PreTrainedModel,
    tokenizer: TokenizerFacts,
    *,
    max_length: int,
    notes: tuple[str, ...],
) -> Checkpoint:
    masks = plan.task == "fill-mask"
    if masks and tokenizer.mask_token_id is None:
        raise CheckpointError(
            f"the tokenizer in {plan.folder} has no mask token, which fill-mask needs; "
            "add mask_token to tokenizer_config.json"
        )
    pad = tokenizer.pad_token_id
    return Checkpoint(
        source=source,
        model=model,
        config=model.config,
        family=str(plan.config.model_type),
        task=plan.task,
        tokenizer_text=tokenizer.text,
        labels=plan.head.labels,
        problem_type=plan.head.problem_type,
        activation=plan.head.activation,
        pairs=plan.pairs,
        pooling=plan.pooling,
        normalize=plan.normalize,
        dense=plan.sentence.dense if plan.sentence is not None else (),
        width=_width(plan),
        prefix=plan.sentence.prefix if plan.sentence is not None else "",
        max_length=max_length,
        mask_token=tokenizer.mask_token if masks else None,
        mask_token_id=tokenizer.mask_token_id if masks else None,
        pad_token_id=pad if pad is not None else plan.config.pad_token_id or 0,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        clean_up_spaces=tokenizer.clean_up_spaces,
        input_names=accepted_inputs(model, tokenizer.input_names),
        notes=notes,
    )
