"""The finished graph against the libraries that made the checkpoint, through their own functions.

Parity compares with a model that this exporter read, fed with tokens that it made; what it misread is then
the same on both sides. Here a library reads the folder and the texts by itself.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bertonnx.errors import MissingDependencyError, ParityError, UsageError
from bertonnx.exporters.checkpoint.adapters import Adapter, own_task, tokenizer_folder
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.folder import SETFIT_HEAD
from bertonnx.exporters.checkpoint.merging import peft_settings, without_adapter
from bertonnx.exporters.checkpoint.weight_files import weight_files
from bertonnx.exporters.options import ExportOptions
from bertonnx.exporters.quiet import quiet
from bertonnx.exporters.verify.parity import TOLERANCE, sample_feeds
from bertonnx.exporters.verify.samples import sample_rows
from bertonnx.models.card import Card
from bertonnx.models.figures import IndependentParity
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import ENCODER, Task
from bertonnx.models.tasks import task as task_named
from bertonnx.models.verifiers import VERIFIERS, Verifier
from bertonnx.runtime.rows import Array, Row
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Message, Option, said_by

__all__ = [
    "Answers",
    "CannotCheckError",
    "Exported",
    "has_adapter",
    "is_sentence_folder",
    "opened",
    "require_installed",
    "sentence_answers",
    "unmerged_answers",
    "verify",
]

ALWAYS = "BERTONNX_VERIFY"
"""An environment variable: any value has every export checked by the libraries that made its checkpoint."""

_PROMPTED = 3
"""Rows that are tried with each prompt."""

Answers = Mapping[str, Array]
"""What a library gives for one row, by the graph's output; without the axis of the batch."""


class CannotCheckError(Exception):
    """A library cannot check this export; its argument says why."""

    def __init__(self, why: Message) -> None:
        super().__init__(str(why))
        self.why = why


@dataclass(frozen=True)
class Exported:
    """A finished graph, as users will run it.

    Attributes:
        session: runs it.
        card: says how its texts are tokenized.
        tokenizer: of the file.
        rows: what it is tried on.
    """

    session: Session
    card: Card
    tokenizer: TextTokenizer
    rows: Sequence[Row]

    def answers(self, rows: Sequence[Row]) -> list[dict[str, Array]]:
        """Return what the graph gives for each row by itself."""
        names = self.card.outputs
        feeds = sample_feeds(
            rows, self.tokenizer, inputs=self.card.inputs, pad_token_id=self.card.pad_token_id
        )
        # The first holds all rows together, padded, which parity has compared.
        runs = (self.session.run(names, feed) for feed in feeds[1:])
        return [{name: out[0] for name, out in zip(names, run, strict=True)} for run in runs]


def require_installed(names: Sequence[str]) -> None:
    """Raise a MissingDependencyError where a library that shall check an export is not installed."""
    for row in map(VERIFIERS.__getitem__, names):
        if importlib.util.find_spec(row.module) is None:
            raise MissingDependencyError(
                "{asked} was asked for, and it is not installed; type: {install}",
                asked=Option("verify_with", [row.name]),
                install=row.install,
            )


def verify(
    checkpoint: Checkpoint, exported: Exported, options: ExportOptions
) -> Mapping[str, IndependentParity]:
    """Return how far a graph is from what each library gives by itself.

    Raises:
        ParityError: further than `parity.TOLERANCE` allows; names the library, the output and the text.
        UsageError: a library that was asked for cannot check this export.
    """
    found: dict[str, IndependentParity] = {}
    for verifier, asked in _chosen(checkpoint, options):
        rows = _rows(exported, pairs=verifier.pairs)
        try:
            with quiet():
                wanted: list[Answers] = resolve(verifier.answers)(checkpoint, options, exported.card, rows)
        except CannotCheckError as error:
            if not asked:
                continue
            raise UsageError(
                "{asked} cannot check this export: {why}; leave it out",
                asked=Option("verify_with", [verifier.name]),
                why=error.why,
            ) from error
        found[verifier.name] = _compared(verifier, exported, rows, wanted)
    return found


