"""What a user may choose when a model is trained."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from bertonnx.errors import UsageError
from bertonnx.runtime.evaluation.labelled import Columns
from bertonnx.runtime.options import chosen, require_at_least, require_number, require_whole
from bertonnx.wording import Option

__all__ = ["CLASS_WEIGHTS", "TrainOptions"]

CLASS_WEIGHTS = ("none", "balanced")

_FINE_TUNING = (
    "epochs",
    "batch_size",
    "accumulate",
    "learning_rate",
    "patience",
    "lora",
    "resume",
    "quantize",
)


@dataclass(frozen=True)
class TrainOptions:
    """How a model is trained.

    Attributes:
        columns: which columns of the data hold what.
        validation: a labelled file to measure on; None for a share of the data.
        validation_share: that share, over 0 and below 1.
        seed: of all that is drawn: the split, the new head, the order of rows.
        class_weights: one of `CLASS_WEIGHTS`: "balanced" lets rare labels count as much as common ones.
        epochs: of fine-tuning: times that all rows are seen, at most.
        batch_size: of fine-tuning: rows of a step.
        accumulate: of fine-tuning: steps whose gradients are added up before the weights change.
        learning_rate: of fine-tuning: the largest; it rises over the first tenth of the steps, then falls.
        patience: of fine-tuning: epochs without a better score after which it ends.
        lora: of fine-tuning: rank of adapters that are trained in place of all weights, and merged; None for
            all weights.
        revision: branch, tag or commit of a base on the Hub.
        resume: of fine-tuning: whether to go on with one that was stopped.
        max_length: longest input in tokens; None for what the model takes, at most 512.
        quantize: of fine-tuning: whether the file is INT8.
        measure_int8: of fine-tuning in fp32: whether it is measured what INT8 would cost.
        force: whether an existing output is replaced.

    Raises:
        UsageError: an option cannot be what it is.
    """

    columns: Columns = field(default_factory=Columns)
    validation: Path | None = None
    validation_share: float = 0.2
    seed: int = 0
    class_weights: str = "none"
    epochs: int = 3
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float | None = None
    patience: int = 2
    lora: int | None = None
    revision: str | None = None
    resume: bool = False
    max_length: int | None = None
    quantize: bool = False
    measure_int8: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        chosen("class_weights", self.class_weights, CLASS_WEIGHTS)
        require_whole("seed", self.seed)
        if not 0 <= self.seed < 1 << 32:
            raise UsageError(
                "{asked} is out of range; give a number from 0 to {most}",
                asked=Option("seed", self.seed),
                most=(1 << 32) - 1,
            )
        for name in ("epochs", "batch_size", "accumulate", "patience", "lora", "max_length"):
            require_at_least(name, getattr(self, name))
        require_number("validation_share", self.validation_share)
        if not 0.0 < self.validation_share < 1.0:
            raise UsageError(
                "{asked} is no share; give one over 0 and below 1, such as 0.2",
                asked=Option("validation_share", self.validation_share),
            )
        require_number("learning_rate", self.learning_rate)
        if self.learning_rate is not None and not 0.0 < self.learning_rate < 1.0:
            raise UsageError(
                "{asked} cannot be a learning rate; give one such as 2e-5",
                asked=Option("learning_rate", self.learning_rate),
            )

    def require_head(self) -> None:
        """Refuse what only fine-tuning takes.

        Raises:
            UsageError: naming it.
        """
        usual = {item.name: item.default for item in fields(self)}
        # Refused, not ignored: who gives one believes that it did something.
        for name in _FINE_TUNING:
            if getattr(self, name) != usual[name]:
                raise UsageError(
                    "{asked} is for fine-tuning a checkpoint, and the base is a model file, whose weights "
                    "stay as they are; leave it out",
                    asked=Option(name, getattr(self, name)),
                )
