"""What a user may choose of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bertonnx.errors import UsageError
from bertonnx.models.providers import PROVIDERS
from bertonnx.runtime.options import chosen, require_threads
from bertonnx.wording import Option

__all__ = ["BATCH_SIZES", "LENGTHS", "BenchOptions", "require_numbers"]

LENGTHS = (16, 128, 512)
BATCH_SIZES = (1, 8, 32)


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, and how long.

    Attributes:
        providers: names of rows of `models.providers`; None for every one that this ONNX Runtime was built
            with. One that cannot be used gives a row that says why.
        lengths: tokens of a text; None for 16, 128 and 512, or the models' limit where that is less, and
            for none where `text` is given.
        batch_sizes: texts handed over at once.
        threads: batches at a time; None for as many as cores that this process may use.
        text: a file of texts to be measured from reading to result; see `runtime.io.readers`.
        column: its column that holds the text.
        pair_column: its column that holds the second text.
        tf32: whether fp32 models multiply in TF32 on CUDA.
        gpu_memory: GiB that ONNX Runtime may take on CUDA.
        seconds: time for each configuration, warm-up not counted; each runs at least three times.
        repeat: so many runs of each configuration instead.

    Raises:
        UsageError: a number is out of range, a list is empty, or there is no such provider.
    """

    providers: Sequence[str] | None = None
    lengths: Sequence[int] | None = None
    batch_sizes: Sequence[int] = BATCH_SIZES
    threads: Sequence[int] | None = None
    text: Path | None = None
    column: str | None = None
    pair_column: str | None = None
    tf32: bool = False
    gpu_memory: float | None = None
    seconds: float = 2.0
    repeat: int | None = None

    def __post_init__(self) -> None:
        # It is read once to count and once a run; a pipe gives it once.
        if str(self.text) == "-":
            raise UsageError(
                "{asked} cannot be: the text is read several times; give a file", asked=Option("text", "-")
            )
        require_numbers("batch_sizes", self.batch_sizes)
        if self.lengths is not None:
            require_numbers("lengths", self.lengths)
        if self.threads is not None:
            require_numbers("threads", self.threads)
            for number in self.threads:
                require_threads(number)
        if self.repeat is not None:
            require_numbers("repeat", [self.repeat])
        # Put so that NaN is refused as well.
        if not self.seconds > 0:
            raise UsageError(
                "{asked} is too small; give a number over 0", asked=Option("seconds", self.seconds)
            )
        self._require_providers()

    def _require_providers(self) -> None:
        if self.providers is None:
            return
        for name in self.providers:
            chosen("provider", name, PROVIDERS.names)
        if not self.providers:
            raise UsageError(
                "{option} is empty; it can be {names}, or several with a comma",
                option=Option("provider"),
                names=", ".join(PROVIDERS.names),
            )


def require_numbers(option: str, values: Sequence[int]) -> None:
    """Refuse a list of numbers that is empty, or that holds one less than 1.

    Args:
        option: the option's name in Python.
        values: its numbers.

    Raises:
        UsageError: naming the number.
    """
    if not values:
        raise UsageError(
            "{option} is empty; give numbers with commas between them, such as 1,8", option=Option(option)
        )
    for value in values:
        if value < 1:
            raise UsageError(
                "{option} holds {value}; give numbers of at least 1", option=Option(option), value=value
            )
