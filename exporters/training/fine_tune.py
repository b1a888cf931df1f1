"""Fine-tuning a checkpoint with transformers' Trainer, up to a folder that `export` reads."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError

from bertonnx.errors import CheckpointError, MissingDependencyError, OutputError, UsageError
from bertonnx.exporters.checkpoint.length import positions
from bertonnx.exporters.checkpoint.tokenizer_folder import read_folder
from bertonnx.exporters.quiet import quiet
from bertonnx.exporters.training.encoded import encoded_labels, encoded_tags, tag_names
from bertonnx.exporters.training.lesson import Lesson
from bertonnx.exporters.training.options import TrainOptions
from bertonnx.models.tasks import CLASSIFIER, TAGGER
from bertonnx.runtime.evaluation.labelled import MULTI, REGRESSION, Labelled
from bertonnx.runtime.evaluation.tagged import Tagged
from bertonnx.wording import Install, Option

__all__ = ["Tuned", "fine_tune"]

_LONGEST = 512
_RATE, _LORA_RATE = 5e-5, 3e-4
_WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""

_NOTE = "bertonnx.json"
_BETWEEN_LINES = 5.0
"""Seconds between lines of progress."""


@dataclass(frozen=True)
class Tuned:
    """A checkpoint that was fine-tuned.

    Attributes:
        folder: where it lies, complete.
        settings: what was chosen.
        longest: tokens of a text that were read.
        cut: how many of the texts to train on were longer.
    """

    folder: Path
    settings: dict[str, str | int | float | None]
    longest: int
    cut: int


def fine_tune(
    base: Path,
    lesson: Lesson,
    work: Path,
    options: TrainOptions,
    progress: Callable[[str], None],
    *,
    named: str = "",
    rehearsed: Callable[[Path], object] = lambda _: None,
) -> Tuned:
    """Fine-tune a checkpoint; what was best on the rows to measure on is kept.

    Args:
        base: folder with config.json, weights and tokenizer.
        lesson: what is to be learned.
        work: a folder for what is saved on the way; with `options.resume` that of the run that was stopped.
        options: how.
        progress: is told how far it is.
        named: what the user calls the base, by which a training that was stopped is known again.
        rehearsed: is shown the folder of the model before it is trained, and raises what an export of it
            would.

    Raises:
        UsageError: there is nothing to resume, or it was another training.
        CheckpointError: the base cannot be loaded.
        OutputError: the disk is full.
        MissingDependencyError: peft is not installed, and adapters were asked for.
    """
    if options.lora is not None:
        _peft(options.lora)
    try:
        return _tuned(base, lesson, work, options, progress, named or str(base.resolve()), rehearsed)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_full(error):
            raise
        raise OutputError(
            "{work} cannot be written: {why}; make room, then go on with {resume}",
            work=work,
            why=error,
            resume=Option("resume", True),
        ) from error


def _tuned(
    base: Path,
    lesson: Lesson,
    work: Path,
    options: TrainOptions,
    progress: Callable[[str], None],
    named: str,
    rehearsed: Callable[[Path], object],
) -> Tuned:
    begun = _prepared(work, named, lesson, options)
    transformers.set_seed(options.seed)
    # Which says what is missing; transformers would not.
    read_folder(base)
    with quiet(), _loading(base):
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        model = _model(base, lesson)
    if begun is None:
        # What an export refuses should not be found after hours.
        first = work / "first"
        try:
            rehearsed(_saved(first, model, tokenizer))
        finally:
            shutil.rmtree(first, ignore_errors=True)
    longest = _longest(model, tokenizer, options)
    names = _names(lesson)
    (train, cut), (measured, _) = (_rows(part, tokenizer, names, longest) for part in _parts(lesson))
    trained = model if options.lora is None else _with_adapters(model, options.lora, tagged=lesson.tagged)
    trainer = _trainer(trained, tokenizer, (train, measured), work, lesson, options, progress)
    with quiet():
        trainer.train(resume_from_checkpoint=None if begun is None else str(begun))
    finished = trainer.model if options.lora is None else trainer.model.merge_and_unload()
    folder = _saved(work / "finished", finished, tokenizer)
    return Tuned(folder, _settings(trainer, options, longest), longest, cut)


def _saved(folder: Path, model: Any, tokenizer: Any) -> Path:
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def _loading(base: Path) -> Iterator[None]:
    """Say whatever keeps transformers from reading a base."""
    try:
        yield
    # Of files that are broken or not there transformers raises nearly anything, TypeError among it.
    except Exception as error:
        raise CheckpointError(
            "{base} cannot be loaded for training: {why}", base=base, why=str(error) or repr(error)
        ) from error


def _prepared(work: Path, base: str, lesson: Lesson, options: TrainOptions) -> Path | None:
    """Make the folder for what is saved on the way; return what there is to go on with, if anything."""
    # Of what was chosen all but what may differ when it goes on.
    chosen = {name: value for name, value in asdict(options).items() if name not in ("resume", "force")}
    note = json.dumps({"base": base, "data": lesson.digests, "options": chosen}, default=str, sort_keys=True)
    path = work / _NOTE
    if not options.resume:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        path.write_text(note, encoding="utf-8")
        return None
    if not path.is_file():
        raise UsageError(
            "{resume}: there is nothing to go on with in {work}; leave it out",
            resume=Option("resume", True),
            work=work,
        )
    if path.read_text(encoding="utf-8") != note:
        raise UsageError(
            "{resume}: what was stopped had another base, other data or other options; repeat its command, "
            "or leave {option} out",
            resume=Option("resume", True),
            option=Option("resume"),
        )
    return _last_whole(work)


def _last_whole(work: Path) -> Path | None:
    """Return the newest checkpoint that was saved whole, and take away those that a kill cut off."""
    whole = []
    for place in work.glob("checkpoint-*"):
        try:
            # It is written last.
            json.loads((place / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(place, ignore_errors=True)
        else:
            whole.append(place)
    return max(whole, key=lambda place: int(place.name.rpartition("-")[2]), default=None)


def _parts(lesson: Lesson) -> tuple[Labelled | Tagged, Labelled | Tagged]:
    return lesson.split.train, lesson.split.validation


def _names(lesson: Lesson) -> tuple[str, ...]:
    train = lesson.split.train
    if isinstance(train, Tagged):
        return tag_names(train.names)
    return train.names or ("score",)


def _rows(
    data: Labelled | Tagged, tokenizer: Any, names: Sequence[str], longest: int
) -> tuple[list[Any], int]:
    """Return what is trained or measured on, and how many texts were cut for it."""
    if isinstance(data, Tagged):
        return encoded_tags(data, tokenizer, names=names, max_length=longest), 0
    return encoded_labels(data, tokenizer, names=names, max_length=longest)


def _model(base: Path, lesson: Lesson) -> Any:
    train, names = lesson.split.train, _names(lesson)
    row = TAGGER if lesson.tagged else CLASSIFIER
    settings: dict[str, Any] = {} if isinstance(train, Tagged) else {"problem_type": train.kind}
    model = getattr(transformers, row.auto_class).from_pretrained(
        base,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: place for place, name in enumerate(names)},
        # An earlier head may have other labels; it is made anew then.
        ignore_mismatched_sizes=True,
        **settings,
    )
    # Checkpoints may be saved in halves, in which small steps are lost.
    return model.float()


def _longest(model: Any, tokenizer: Any, options: TrainOptions) -> int:
    limits = [positions(model), tokenizer.model_max_length, options.max_length or _LONGEST]
    return int(min(limit for limit in limits if limit))


def _peft(rank: int) -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingDependencyError(
            "{asked} needs peft; install it with: {install}",
            asked=Option("lora", rank),
            install=Install("cpu,train,adapters"),
        ) from error
    return peft


def _with_adapters(model: Any, rank: int, *, tagged: bool) -> Any:
    peft = _peft(rank)
    kind = peft.TaskType.TOKEN_CLS if tagged else peft.TaskType.SEQ_CLS
    # Of the encoder: the head is new, and is trained whole.
    prefix = model.base_model_prefix
    layers = [
        f"{prefix}.{name}"
        for name, module in model.base_model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    settings = peft.LoraConfig(task_type=kind, r=rank, lora_alpha=2 * rank, target_modules=layers)
    return peft.get_peft_model(model, settings)


def _trainer(
    model: Any,
    tokenizer: Any,
    rows: tuple[list[Any], list[Any]],
    work: Path,
    lesson: Lesson,
    options: TrainOptions,
    progress: Callable[[str], None],
) -> Any:
    train, measured = rows
    steps = options.epochs * -(-len(train) // (options.batch_size * options.accumulate))
    cuda = torch.cuda.is_available()
    given: dict[str, Any] = {
        "output_dir": str(work),
        "num_train_epochs": options.epochs,
        "per_device_train_batch_size": options.batch_size,
        "per_device_eval_batch_size": 2 * options.batch_size,
        "gradient_accumulation_steps": options.accumulate,
        "learning_rate": _rate(options),
        "warmup_steps": int(_WARM_UP * steps),
        "weight_decay": 0.01,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "figure",
        "logging_strategy": "no",
        # Unless told, it reports to every tracker that is installed.
        "report_to": [],
        "disable_tqdm": True,
        "seed": options.seed,
        "data_seed": options.seed,
        "use_cpu": not cuda,
        "bf16": cuda and torch.cuda.is_bf16_supported(),
        "dataloader_pin_memory": cuda,
    }
    # What a version does not know it does by itself.
    known = {item.name for item in fields(transformers.TrainingArguments)}
    weights = _class_weights(lesson, train, options)
    collator = (
        transformers.DataCollatorForTokenClassification(tokenizer)
        if lesson.tagged
        else transformers.DataCollatorWithPadding(tokenizer)
    )
    trainer = _weighted_trainer(weights, several=_kind(lesson) == MULTI)(
        model=model,
        args=transformers.TrainingArguments(**{name: given[name] for name in given if name in known}),
        train_dataset=train,
        eval_dataset=measured,
        data_collator=collator,
        processing_class=tokenizer,
        compute_metrics=_figure_of(lesson),
        callbacks=[
            transformers.EarlyStoppingCallback(early_stopping_patience=options.patience),
            _Progress(progress),
        ],
    )
    # Losses are means of a step's rows, which it would add up, and not average, where steps are accumulated.
    trainer.model_accepts_loss_kwargs = False
    # It prints to standard output, which is for results.
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _rate(options: TrainOptions) -> float:
    usual = _RATE if options.lora is None else _LORA_RATE
    return usual if options.learning_rate is None else options.learning_rate


def _kind(lesson: Lesson) -> str | None:
    train = lesson.split.train
    return None if isinstance(train, Tagged) else train.kind


def _class_weights(lesson: Lesson, rows: Sequence[Any], options: TrainOptions) -> Any:
    """Return a weight for each label, so that rare ones count as much; None for equal ones.

    Of single labels and tags it is that of each with it, of several that of a row that has it over one that
    has not.
    """
    if options.class_weights == "none":
        return None
    several, labels = _kind(lesson) == MULTI, [row["labels"] for row in rows]
    if several:
        counts, total = np.sum(labels, axis=0), float(len(rows))
    else:
        flat = np.concatenate([np.atleast_1d(label) for label in labels])
        counts = np.bincount(flat[flat >= 0], minlength=len(_names(lesson))).astype(np.float64)
        total = counts.sum()
    # One that never comes has no weight to be found, and needs none.
    held = np.maximum(counts, 1.0)
    weights = (total - counts) / held if several else total / (np.count_nonzero(counts) * held)
    return torch.tensor(weights, dtype=torch.float32)


def _weighted_trainer(weights: Any, *, several: bool) -> Any:
    if weights is None:
        return transformers.Trainer

    class Weighted(transformers.Trainer):
        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,  # noqa: ARG002
        ) -> Any:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            weight = weights.to(outputs.logits.device)
            if several:
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    outputs.logits, labels, pos_weight=weight
                )
            else:
                # Of texts (rows, labels), of tokens (rows, tokens, labels).
                loss = torch.nn.functional.cross_entropy(
                    outputs.logits.flatten(0, -2), labels.flatten(), weight=weight
                )
            return (loss, outputs) if return_outputs else loss

    return Weighted


def _figure_of(lesson: Lesson) -> Callable[[Any], dict[str, float]]:
    """Return what tells one epoch from another: accuracy, F1 or correlation, as far as logits tell."""
    train = lesson.split.train

    def figure(found: Any) -> dict[str, float]:
        logits = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
        labels = found.label_ids
        if isinstance(train, Tagged):
            said, held = logits.argmax(-1), labels >= 0
            right = (said == labels) & (labels > 0)
            both = ((said > 0) & held).sum() + (labels > 0).sum()
            return {"figure": float(2 * right.sum() / max(both, 1))}
        if train.kind == REGRESSION:
            # The larger the better, as the others.
            return {"figure": -float(((logits.squeeze(-1) - labels) ** 2).mean())}
        if train.kind == MULTI:
            said, held = logits > 0, labels > 0.5
            return {"figure": float(2 * (said & held).sum() / max(said.sum() + held.sum(), 1))}
        return {"figure": float((logits.argmax(-1) == labels).mean())}

    return figure


class _Progress(transformers.TrainerCallback):
    """Says how far the training is, and how long it will take."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._began = time.monotonic()
        self._first = 0
        self._said = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Note where it begins."""
        self._began, self._first = time.monotonic(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Say how far it is, now and then."""
        now, done = time.monotonic(), state.global_step - self._first
        if now - self._said < _BETWEEN_LINES or not done:
            return
        self._said = now
        left = (state.max_steps - state.global_step) * (now - self._began) / done
        self._progress(
            f"fine-tuning: step {state.global_step} of {state.max_steps}, {_minutes(left)} left at most"
        )

    def on_evaluate(
        self,
        args: Any,  # noqa: ARG002
        state: Any,
        control: Any,  # noqa: ARG002
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Say how good it is after an epoch."""
        figure = (metrics or {}).get("eval_figure")
        if figure is not None:
            self._progress(
                f"fine-tuning: epoch {state.epoch:.0f}, {abs(figure):.4f} on the rows to measure on"
            )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _is_full(error: BaseException) -> bool:
    # safetensors raises its own kind, with the system's words; torch writes none, but for its own source.
    said = str(error)
    return (
        getattr(error, "errno", None) == errno.ENOSPC or "No space left" in said or "inline_container" in said
    )


def _settings(trainer: Any, options: TrainOptions, longest: int) -> dict[str, str | int | float | None]:
    return {
        "epochs": round(float(trainer.state.epoch or 0), 2),
        "batch_size": options.batch_size,
        "learning_rate": _rate(options),
        "class_weights": options.class_weights,
        "lora": options.lora,
        "max_length": longest,
    }
