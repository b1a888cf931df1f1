"""`bertonnx.train`: from a labelled table to a verified model file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertonnx.errors import InputError, OutputError, SourceError, UsageError
from bertonnx.exporters.options import Trust
from bertonnx.exporters.staging import require_free
from bertonnx.exporters.training.lesson import read_lesson
from bertonnx.exporters.training.options import TrainOptions
from bertonnx.models.card import Card
from bertonnx.models.needs import require_packages
from bertonnx.runtime.evaluation.figures import Evaluation
from bertonnx.runtime.evaluation.labelled import Columns
from bertonnx.runtime.evaluation.report import check_report, write_report
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.places import require_name
from bertonnx.wording import Call, Message

__all__ = ["TrainReport", "train"]


@dataclass(frozen=True)
class TrainReport:
    """What a training did.

    Attributes:
        path: the file.
        bytes: its size, with that of a sidecar.
        card: what the file says of itself, `training` among it.
        evaluation: how good it is on the rows that it was not trained on.
        messages: what was taken to be meant, what was left out, and what to think of.
    """

    path: Path
    bytes: int
    card: Card
    evaluation: Evaluation
    messages: tuple[Message, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """The messages in Python's words."""
        return tuple(map(str, self.messages))


def train(
    base: str | Path,
    data: str | Path,
    output: str | Path = "model.onnx",
    *,
    column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    problem_type: str | None = None,
    validation: str | Path | None = None,
    validation_share: float = 0.2,
    seed: int = 0,
    class_weights: str = "none",
    epochs: int = 3,
    batch_size: int = 16,
    accumulate: int = 1,
    learning_rate: float | None = None,
    patience: int = 2,
    lora: int | None = None,
    resume: bool = False,
    max_length: int | None = None,
    quantize: bool = False,
    measure_int8: bool = True,
    force: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    report: str | Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> TrainReport:
    """Train a model on labelled texts, and write it as one verified file.

    Of an embedding file, a linear head is fitted on its vectors, which takes seconds and needs no torch. Of a
    checkpoint, all of it is fine-tuned and then exported.

    Args:
        base: a `.onnx` file that bertonnx exported for feature extraction, or a Hub id or folder of a
            checkpoint.
        data: a `.csv`, `.tsv`, `.jsonl`, `.parquet` or `.arrow` file with a text and a label in each row; or
            texts with entities: a CoNLL file, or JSON lines with spans or tags.
        output: the file to write; it appears only when everything passed.
        column: the column of the texts; default the one that is called like one.
        pair_column: the column of second texts.
        label_column: the column of the labels; several with commas between them for a model of several
            labels.
        group_column: the column of what keeps rows together on one side of the split, such as a person.
        problem_type: "single_label_classification", "multi_label_classification" or "regression"; default as
            the labels are.
        validation: a labelled file to measure on; default a share of the data.
        validation_share: that share, in which each label has its own.
        seed: of all that is drawn.
        class_weights: "balanced" lets rare labels count as much as common ones.
        epochs: of fine-tuning: times that all rows are seen, at most.
        batch_size: of fine-tuning: rows of a step.
        accumulate: of fine-tuning: steps whose gradients are added up before the weights change.
        learning_rate: of fine-tuning; default 5e-5, and 3e-4 with `lora`.
        patience: of fine-tuning: epochs without a better figure after which it ends.
        lora: of fine-tuning: rank of adapters that are trained in place of all weights, and then merged.
        resume: of fine-tuning: go on with one that was stopped.
        max_length: longest input in tokens.
        quantize: of fine-tuning: write an INT8 file.
        measure_int8: of fine-tuning: where the file is fp32, measure what INT8 would cost.
        force: replace an existing output.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: run the checkpoint's own Python code.
        allow_pickle: read `.bin` weights where there is no safetensors.
        report: a `.html` or `.json` file to write the whole report to.
        progress: is told what begins, in a few words.

    Raises:
        UsageError: arguments that are wrong in themselves.
        ModelFileError: the base is a `.onnx` file that is not there or cannot be read.
        InputError: the data cannot be read, nothing says which columns to take, or nothing can be learned.
        TaskError: the base file puts out no vectors.
        OutputError: the output exists or cannot be written.
        MissingDependencyError: a package is not installed.
        BertonnxError: the checkpoint cannot be exported; see `export`.
    """
    options = TrainOptions(
        columns=Columns(column, pair_column, label_column, group_column, problem_type),
        validation=None if validation is None else Path(validation),
        validation_share=validation_share,
        seed=seed,
        class_weights=class_weights,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        learning_rate=learning_rate,
        patience=patience,
        lora=lora,
        revision=revision,
        resume=resume,
        max_length=max_length,
        quantize=quantize,
        measure_int8=measure_int8,
        force=force,
    )
    # Before anything is read: what is in the way should not be found after an hour.
    path = require_free(output, force=force)
    target = None if report is None else check_report(report)
    read = (base, data, validation)
    for name, kind in zip(read, (SourceError, InputError, InputError), strict=True):
        if name is not None:
            require_name(name, kind)
    file = Path(base)
    _require_apart(path, target, [Path(name) for name in read if name is not None and Path(name).is_file()])
    # One that is not there is said so: nobody means a checkpoint on the Hub of that name.
    if file.suffix.lower() == ".onnx" and not file.is_dir():
        made = _head(file, data, path, options, progress)
    else:
        trust = Trust(allow_pickle, trust_remote_code)
        made = _fine_tuned(base, trust, data, path, options, progress)
    if target is not None:
        title = f"{path.name}, trained on {Path(data).name}"
        try:
            write_report(target, made.evaluation, title=title, about=made.notes)
        except OutputError as error:
            raise OutputError(
                "{why}; the model is complete: {line} measures it again",
                why=error.message,
                line=Call("evaluate", path, "LABELLED", report=report),
            ) from error
    return made


def _require_apart(output: Path, report: Path | None, read: Sequence[Path]) -> None:
    """Refuse to write over what is read, which nobody has twice, or two things into one file."""
    taken = {path.resolve() for path in read}
    for path in (output, *([] if report is None else [report])):
        if path.resolve() in taken:
            raise UsageError(
                "{path} would be written over, and is named for something else too; name another", path=path
            )
        taken.add(path.resolve())


def _head(
    base: Path, data: str | Path, path: Path, options: TrainOptions, progress: Callable[[str], None]
) -> TrainReport:
    require_packages("training a head")
    options.require_head()
    # Its imports take a second: a wrong option or file is said at once.
    from bertonnx.exporters.training.on_file import train_head

    progress("reading the texts")
    lesson = read_lesson(data, options)
    card, evaluation, messages = train_head(base, lesson, path, options, progress)
    return _reported(path, card, evaluation, (*lesson.messages, *messages))


def _fine_tuned(
    base: str | Path,
    trust: Trust,
    data: str | Path,
    path: Path,
    options: TrainOptions,
    progress: Callable[[str], None],
) -> TrainReport:
    require_packages("fine-tuning")
    progress("reading the texts")
    lesson = read_lesson(data, options)
    # torch and transformers take their time: a wrong option or file is said at once.
    from bertonnx.exporters.training.on_checkpoint import train_checkpoint

    card, evaluation, messages = train_checkpoint(base, trust, lesson, path, options, progress)
    return _reported(path, card, evaluation, (*lesson.messages, *messages))


def _reported(path: Path, card: Card, evaluation: Evaluation, messages: tuple[Message, ...]) -> TrainReport:
    return TrainReport(path, read_model_file(path).bytes, card, evaluation, messages)
