"""From a source to a checkpoint that is complete, consistent and ready to be exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx.errors import CheckpointError, UsageError
from bertonnx.exporters.checkpoint.adapters import adapted_config, tokenizer_folder
from bertonnx.exporters.checkpoint.config_account import settled
from bertonnx.exporters.checkpoint.encoders import accepted_inputs, require_encoder
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.length import Limit, longest_input, prepare_attention
from bertonnx.exporters.checkpoint.sentence_transformers import Dense, SentenceModules, read_modules
from bertonnx.exporters.checkpoint.setfit import require_no_classifier
from bertonnx.exporters.checkpoint.source import Source
from bertonnx.exporters.checkpoint.task import (
    Head,
    cross_encoder_activation,
    require_exportable,
    task_of,
    text_pairs,
)
from bertonnx.exporters.checkpoint.tokenizer import TokenizerFacts, read_tokenizer
from bertonnx.exporters.checkpoint.weights import Loaded, load_config, load_model
from bertonnx.exporters.options import ExportOptions
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import ENCODER, TASKS, Task
from bertonnx.wording import Message, Option, Options

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["Checkpoint", "load"]


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
        pooling: where token vectors are pooled: name of a row of `models.pooling`.
        normalize: whether embeddings get length 1.
        dense: layers between pooling and normalization.
        width: where token vectors are pooled: length of an embedding.
        prompts: name -> text.
        default_prompt: name of the one that is used where none is asked for.
        pooled_prompt: whether the tokens of a prompt are pooled.
        max_length: longest input in tokens, special ones included.
        mask_token: where texts must hold one.
        mask_token_id: its id.
        pad_token_id: id for padding.
        padding_side: "right" or "left".
        truncation_side: "right" or "left".
        clean_up_spaces: of decoded text.
        input_names: what the tokenizer makes and the model reads, in their usual order.
        notes: what was chosen for the user, a sentence each.
        private_keys: keys of its files that no library reads.
        ignored_keys: keys that were ignored because the user said so.
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
    prompts: Mapping[str, str]
    default_prompt: str | None
    pooled_prompt: bool
    max_length: int
    mask_token: str | None
    mask_token_id: int | None
    pad_token_id: int
    padding_side: str
    truncation_side: str
    clean_up_spaces: bool
    input_names: tuple[str, ...]
    notes: tuple[Message, ...]
    private_keys: tuple[str, ...] = ()
    ignored_keys: tuple[str, ...] = ()


def load(source: Source, options: ExportOptions) -> Checkpoint:
    """Read a checkpoint and check that its parts belong together.

    Raises:
        UsageError: an option is for another task, or a length that the checkpoint does not read.
        UnsupportedError: the family, task or modules cannot be exported, or there is no such head.
        CheckpointError: a part is missing, broken, or contradicts another.
        SourceError: a part lies in a pickle file, which is not trusted.
    """
    account = Account(options.ignore_keys)
    plan = _planned(source, options, account)
    # The model comes before the tokenizer, whose ids are checked against its embeddings.
    loaded = load_model(source, plan.folder, plan.config, plan.row, asked=options.task is not None)
    tokenizer = read_tokenizer(
        tokenizer_folder(source.adapter, plan.folder),
        embeddings=_embedding_rows(loaded.model),
        account=account,
        lower=plan.sentence is not None and plan.sentence.lower,
        trust_remote_code=source.trust.trust_remote_code,
    )
    max_length, length_notes = longest_input(
        plan.row,
        loaded.model,
        tokenizer.max_length,
        None if plan.sentence is None else plan.sentence.max_seq_length,
        plan.attention.tokens,
        asked=options.max_length,
        least=tokenizer.least,
    )
    notes = (
        *plan.notes,
        *_weight_notes(loaded, plan.row),
        *tokenizer.notes,
        *length_notes,
        *account.notes,
    )
    checkpoint = _assembled(source, plan, loaded.model, tokenizer, max_length=max_length, notes=notes)
    return replace(checkpoint, private_keys=account.private_keys, ignored_keys=account.ignored_keys)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is decided before any weight is read."""

    folder: Path
    config: PretrainedConfig
    row: Task
    head: Head
    pairs: bool | None
    sentence: SentenceModules | None
    pooled: _Pooled
    attention: Limit
    notes: tuple[Message, ...]


