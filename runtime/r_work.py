"""What takes long, done by another thread for R, which asks from time to time how far it is."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from math import nan
from pathlib import Path
from typing import Any

from bertonnx.errors import MissingDependencyError, RowError
from bertonnx.runtime.evaluation.evaluate import Asked
from bertonnx.runtime.evaluation.figures import Evaluation
from bertonnx.runtime.evaluation.labelled import Columns
from bertonnx.runtime.io.job import JobProgress
from bertonnx.runtime.methods import Methods
from bertonnx.runtime.model import Model
from bertonnx.runtime.options import DecodeOptions, RunOptions, taken
from bertonnx.runtime.r_tables import plain
from bertonnx.runtime.rows import Item
from bertonnx.runtime.run import checked_target, run_job
from bertonnx.wording import Face, R

__all__ = ["Process", "Tell", "Work", "evaluated", "evaluation_answer", "ran", "trained", "write_rows"]

Answer = dict[str, Any]
Tell = Callable[[str, float, float], None]
"""What a work says of itself: a line for people or "", how much is done, and of how much (0: unknown)."""


_PAUSE = 0.05
"""Seconds between two looks of R's."""

_MOMENT = 0.5
"""Seconds that an end is waited for, so that what was stopped can be gone on with."""

_LONG_MOMENT = 10.0
"""The same where a process is ended: at once, but for a machine that does other things."""


class _StoppedError(BaseException):
    """R no longer waits."""


class Work:
    """A work under way, as R holds it."""

    def __init__(self, work: Callable[[Tell], Answer], stop: Callable[[], object] | None = None) -> None:
        self._said: list[str] = []
        self._saying = threading.Lock()
        self._done = self._total = 0.0
        self._stopped = False
        self._stop = stop
        self._answer: Answer = {}
        self._thread = threading.Thread(target=self._run, args=(work,), name="bertonnx-r-work", daemon=True)
        self._thread.start()

    def progress(self) -> Answer:
        """Return how far it is: `said` since the last time, `done`, `total`, and whether it is `finished`.

        That is waited for here, not in R: older versions of reticulate let Python's other threads run
        only while R is in Python.
        """
        self._thread.join(_PAUSE)
        finished = not self._thread.is_alive()
        with self._saying:
            said, self._said = self._said, []
        return {"ok": True, "said": said, "done": self._done, "total": self._total, "finished": finished}

    def result(self) -> Answer:
        """Return the answer, once it is finished."""
        return self._answer

    def stop(self) -> Answer:
        """Let it end at the next row, or at once where it is another process; most often it has then."""
        self._stopped = True
        if self._stop is not None:
            self._stop()
        self._thread.join(_MOMENT if self._stop is None else _LONG_MOMENT)
        return {"ok": True}

    def _run(self, work: Callable[[Tell], Answer]) -> None:
        try:
            self._answer = work(self._tell)
        except _StoppedError:
            return

    def _tell(self, line: str, done: float, total: float) -> None:
        if self._stopped:
            raise _StoppedError
        if line:
            with self._saying:
                self._said.append(plain(line))
        self._done, self._total = done, total


def ran(model: Model, input: str, output: str, options: Mapping[str, Any], tell: Tell) -> Answer:
    """Run a model on a file; the answer holds what `bertonnx.run` reports.

    Raises:
        BertonnxError: as `bertonnx.run`.
    """
    decode, columns = taken(DecodeOptions, options), taken(RunOptions, options)

    def progress(state: JobProgress) -> None:
        tell("", float(state.bytes_done), float(state.bytes_total or 0))

    target = checked_target(model.path, input, output, columns)
    with target.lock if target is not None else nullcontext():
        report = run_job(model, input, target, decode=decode, options=columns, face=R, progress=progress)
    return {
        "rows": float(report.rows),
        "errors": float(report.errors),
        "truncated": float(report.truncated),
        "resumed_rows": float(report.resumed_rows),
        "seconds": report.seconds,
        "notes": [plain(note.worded(R)) for note in report.notes],
    }


class _Told(Methods):
    """A model that says how far it is after each text, and so can be stopped there."""

    def __init__(self, model: Model, tell: Tell) -> None:
        self._model = model
        self._tell = tell
        self.card = model.card
        self.cut = 0

    @property
    def max_length(self) -> int:
        """As the model."""
        return self._model.max_length

    def _results(
        self, texts: Sequence[str], pairs: Sequence[str] | None, decode: DecodeOptions
    ) -> Iterator[Item | RowError]:
        for done, item in enumerate(self._model.results(texts, pairs, decode), start=1):
            self._tell("", float(done), float(len(texts)))
            yield item

    def _say_cut(self, cut: int, texts: int) -> None:  # noqa: ARG002
        # R warns of it, with what is typed there.
        self.cut = cut


