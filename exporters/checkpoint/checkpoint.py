"""From a source to a checkpoint that is complete, consistent and ready to be exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.adapters import adapted_config, handed_on, tokenizer_folder
from bertonnx.exporters.checkpoint.config_account import settled
from bertonnx.exporters.checkpoint.cross_encoder import (
    CrossEncoder,
    crossed_head,
    read_cross_encoder,
    require_activation,
)
from bertonnx.exporters.checkpoint.embedding import Embedding
from bertonnx.exporters.checkpoint.encoders import accepted_inputs, in_place_of_code, require_encoder
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.checkpoint.hidden_states import hidden_states_of
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.labels import named_head
from bertonnx.exporters.checkpoint.length import Limit, longest_input, prepare_attention
from bertonnx.exporters.checkpoint.segments import pairs_read, unanswered_id
from bertonnx.exporters.checkpoint.sentence_layers import Layer, Pool
from bertonnx.exporters.checkpoint.sentence_settings import Settings, kind_of
from bertonnx.exporters.checkpoint.sentence_transformers import SentenceModules, read_modules
from bertonnx.exporters.checkpoint.setfit import SetFit, read_setfit
from bertonnx.exporters.checkpoint.source import Source
from bertonnx.exporters.checkpoint.task import Head, require_exportable, require_logits, task_of, text_pairs
from bertonnx.exporters.checkpoint.tokenizer import TokenizerFacts, read_tokenizer
from bertonnx.exporters.checkpoint.weights import Loaded, load_config, load_model
from bertonnx.exporters.options import ExportOptions
from bertonnx.models.registry import resolve
from bertonnx.models.retrieval import LateInteraction, SparseWeights
from bertonnx.models.tasks import ENCODER, RANKER, TASKS, Task
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
        traced: the task whose class of transformers is traced: another where `layers` make the logits.
        tokenizer_text: a `tokenizer.json` without padding and truncation; Sentence-Transformers'
            lower-casing is in it.
        labels: class names in the order of the logits.
        problem_type: of text classification.
        activation: name of a row of `models.activations`.
        pairs: whether it reads text pairs; None where the checkpoint does not say.
        pooling: where token vectors are pooled: names of rows of `models.pooling`, joined by commas.
        normalize: whether embeddings get length 1.
        layers: what follows the traced model, pooling included, in order; none where its own head does all.
        width: where token vectors are pooled: length of an embedding.
        also: other tasks that it is exported for too.
        sparse: of sparse embeddings.
        late: of many vectors for a text.
        similarity: how embeddings are compared; None where the checkpoint does not say.
        prompts: name -> text.
        default_prompt: name of the one that is used where none is asked for.
        pooled_prompt: whether the tokens of a prompt are pooled.
        max_length: longest input in tokens, special ones included.
        mask_token: where texts must hold one.
        mask_token_id: its id.
        cls_token_id: of question answering.
        unk_token_id: of token classification.
        pad_token_id: id for padding.
        left_out_id: of fill-mask.
        padding_side: "right" or "left".
        truncation_side: "right" or "left".
        clean_up_spaces: of decoded text.
        input_names: what the tokenizer makes and the model reads, in their usual order.
        notes: what was chosen for the user, a sentence each.
        hidden_states: layers whose token vectors shall be outputs.
        hidden_layers: how many layers there are; None where none shall be.
        private_keys: keys of its files that no library reads.
        ignored_keys: keys that were ignored because the user said so.
        temperature: what logits are divided by before the activation; a float32.
    """

    source: Source
    model: PreTrainedModel
    config: PretrainedConfig
    family: str
    task: str
    traced: str
    tokenizer_text: str
    labels: tuple[str, ...]
    problem_type: str | None
    activation: str
    pairs: bool | None
    pooling: str | None
    normalize: bool
    layers: tuple[Layer, ...]
    width: int | None
    also: tuple[str, ...]
    sparse: SparseWeights | None
    late: LateInteraction | None
    similarity: str | None
    prompts: Mapping[str, str]
    default_prompt: str | None
    pooled_prompt: bool
    max_length: int
    mask_token: str | None
    mask_token_id: int | None
    cls_token_id: int | None
    unk_token_id: int | None
    pad_token_id: int
    left_out_id: int | None
    padding_side: str
    truncation_side: str
    clean_up_spaces: bool
    input_names: tuple[str, ...]
    notes: tuple[Message, ...]
    hidden_states: tuple[int, ...] = ()
    hidden_layers: int | None = None
    private_keys: tuple[str, ...] = ()
    ignored_keys: tuple[str, ...] = ()
    temperature: float = 1.0


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
    loaded = load_model(source, plan.folder, plan.config, plan.traced, asked=options.task is not None)
    if source.replica is not None:
        source.replica.settle(loaded.model)
    tokenizer = read_tokenizer(
        tokenizer_folder(source.adapter, plan.folder),
        embeddings=_embedding_rows(loaded.model),
        account=account,
        lower=plan.sentence is not None and plan.sentence.options.lower,
        trust_remote_code=source.trust.trust_remote_code,
    )
    reaching, adapter_notes = handed_on(source.adapter, tokenizer.input_names)
    tokenizer = replace(tokenizer, input_names=reaching)
    max_length, length_notes = longest_input(
        plan.row,
        loaded.model,
        tokenizer.max_length,
        _sequence_limit(plan, options),
        plan.attention.tokens,
        asked=options.max_length,
        least=tokenizer.least,
    )
    pairs, pair_notes = pairs_read(plan.row, plan.pairs, loaded.model, tokenizer)
    plan = replace(plan, pairs=pairs)
    notes = (
        *(source.replica.notes if source.replica is not None else ()),
        *_passed_over(source),
        *plan.notes,
        *_weight_notes(loaded, plan.row, plan.embedding.used),
        *pair_notes,
        *tokenizer.notes,
        *adapter_notes,
        *length_notes,
        *account.notes,
    )
    checkpoint = _assembled(source, plan, loaded.model, tokenizer, max_length=max_length, notes=notes)
    hidden, layers = hidden_states_of(loaded.model, options.hidden_states)
    return replace(
        checkpoint,
        hidden_states=hidden,
        hidden_layers=layers,
        private_keys=account.private_keys,
        ignored_keys=account.ignored_keys,
    )