@dataclass(frozen=True)
class _Pooled:
    """How token vectors become one, and what is said of it; nothing where they do not."""

    pooling: str | None = None
    normalize: bool = False
    notes: tuple[Message, ...] = ()


def _planned(source: Source, options: ExportOptions, account: Account) -> _Plan:
    asked = None if options.task is None else TASKS[options.task]
    sentence = None
    require_no_classifier(source.folder, asked)
    # Where a task without pooling is asked for, modules that bertonnx cannot follow are no obstacle.
    if asked is None or asked.pooled:
        sentence = read_modules(source.folder, allow_pickle=source.trust.allow_pickle)
    folder = sentence.folder if sentence is not None and source.adapter is None else source.model_folder
    raw: Mapping[str, Any] = read_json(folder / "config.json")
    require_encoder(raw, source.id)
    # The raw file is judged first: transformers has no class for a family that it does not know.
    read = settled(raw, account)
    config = load_config(folder, read, trust_remote_code=source.trust.trust_remote_code)
    raw, merged = adapted_config(source.adapter, config, raw, asked=asked, account=account)
    row, chosen = _chosen_task(asked, config, sentence)
    require_exportable(row, config.model_type, getattr(config, "auto_map", None) or ())
    head: Head = resolve(row.head)(config, raw)
    # This changes the configuration, and must come before a model is made of it.
    attention = prepare_attention(config)
    pooled = _pooled(row, sentence, options)
    return _Plan(
        folder=folder,
        config=config,
        row=row,
        head=head,
        pairs=text_pairs(row, head.labels, raw),
        sentence=sentence,
        pooled=pooled,
        attention=attention,
        notes=(*merged, *chosen, *attention.notes, *pooled.notes, *_cross_encoder_note(raw, head)),
    )


def _chosen_task(
    asked: Task | None, config: PretrainedConfig, sentence: SentenceModules | None
) -> tuple[Task, tuple[Message, ...]]:
    """Return the task, and a note where the user did not choose it."""
    if asked is not None:
        return asked, ()
    # Its architecture may still name the head of its pre-training, which its modules do not use.
    if sentence is not None:
        note = Message("task {task}, because it is a Sentence-Transformers folder", task=ENCODER.name)
        return ENCODER, (note,)
    row, note = task_of(config.architectures or ())
    return row, (note,)


def _pooled(row: Task, sentence: SentenceModules | None, options: ExportOptions) -> _Pooled:
    if not row.pooled:
        _require_unpooled(row, options)
        return _Pooled()
    # Plain checkpoints say nothing of pooling: the mean is a guess, and the note below says so.
    own = ("mean", False) if sentence is None else (sentence.pooling, sentence.normalize)
    pooling = options.pooling or own[0]
    unit = own[1] if options.normalize is None else options.normalize
    if sentence is not None:
        why = Message(", as its modules say" if (pooling, unit) == own else ", as asked")
    elif options.pooling is None:
        why = Message(
            ": the checkpoint does not say (set {options})",
            options=Options([Option("pooling"), Option("normalize")], last="and"),
        )
    else:
        why = Message("")
    note = Message(
        "pooling {pooling}, {normalized}{why}",
        pooling=pooling,
        normalized="normalized" if unit else "not normalized",
        why=why,
    )
    return _Pooled(pooling, unit, (note,))