def _chosen(checkpoint: Checkpoint, options: ExportOptions) -> list[tuple[Verifier, bool]]:
    """Return who checks, and whether the user asked for it."""
    if options.verify_with:
        return [(VERIFIERS[name], True) for name in dict.fromkeys(options.verify_with)]
    if not os.environ.get(ALWAYS):
        return []
    there = [row for row in VERIFIERS if importlib.util.find_spec(row.module) is not None]
    return [(row, False) for row in there if resolve(row.made)(checkpoint)]


def _rows(exported: Exported, *, pairs: bool) -> list[Row]:
    card = exported.card
    if pairs and card.takes_pair and not task_named(card.task).pooled:
        return sample_rows(pairs=True, mask_token=None, max_length=card.max_length)
    prompts = [name for name, text in card.prompts.items() if text]
    if card.late is not None:
        prompts = list(card.late.sides)
    return [
        *exported.rows,
        *(replace(row, prompt=name) for name in prompts for row in exported.rows[:_PROMPTED]),
    ]


def _compared(
    verifier: Verifier, exported: Exported, rows: Sequence[Row], wanted: Sequence[Answers]
) -> IndependentParity:
    version = importlib.metadata.version(verifier.name)
    precision = exported.card.precision
    # Over all texts: what is allowed is relative to the largest number of an output.
    largest = {name: max(_largest(answer[name]) for answer in wanted) for name in wanted[0]}
    worst = 0.0
    for row, own, answer in zip(rows, exported.answers(rows), wanted, strict=True):
        for name, reference in answer.items():
            allowed = TOLERANCE[precision] * max(1.0, largest[name])
            difference = _difference(own[name], reference)
            # Not `>`: with a NaN on either side that would be false, and pass.
            if not difference <= allowed:
                raise ParityError(
                    "the exported graph and {library} {version} disagree on {output} of the text {text!r}: "
                    "largest difference {difference:.3g}, allowed {allowed:.3g} ({precision}); no file was "
                    "written. Please report the model",
                    library=verifier.name,
                    version=version,
                    output=name,
                    text=row.text[:60],
                    difference=difference,
                    allowed=allowed,
                    precision=precision,
                )
            worst = max(worst, difference)
    return IndependentParity(
        version=version,
        texts=len(rows),
        tolerance=TOLERANCE[precision],
        max_abs_difference=worst,
        max_abs_reference=max(largest.values()),
    )


def _largest(array: Array) -> float:
    return float(np.abs(array).max(initial=0.0))


def _difference(own: Array, reference: Array) -> float:
    # Another number of tokens or labels is as wrong as can be.
    if own.shape != reference.shape:
        return float("inf")
    return float(np.abs(own.astype(np.float64) - reference).max(initial=0.0))


def is_sentence_folder(checkpoint: Checkpoint) -> bool:
    """Tell whether Sentence-Transformers saved a checkpoint."""
    folder = checkpoint.source.folder
    return any((folder / name).is_file() for name in ("modules.json", "config_sentence_transformers.json"))