def evaluated(model: Model, data: str, options: Mapping[str, Any], face: Face, tell: Tell) -> Answer:
    """Measure a model; the answer holds the columns of the report's tables, and how many texts were cut.

    Raises:
        BertonnxError: as `bertonnx.evaluate`.
    """
    columns = Columns(options.get("column"), options.get("pair_column"), options.get("label_column"))
    asked = Asked(columns, options.get("min_f1"), options.get("report"))
    told = _Told(model, tell)
    found = evaluation_answer(asked.evaluation(told, model.path.name, data), face)
    return {**found, "truncated": float(told.cut)}


def evaluation_answer(found: Evaluation, face: Face) -> Answer:
    """Return an evaluation as columns of R's tables; places count from 1, and NaN is none."""
    labels, mistakes = found.labels, found.mistakes
    return {
        "kind": found.kind,
        "rows": float(found.rows),
        "enough": found.enough,
        "ece": nan if found.ece is None else found.ece,
        "metrics": [plain(name) for name in found.scores],
        "values": [float(value) for value in found.scores.values()],
        "low": [_bound(found, name, 0) for name in found.scores],
        "high": [_bound(found, name, -1) for name in found.scores],
        "labels": [plain(label) for label in labels],
        **{
            name: [float(getattr(one, name)) for one in labels.values()]
            for name in ("precision", "recall", "f1")
        },
        "of_label": [float(one.rows) for one in labels.values()],
        "confusion": [float(count) for row in found.confusion for count in row],
        **{
            f"bin_{name}": [float(getattr(one, name)) for one in found.bins]
            for name in ("rows", "confidence", "accuracy")
        },
        "baselines": [name for name, scores in found.baselines.items() for _ in scores],
        "baseline_metrics": [name for scores in found.baselines.values() for name in scores],
        "baseline_values": [float(value) for scores in found.baselines.values() for value in scores.values()],
        "better": [
            "yes" if found.better.get(name) else "" for name, of in found.baselines.items() for _ in of
        ],
        "actual": [actual for actual, _ in found.amounts],
        "predicted": [predicted for _, predicted in found.amounts],
        "mistake_rows": [float(one.row + 1) for one in mistakes],
        "mistake_texts": [plain(one.text) for one in mistakes],
        "mistake_labels": [plain(one.label) for one in mistakes],
        "mistake_predicted": [plain(one.predicted) for one in mistakes],
        "mistake_scores": [float(one.score) for one in mistakes],
        "notes": [plain(message.worded(face)) for message in found.messages],
    }


def _bound(found: Evaluation, name: str, place: int) -> float:
    bounds = found.intervals.get(name, ())
    return float(bounds[place]) if bounds else nan


def write_rows(path: str, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
    """Add the rows of columns to a file as JSON lines, with null for what is missing."""
    with Path(path).open("a", encoding="utf-8") as file:
        for row in zip(*columns, strict=True):
            file.write(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n")


class Process:
    """A process that may be ended at any moment: then it ends, or never starts."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._ended = False
        self._lock = threading.Lock()

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start it; what it says comes through a pipe."""
        with self._lock:
            if self._ended:
                raise _StoppedError
            self._process = _started(command, environment)
        return self._process

    def end(self) -> None:
        """End it."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.terminate()


def _started(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
    except OSError as error:
        raise MissingDependencyError(
            "Python at {python} does not start ({why}); name another",
            python=command[0],
            why=error.strerror or error,
        ) from error


def trained(python: str, request: Mapping[str, Any], own: Process, tell: Tell) -> Answer:
    """Train in a process of its own, so that PyTorch never enters R; the answer is that process's.

    Args:
        python: the Python of that process.
        request: arguments of `bertonnx.train`, and `named`, what messages call files that R wrote.
        own: becomes that process.
        tell: is told what the process says.

    Raises:
        MissingDependencyError: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="bertonnx-r-") as folder:
        asked, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(dict(request)), encoding="utf-8")
        # R's own library path may hold another libpython, or libstdc++.
        environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
        command = [python, "-m", "bertonnx.r_training", str(asked), str(answer)]
        said: list[str] = []
        with own.start(command, environment) as process:
            for line in process.stdout or ():
                said.append(line.rstrip())
                tell(line.rstrip(), 0.0, 0.0)
        if answer.is_file():
            found: Answer = json.loads(answer.read_text(encoding="utf-8"))
            return found
        last = "\n".join(line for line in said if line)[-2000:]
        return {
            "ok": False,
            "error": {
                "type": "TrainError",
                "message": f"the training ended with status {process.returncode}",
                "kind": "",
                "expected": "yes",
                "traceback": plain(last),
            },
        }