def _passed_over(source: Source) -> Iterator[Message]:
    if source.passed_over:
        yield Message(
            "PyTorch's weights are read; those of TensorFlow beside them are not: {names}",
            names=", ".join(source.passed_over),
        )


def _sequence_limit(plan: _Plan, options: ExportOptions) -> int | None:
    """Return the longest input that the checkpoint's own settings say."""
    if plan.embedding.longest is not None:
        # Of documents, which a user may want longer than they were when the model was trained.
        return plan.embedding.longest if options.max_length is None else None
    return None if plan.sentence is None else plan.sentence.options.max_seq_length


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is decided before any weight is read."""

    folder: Path
    config: PretrainedConfig
    row: Task
    traced: Task
    head: Head
    pairs: bool | None
    sentence: SentenceModules | None
    settings: Settings
    layers: tuple[Layer, ...]
    embedding: Embedding
    attention: Limit
    notes: tuple[Message, ...]


def _planned(source: Source, options: ExportOptions, account: Account) -> _Plan:
    asked = None if options.task is None else TASKS[options.task]
    sentence = _modules(asked, source, account)
    folder = sentence.folder if sentence is not None and source.adapter is None else source.model_folder
    trusted = source.trust.trust_remote_code
    raw: Mapping[str, Any] = in_place_of_code(read_json(folder / "config.json"), trusted=trusted)
    require_encoder(raw, source.id)
    # The raw file is judged first: transformers has no class for a family that it does not know.
    read = settled(raw, account)
    config = load_config(folder, read, trust_remote_code=source.trust.trust_remote_code)
    raw, merged = adapted_config(source.adapter, config, raw, asked=asked, account=account)
    crosses = read_cross_encoder(sentence, config, raw, source.trust, folder=source.folder)
    fitted = read_setfit(source, sentence, config.hidden_size, asked, account)
    row, chosen = _chosen_task(asked, config, sentence, fitted or crosses)
    require_activation(row, options)
    layers = _head_layers(row, fitted or crosses)
    traced = ENCODER if row.activated and layers else row
    require_exportable(traced, config.model_type, getattr(config, "auto_map", None) or ())
    require_logits(traced, raw)
    head = fitted.head if fitted is not None else crossed_head(row, crosses, config, raw, options)
    head = named_head(head, row, options.labels)
    # This changes the configuration, and must come before a model is made of it.
    attention = prepare_attention(config)
    # A cross-encoder's modules make scores: its encoder alone is one like any other.
    embeds = None if crosses is not None else sentence
    embedding: Embedding = resolve(row.layers)(row, embeds, options, config, source=source, account=account)
    return _Plan(
        folder=folder,
        config=config,
        row=row,
        traced=traced,
        head=head,
        pairs=text_pairs(row, head.labels, raw, crosses=crosses is not None),
        sentence=sentence,
        settings=_settings(row, sentence, fitted or crosses),
        layers=layers or embedding.layers,
        embedding=embedding,
        attention=attention,
        notes=(
            *merged,
            *chosen,
            *attention.notes,
            *embedding.notes,
            *_score_note(row, head, crosses, options),
        ),
    )


def _modules(asked: Task | None, source: Source, account: Account) -> SentenceModules | None:
    """Return the modules of a folder that the task has a use for.

    Raises:
        UnsupportedError: the folder is of a kind that is exported for another task alone.
    """
    # Where a task without modules is asked for, those that bertonnx cannot follow are no obstacle.
    if asked is None or asked.pooled or asked.activated:
        found = read_modules(source.folder, account, source.trust)
        if asked is not None and found is not None:
            _require_kind(asked, found.settings.kind, source)
        return found
    if kind_of(source.folder) in asked.kinds:
        return read_modules(source.folder, account, source.trust)
    return None


def _require_kind(asked: Task, kind: str, source: Source) -> None:
    tasks = [row for row in TASKS if kind in row.kinds]
    if not any(row.pooled or row.activated for row in tasks):
        raise UnsupportedError(
            "{source} is a {kind}, which cannot be exported for {task}; what can: {option}",
            source=source.id,
            kind=kind,
            task=asked.name,
            option=Options([Option("task", row.name) for row in tasks]),
        )


def _chosen_task(
    asked: Task | None,
    config: PretrainedConfig,
    sentence: SentenceModules | None,
    classifies: CrossEncoder | SetFit | None,
) -> tuple[Task, tuple[Message, ...]]:
    """Return the task, and a note where the user did not choose it."""
    if asked is not None:
        return asked, ()
    if classifies is not None:
        return classifies.task, (classifies.note,)
    # Its architecture may still name the head of its pre-training, which its modules do not use.
    if sentence is not None:
        row = next(row for row in TASKS if sentence.settings.kind in row.kinds)
        what = "Sentence-Transformers folder" if row.pooled else sentence.settings.kind
        return row, (Message("task {task}, because it is a {what}", task=row.name, what=what),)
    row, note = task_of(config.architectures or ())
    return row, (note,)


def _head_layers(row: Task, classifies: CrossEncoder | SetFit | None) -> tuple[Layer, ...]:
    return classifies.layers if classifies is not None and row.activated else ()


def _settings(
    row: Task, sentence: SentenceModules | None, classifies: CrossEncoder | SetFit | None
) -> Settings:
    """Return the prompts and the like of a folder that hold for the task.

    Those of a cross-encoder are not its encoder's, nor those of embeddings a head's of transformers:
    Sentence-Transformers leaves them out where it reads a folder of one kind as another.
    """
    alike = row.activated == (classifies is not None)
    return sentence.settings if sentence is not None and alike else Settings()


def _score_note(
    row: Task, head: Head, crosses: CrossEncoder | None, options: ExportOptions
) -> tuple[Message, ...]:
    """Say what makes scores where that may surprise, and how a ranker is made of a lone number."""
    if options.head_activation is not None:
        return (Message("scores use {activation}, as asked", activation=head.activation),)
    if crosses is not None and row.activated:
        return (
            Message("scores use {activation}, as the cross-encoder's predict", activation=head.activation),
        )
    if row.activated and not row.ranks and len(head.labels) == 1 and options.task is None:
        return (
            Message(
                "one output, and nothing says what it is for; where it ranks documents for a query, export "
                "it with {option}",
                option=Option("task", RANKER.name),
            ),
        )
    return ()


def _weight_notes(loaded: Loaded, row: Task, used: Sequence[str]) -> tuple[Message, ...]:
    notes = []
    renaming = loaded.renaming
    if renaming.off:
        notes.append(
            Message(
                "the names of the weights begin with {wrapping}, which was taken off", wrapping=renaming.off
            )
        )
    if renaming.base:
        notes.append(
            Message(
                "the names of the encoder's weights lack {base} beside those of the head; it was put there",
                base=renaming.base,
            )
        )
    return (*notes, *_unused_note([name for name in loaded.unused if name not in used], row))


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


def _sparse(embedding: Embedding, tokenizer: TokenizerFacts) -> SparseWeights | None:
    """Return which weights of words count, tokens by their ids."""
    if embedding.sparse is None or not embedding.unused:
        return embedding.sparse
    ids = (tokenizer.special_ids.get(name) for name in embedding.unused)
    return replace(embedding.sparse, unused=tuple(sorted({number for number in ids if number is not None})))


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
    settings = plan.settings
    return Checkpoint(
        source=source,
        model=model,
        config=model.config,
        family=str(plan.config.model_type),
        task=plan.row.name,
        traced=plan.traced.name,
        tokenizer_text=tokenizer.text,
        labels=plan.head.labels,
        problem_type=plan.head.problem_type,
        activation=plan.head.activation,
        pairs=plan.pairs,
        pooling=plan.embedding.pooling,
        normalize=plan.embedding.normalize,
        layers=plan.layers,
        width=plan.embedding.width,
        also=plan.embedding.also,
        sparse=_sparse(plan.embedding, tokenizer),
        late=None if plan.embedding.late is None else plan.embedding.late(tokenizer, max_length),
        similarity=settings.similarity if plan.embedding.late is None else None,
        prompts=settings.prompts,
        # A prompt may be called "".
        default_prompt=(
            plan.embedding.default_prompt if settings.default_prompt is None else settings.default_prompt
        ),
        pooled_prompt=all(layer.prompt for layer in plan.layers if isinstance(layer, Pool)),
        max_length=max_length,
        mask_token=tokenizer.mask_token if plan.row.masked else None,
        mask_token_id=tokenizer.mask_token_id if plan.row.masked else None,
        cls_token_id=unanswered_id(plan.row, tokenizer),
        unk_token_id=tokenizer.special_ids.get("unk_token", -1)
        if "aggregation" in plan.row.options
        else None,
        pad_token_id=pad if pad is not None else plan.config.pad_token_id or 0,
        left_out_id=tokenizer.special_ids.get("pad_token", -1) if plan.row.masked else None,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        clean_up_spaces=tokenizer.clean_up_spaces,
        input_names=accepted_inputs(model, tokenizer.input_names),
        notes=notes,
    )