def has_adapter(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint is an adapter."""
    return checkpoint.source.adapter is not None


def sentence_answers(
    checkpoint: Checkpoint, options: ExportOptions, card: Card, rows: Sequence[Row]
) -> list[Answers]:
    """Return what Sentence-Transformers gives: embeddings, or the scores of pairs.

    Raises:
        CannotCheckError: the task is none of its, or options make the file another model than the folder.
    """
    if options.pooling is not None or options.normalize is not None or options.head_activation is not None:
        raise CannotCheckError(
            Message("it pools, normalizes and makes scores as the folder says, and you chose otherwise")
        )
    row = task_named(checkpoint.task)
    if row.pooled:
        return _encoded(checkpoint, card, rows)
    if row.library and is_sentence_folder(checkpoint):
        found: list[Answers] = resolve(row.library)(checkpoint, card, rows)
        return found
    if (checkpoint.source.folder / SETFIT_HEAD).is_file():
        raise CannotCheckError(Message("it does not read SetFit's classifier"))
    if row.activated and card.takes_pair:
        return _predicted(checkpoint, card, rows)
    raise CannotCheckError(
        Message("it gives embeddings and scores of pairs, and this is {task}", task=checkpoint.task)
    )


def _encoded(checkpoint: Checkpoint, card: Card, rows: Sequence[Row]) -> list[Answers]:
    model = opened("SentenceTransformer", checkpoint)
    model.max_seq_length = card.max_length
    found: list[Answers] = []
    for row in rows:
        # None is its own default prompt, as it is ours.
        vector = model.encode([row.text], prompt_name=row.prompt or None, show_progress_bar=False)
        found.append({"sentence_embedding": np.asarray(vector[0], dtype=np.float32)})
    return found


def _predicted(checkpoint: Checkpoint, card: Card, rows: Sequence[Row]) -> list[Answers]:
    import torch

    model = opened("CrossEncoder", checkpoint)
    model.max_length = card.max_length

    def predict(row: Row, activation: Any = None) -> Array:
        # None is the folder's own activation, or the library's default.
        scores = model.predict([(row.text, row.pair)], show_progress_bar=False, activation_fn=activation)
        return np.asarray(scores, dtype=np.float32).reshape(-1)

    raw = [{"logits": predict(row, torch.nn.Identity())} for row in rows]
    # Of another classifier it would take an activation that nobody chose; and it knows of no temperature.
    if not is_sentence_folder(checkpoint) or checkpoint.temperature != 1.0:
        return list(raw)
    return [{**answer, "scores": predict(row)} for answer, row in zip(raw, rows, strict=True)]


def opened(kind: str, checkpoint: Checkpoint) -> Any:
    """Return a checkpoint as a class of Sentence-Transformers opens it.

    Raises:
        CannotCheckError: it does not, or the installed version has no such class.
    """
    import sentence_transformers

    if not hasattr(sentence_transformers, kind):
        raise CannotCheckError(
            Message("{version} has no {kind}", version=sentence_transformers.__version__, kind=kind)
        )
    source = checkpoint.source
    try:
        model = getattr(sentence_transformers, kind)(
            str(source.folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=source.trust.trust_remote_code,
        )
    except Exception as error:  # each module fails in its own way
        raise CannotCheckError(
            Message("it cannot open {folder} ({why})", folder=source.folder, why=said_by(error))
        ) from error
    return model.float().eval()


def unmerged_answers(
    checkpoint: Checkpoint,
    options: ExportOptions,  # noqa: ARG001
    card: Card,
    rows: Sequence[Row],
) -> list[Answers]:
    """Return what peft gives with the adapter beside the base model's weights, before any head of ours.

    Raises:
        CannotCheckError: there is no adapter.
    """
    adapter = checkpoint.source.adapter
    if adapter is None:
        raise CannotCheckError(Message("{source} holds no adapter", source=checkpoint.source.id))
    import peft
    import torch
    import transformers

    row = task_named(checkpoint.task)
    whole = own_task(adapter, checkpoint.config) or row
    base = _base(checkpoint, adapter, whole)
    model: Any = peft.PeftModel.from_pretrained(
        base, str(adapter.folder), config=peft_settings(adapter), torch_device="cpu"
    ).eval()
    # The encoder alone was asked for, of an adapter that was trained with a head.
    if row == ENCODER and whole != ENCODER:
        model = model.base_model.model.base_model
    own: Any = transformers.AutoTokenizer.from_pretrained(
        tokenizer_folder(adapter, adapter.base), local_files_only=True
    )
    names = [name for name in row.raw_outputs if name in row.outputs]
    found: list[Answers] = []
    for item in rows:
        given = own(
            card.prompt_text(item.prompt) + item.text,
            item.pair,
            truncation="only_second" if row.pair_is_cut else True,
            max_length=card.max_length,
            return_tensors="pt",
        )
        with torch.no_grad():
            out = model(**{name: given[name] for name in card.inputs if name in given})
        found.append({name: out[name][0].numpy() for name in names})
    return found


def _base(checkpoint: Checkpoint, adapter: Adapter, whole: Task) -> Any:
    import torch
    import transformers

    load: Any = transformers.AutoConfig.from_pretrained
    config = load(adapter.base, local_files_only=True)
    if whole.labelled:
        config.num_labels = checkpoint.config.num_labels
    with without_adapter(adapter.base) as place:
        base = getattr(transformers, whole.auto_class).from_pretrained(
            place,
            config=config,
            torch_dtype=torch.float32,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            use_safetensors=bool(weight_files(place)),
        )
    if base.config.vocab_size != checkpoint.config.vocab_size:
        base.resize_token_embeddings(checkpoint.config.vocab_size)
    return base