def _require_unpooled(row: Task, options: ExportOptions) -> None:
    """Refuse options of tasks that pool."""
    given = [name for name in ("pooling", "normalize") if getattr(options, name) is not None]
    if given:
        pooled = [row.name for row in TASKS if row.pooled]
        raise UsageError(
            "{option} is for {pooled}, and the task is {task}; leave it out, or add {either}",
            option=Option(given[0]),
            pooled=", ".join(pooled),
            task=row.name,
            either=Options([Option("task", name) for name in pooled]),
        )


def _cross_encoder_note(raw: Mapping[str, Any], head: Head) -> tuple[Message, ...]:
    name = cross_encoder_activation(raw)
    # Said, not followed: logits are an output too, to which its own activation can be applied.
    if name is None or head.problem_type is None:
        return ()
    note = Message(
        "a Sentence-Transformers cross-encoder, whose own activation is {own}: scores use {activation}, as "
        "Hugging Face's pipeline does, and the output logits holds the raw values",
        own=name.rpartition(".")[2],
        activation=head.activation,
    )
    return (note,)


def _weight_notes(loaded: Loaded, row: Task) -> tuple[Message, ...]:
    notes = []
    if loaded.wrapping:
        notes.append(
            Message(
                "the names of the weights begin with {wrapping}, which was taken off",
                wrapping=loaded.wrapping,
            )
        )
    return (*notes, *_unused_note(loaded.unused, row))


def _unused_note(unused: Sequence[str], row: Task) -> tuple[Message, ...]:
    if not unused:
        return ()
    # By their first two names: a pre-training head of many tensors is one thing to a reader.
    groups = sorted({".".join(name.split(".")[:2]) for name in unused})
    more = f" and {len(groups) - 8} more" if len(groups) > 8 else ""
    note = Message(
        "weights that {task} has no use for: {weights}",
        task=row.name,
        weights=", ".join(groups[:8]) + more,
    )
    return (note,)


def _embedding_rows(model: PreTrainedModel) -> int:
    table: Any = model.get_input_embeddings()
    return int(table.weight.shape[0])


def _width(plan: _Plan) -> int | None:
    """Return the length of an embedding, having checked that each dense layer fits the one before."""
    if not plan.row.pooled:
        return None
    width = int(plan.config.hidden_size)
    for layer in plan.sentence.dense if plan.sentence is not None else ():
        out_features, in_features = layer.weight.shape
        if in_features != width:
            raise CheckpointError(
                "a Dense module of {folder} reads {reads} values, and the step before it gives {given}; the "
                "modules do not belong together",
                folder=plan.folder,
                reads=in_features,
                given=width,
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
    notes: tuple[Message, ...],
) -> Checkpoint:
    if plan.row.masked and tokenizer.mask_token_id is None:
        raise CheckpointError(
            "the tokenizer in {folder} has no mask token, which {task} needs; add mask_token to "
            "tokenizer_config.json",
            folder=plan.folder,
            task=plan.row.name,
        )
    pad = tokenizer.pad_token_id
    return Checkpoint(
        source=source,
        model=model,
        config=model.config,
        family=str(plan.config.model_type),
        task=plan.row.name,
        tokenizer_text=tokenizer.text,
        labels=plan.head.labels,
        problem_type=plan.head.problem_type,
        activation=plan.head.activation,
        pairs=plan.pairs,
        pooling=plan.pooled.pooling,
        normalize=plan.pooled.normalize,
        dense=plan.sentence.dense if plan.sentence is not None else (),
        width=_width(plan),
        prompts=plan.sentence.prompts if plan.sentence is not None else {},
        default_prompt=plan.sentence.default_prompt if plan.sentence is not None else None,
        pooled_prompt=True,
        max_length=max_length,
        mask_token=tokenizer.mask_token if plan.row.masked else None,
        mask_token_id=tokenizer.mask_token_id if plan.row.masked else None,
        pad_token_id=pad if pad is not None else plan.config.pad_token_id or 0,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        clean_up_spaces=tokenizer.clean_up_spaces,
        input_names=accepted_inputs(model, tokenizer.input_names),
        notes=notes,
    )
