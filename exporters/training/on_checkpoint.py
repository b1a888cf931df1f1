"""Fine-tuning a checkpoint, and the ordinary export of what came out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from bertonnx.exporters.checkpoint.checkpoint import load
from bertonnx.exporters.checkpoint.provenance import name_of
from bertonnx.exporters.checkpoint.source import Source, replicated, resolve
from bertonnx.exporters.convert import exported
from bertonnx.exporters.options import ExportOptions, Trust
from bertonnx.exporters.training.candidate import Candidate
from bertonnx.exporters.training.fine_tune import Tuned, fine_tune
from bertonnx.exporters.training.lesson import Lesson, cut_texts
from bertonnx.exporters.training.options import TrainOptions
from bertonnx.models.card import Card
from bertonnx.models.tasks import CLASSIFIER, TAGGER
from bertonnx.runtime.evaluation.figures import Evaluation
from bertonnx.runtime.io.files import Lock
from bertonnx.runtime.session.session import Session
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Message, Option

__all__ = ["train_checkpoint"]


def train_checkpoint(
    base: str | Path,
    trust: Trust,
    lesson: Lesson,
    path: Path,
    options: TrainOptions,
    progress: Callable[[str], None],
) -> tuple[Card, Evaluation, tuple[Message, ...]]:
    """Fine-tune a checkpoint, export it, and measure the file.

    Args:
        base: a Hub id, or a folder.
        trust: what of it may run.
        lesson: what is to be learned.
        path: the file to write. What is saved on the way lies in a folder beside it until it is there.
        options: how.
        progress: is told what begins.

    Raises:
        KeyboardInterrupt: stopped; what was best so far is kept, and `options.resume` goes on with it.
        OutputError: another training writes the file.
        BertonnxError: as `fine_tune` and `export`.
    """
    # Downloaded before the training begins, and read by it and by the note that a resumed one compares.
    progress("reading the checkpoint")
    found = resolve(base, options.revision, trust)
    work = path.with_name(f"{path.name}.training")
    task = TAGGER if lesson.tagged else CLASSIFIER
    export = ExportOptions(
        task=task.name,
        quantize=options.quantize or options.measure_int8,
        max_length=options.max_length,
        # Asked before the training, and what a checkpoint took hours to learn must not fall over it.
        force=True,
    )

    def made(folder: Path) -> Source:
        return replace(resolve(folder, None, trust), id=found.id, kind=found.kind, revision=found.revision)

    # What lies in `work` is of one training: a second one would take it away.
    with Lock(path):
        # TensorFlow's weights are read as an export reads them.
        with replicated(found, ExportOptions()) as read:
            tuned = fine_tune(
                read.model_folder,
                lesson,
                work,
                options,
                progress,
                named=f"{found.id} {found.revision or ''}",
                rehearsed=lambda folder: load(made(folder), export),
            )
        source = made(tuned.folder)
        trained = _Trained(lesson, found, tuned, options)
        report = exported(
            source,
            export,
            path,
            progress,
            noted=trained.noted,
            tried=None if options.quantize or not options.measure_int8 else trained.tried,
        )
        # Only now: until the file is there, it can be made again of these.
        shutil.rmtree(work, ignore_errors=True)
        return report.card, trained.evaluation, trained.messages()


@dataclass
class _Trained:
    """What is measured of the file on its way."""

    lesson: Lesson
    found: Source
    tuned: Tuned
    options: TrainOptions
    int8: Evaluation | None = None
    cut: tuple[Message, ...] = ()
    _evaluation: list[Evaluation] = field(default_factory=list)

    @property
    def evaluation(self) -> Evaluation:
        """How good the file is."""
        return self._evaluation[0]

    def noted(self, session: Session, card: Card, tokenizer: TextTokenizer) -> Card:
        """Measure the finished graph, and note that on the card."""
        evaluation = self._measured(session, card, tokenizer)
        self._evaluation.append(evaluation)
        base = {"id": name_of(self.found.id), "revision": self.found.revision}
        figures = self.lesson.figures(
            evaluation, kind="fine-tuning", base=base, options=self.options, settings=self.tuned.settings
        )
        int8 = {} if self.int8 is None else dict(self.int8.scores)
        return replace(card, training=replace(figures, int8=int8))

    def tried(self, session: Session, card: Card, tokenizer: TextTokenizer) -> None:
        """Measure the graph in INT8."""
        self.int8 = self._measured(session, card, tokenizer)

    def messages(self) -> tuple[Message, ...]:
        """Return what the user should know of texts that were cut, and of INT8."""
        rows = len(self.lesson.split.train)
        cut = (*cut_texts("train", self.tuned.cut, rows, self.tuned.longest), *self.cut)
        if self.options.quantize or not self.options.measure_int8:
            return cut
        if self.int8 is None:
            said = Message("INT8 does not agree well enough with fp32 for this model")
        else:
            name = self.evaluation.main
            said = Message(
                "in INT8 it would be {int8:.4f} in place of {fp32:.4f} ({name}); {option} writes that file",
                int8=self.int8.scores[name],
                fp32=self.evaluation.scores[name],
                name=name.replace("_", " "),
                option=Option("quantize", True),
            )
        return (*cut, said)

    def _measured(self, session: Session, card: Card, tokenizer: TextTokenizer) -> Evaluation:
        with closing(Candidate(session, card, tokenizer)) as candidate:
            found = self.lesson.measure(candidate)
            self.cut = cut_texts("measure", candidate.cut, found.rows, candidate.max_length)
            return found
