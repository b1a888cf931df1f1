"""What a user may choose when a checkpoint is exported: one frozen object, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bertonnx.errors import UsageError
from bertonnx.models.activations import ACTIVATIONS, ENCODER_ACTIVATIONS, by_name
from bertonnx.models.hidden import ALL
from bertonnx.models.pooling import POOLINGS
from bertonnx.models.tasks import TASKS, Task, task_meant
from bertonnx.models.verifiers import VERIFIERS
from bertonnx.runtime.options import chosen, require_at_least, require_number, require_whole
from bertonnx.wording import Option, Options

__all__ = [
    "OPTIMIZE",
    "PRECISIONS",
    "TARGETS",
    "ExportOptions",
    "Trust",
    "require_calibrating",
    "require_reduced",
]

PRECISIONS = ("fp32", "fp16")

OPTIMIZE = ("none", "basic", "full")

TARGETS: Mapping[str, bool] = {"auto": True, "avx2": True, "vnni": False, "arm64": False}
"""Machine -> whether weights must be pair-safe there. "auto" is right on all of them."""

_MIN_AGREEMENT = 0.99

_INT8 = Option("quantize", True)


@dataclass(frozen=True)
class Trust:
    """What of a checkpoint may run on this machine.

    Attributes:
        allow_pickle: whether `.bin` weights may be read where there is no safetensors.
        trust_remote_code: whether the checkpoint's own Python code may run.
    """

    allow_pickle: bool = False
    trust_remote_code: bool = False


def require_calibrating(row: Task) -> None:
    """Refuse to calibrate the scores of a task that has none, or whose scores are no probabilities.

    Raises:
        UsageError: naming the tasks that have.
    """
    if not row.calibrates:
        raise UsageError(
            "{option} is for probabilities of labels, as of {able}, and the task is {task}; leave it out",
            option=Option("calibrate_scores"),
            able=Options([Option("task", other.name) for other in TASKS if other.calibrates]),
            task=row.name,
        )


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported.

    Attributes:
        task: name of a row of `models.tasks`, or an alias; None for what the checkpoint's architecture says.
        revision: branch, tag or commit of a Hub id.
        precision: one of `PRECISIONS`, whatever the checkpoint's own.
        optimize: one of `OPTIMIZE`: Optimum's graph, folding, or attention and GELU fused too.
        max_length: a shorter limit than the checkpoint's own, in tokens.
        pooling: name of a row of `models.pooling`, or several with commas between them; None for what the
            checkpoint says, else the mean.
        normalize: whether embeddings get length 1; None for what the checkpoint says, else not.
        activation: name of a row of `models.activations` that makes scores; None for the checkpoint's own. A
            name of `ENCODER_ACTIVATIONS` is meant for the encoder of a TensorFlow checkpoint instead.
        labels: a file of the classes' names, one a line; None for the checkpoint's own.
        force: whether an existing output is replaced.
        quantize: whether to make it INT8.
        calibration: a file of texts by which INT8 and fp16 are tuned and judged, and from which the ranges of
            embeddings are taken; None for our own.
        dimensions: of embeddings that are cut to so many numbers and then normalized there are ranges too.
        hidden_states: layers whose token vectors are outputs too, as transformers counts `hidden_states`, or
            "all"; None for none.
        min_agreement: of INT8 and fp16: least agreement with fp32, from 0 to 1; None for 0.99.
        target: of INT8: one of `TARGETS`; None for "auto".
        ignore_keys: keys of the checkpoint's files, KEY or "FILE: KEY", that are ignored where they would be
            refused (`exporters.checkpoint.keys`).
        verify_with: names of rows of `models.verifiers`, whose own answers the graph is compared with too.
        calibrate_scores: a labelled file by which a temperature is fitted; None for none.

    Raises:
        UsageError: an option cannot be what it is, or contradicts another.
    """

    task: str | None = None
    revision: str | None = None
    precision: str = "fp32"
    optimize: str = "full"
    max_length: int | None = None
    pooling: str | None = None
    normalize: bool | None = None
    activation: str | None = None
    labels: Path | None = None
    force: bool = False
    quantize: bool = False
    calibration: Path | None = None
    min_agreement: float | None = None
    target: str | None = None
    ignore_keys: tuple[str, ...] = ()
    verify_with: tuple[str, ...] = ()
    dimensions: tuple[int, ...] = ()
    hidden_states: tuple[int, ...] | str | None = None
    calibrate_scores: Path | None = None

    def __post_init__(self) -> None:
        chosen("precision", self.precision, PRECISIONS)
        for name in self.verify_with:
            chosen("verify_with", name, VERIFIERS.names)
        chosen("optimize", self.optimize, OPTIMIZE)
        if self.task is not None:
            # Frozen for those who read it: they get the name of a row, whatever was typed.
            object.__setattr__(self, "task", chosen("task", task_meant(self.task), TASKS.names))
            if self.calibrate_scores is not None:
                require_calibrating(TASKS[self.task])
        for name in (self.pooling or "").split(",") if self.pooling is not None else ():
            if name not in (*POOLINGS.names, *(row.mode for row in POOLINGS)):
                chosen("pooling", self.pooling or "", POOLINGS.names)
        if self.head_activation is not None and by_name(self.head_activation) is None:
            chosen("activation", self.head_activation, (*ACTIVATIONS.names, *ENCODER_ACTIVATIONS))
        # Before a checkpoint is read for minutes.
        if self.labels is not None and not self.labels.is_file():
            raise UsageError("{asked}: there is no such file", asked=Option("labels", str(self.labels)))
        if self.target is not None:
            chosen("target", self.target, tuple(TARGETS))
        if self.hidden_states is not None:
            _require_layers(self.hidden_states)
        for number in self.dimensions:
            require_at_least("dimensions", number)
        self._require_agreeing()
        require_whole("max_length", self.max_length)
        require_number("min_agreement", self.min_agreement)
        if not 0.0 <= self.least_agreement <= 1.0:
            raise UsageError(
                "{asked} is not a share; give one from 0 to 1, such as 0.99",
                asked=Option("min_agreement", self.min_agreement),
            )

    @property
    def head_activation(self) -> str | None:
        """The activation that makes scores; None for the checkpoint's own."""
        # Told apart by the name alone, since no head has one of these.
        return None if self.activation in ENCODER_ACTIVATIONS else self.activation

    @property
    def encoder_activation(self) -> str | None:
        """The activation of an encoder's own layers; None for the checkpoint's own."""
        return self.activation if self.activation in ENCODER_ACTIVATIONS else None

    @property
    def least_agreement(self) -> float:
        """Least agreement with fp32, from 0 to 1."""
        return _MIN_AGREEMENT if self.min_agreement is None else self.min_agreement

    @property
    def machine(self) -> str:
        """The machine that INT8 is for, one of `TARGETS`."""
        return self.target or "auto"

    @property
    def reduced(self) -> bool:
        """Whether the file's numbers are smaller than fp32, so that texts judge what that costs."""
        return self.quantize or self.precision != "fp32"

    def _require_agreeing(self) -> None:
        if self.quantize and self.precision != "fp32":
            raise UsageError(
                "{int8} makes INT8 of fp32, and {asked} was asked for too; leave one out",
                int8=_INT8,
                asked=Option("precision", self.precision),
            )
        if self.quantize and self.optimize != "full":
            raise UsageError(
                "{int8} needs the fused graph, and {asked} was asked for; leave {option} out",
                int8=_INT8,
                asked=Option("optimize", self.optimize),
                option=Option("optimize"),
            )
        if self.target is not None and not self.quantize:
            raise UsageError(
                "{option} is for INT8, which was not asked for; add {int8}",
                option=Option("target"),
                int8=_INT8,
            )
        if self.min_agreement is not None:
            require_reduced(self, "min_agreement")
        # Where the user does not say the task, the checkpoint does.
        if self.calibration is not None and self.task is not None and not TASKS[self.task].pooled:
            require_reduced(self, "calibration")


def _require_layers(asked: tuple[int, ...] | str) -> None:
    if asked != ALL and (isinstance(asked, str) or not asked):
        raise UsageError(
            "{asked} names no layers; give numbers as in {example}, or {all}",
            asked=Option("hidden_states", asked),
            example=Option("hidden_states", (0, 6, -1)),
            all=Option("hidden_states", ALL),
        )
    for layer in () if isinstance(asked, str) else asked:
        require_whole("hidden_states", layer)


def require_reduced(options: ExportOptions, name: str) -> None:
    """Refuse an option of smaller numbers where fp32 was asked for.

    Raises:
        UsageError: naming it.
    """
    # Refused, not ignored: a user who gives one believes that the file was judged by it.
    if not options.reduced:
        raise UsageError(
            "{option} is for INT8 and fp16, and neither was asked for; add {either}",
            option=Option(name),
            either=Options([_INT8, Option("precision", "fp16")]),
        )
