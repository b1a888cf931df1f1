"""The one seam to ONNX Runtime: importing it, and opening a checked file with a provider of the table.

What a provider does in its own way lies in a module of its own, which the provider's row names.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from bertonnx.errors import MissingDependencyError, ModelFileError, ProviderError
from bertonnx.models.card import Card
from bertonnx.models.onnxruntimes import OLDEST, version_of
from bertonnx.models.providers import AUTO, FALLBACK, PROVIDERS, Provider
from bertonnx.models.registry import resolve
from bertonnx.runtime.modelfile.held import NoModelError
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.cpu import require_exact_sums
from bertonnx.runtime.session.placement import Placement
from bertonnx.runtime.session.problem import Problem, not_usable
from bertonnx.wording import Install, Message, Words

__all__ = [
    "OLDEST_ONNXRUNTIME",
    "Feeds",
    "OpenSession",
    "RaggedSession",
    "Session",
    "SessionOptions",
    "import_onnxruntime",
    "open_provider",
    "open_session",
]

Feeds = Mapping[str, npt.NDArray[np.int64]]

OLDEST_ONNXRUNTIME = OLDEST
"""As in pyproject.toml."""

_BROKEN_MODEL = ("InvalidProtobuf", "InvalidGraph", "NoSuchFile", "NoModel", NoModelError.__name__)
"""Names of what ONNX Runtime and our reader raise where the fault is the file's, whatever the provider."""


class Session(Protocol):
    """What runs a model.

    Attributes:
        provider: name of the provider that really runs it, a row of `models.providers`.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
    """

    provider: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(
        self, outputs: Sequence[str], feeds: Feeds, *, alone: bool = False
    ) -> list[npt.NDArray[np.float32]]:
        """Return the named outputs of one batch. Safe to call from several threads at once.

        Args:
            outputs: their names.
            feeds: int64 arrays of shape (batch, tokens), by the names of the inputs.
            alone: whether no other batch runs beside this one, so that it may take all cores. The
                result is the same to the last bit.

        Raises:
            InferenceError: ONNX Runtime failed.
            OutOfMemoryError: there was not memory enough for this batch.
        """
        ...


@runtime_checkable
class RaggedSession(Session, Protocol):
    """A session that may take texts of several lengths in one batch.

    Attributes:
        ragged: whether it does, which depends on the graph.
    """

    ragged: bool

    def run_together(
        self, outputs: Sequence[str], feeds: Feeds, lengths: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        """Return the named outputs, with the bits that each text gets alone.

        Args:
            outputs: their names.
            feeds: int64 arrays of shape (1, tokens of all texts), texts of equal length side by side; nothing
                is masked.
            lengths: tokens of each text.

        Returns:
            Arrays of shape (1, tokens of all texts, ...) for outputs that have numbers of every token, and of
            (texts, ...) for others.

        Raises:
            InferenceError: ONNX Runtime failed.
            OutOfMemoryError: there was not memory enough for this batch.
        """
        ...


class OpenSession(Session, Protocol):
    """A file that was opened: what runs it, and what a user should know of how it was opened.

    Attributes:
        notes: why this provider was taken, and what of the graph it could not take.
        placement: which nodes are on the provider and which on the CPU; None where all are on the CPU, or
            where ONNX Runtime cannot say.
    """

    notes: tuple[Message, ...]
    placement: Placement | None


@dataclass(frozen=True)
class SessionOptions:
    """How a file is opened, for the module of a provider.

    Attributes:
        optimized: whether the graph was optimized at export, so that this need not be done again at every
            start, and its weights can be mapped.
        threads: cores that a batch may take which runs alone.
        tf32: on CUDA, let the matrix products of fp32 models round what they multiply to TF32, which has
            about three decimal digits: faster, and no longer within 1e-3 of the CPU.
        gpu_memory: on CUDA, GiB that ONNX Runtime's arena may take (what CUDA itself needs comes on top);
            None for no limit.
    """

    optimized: bool = True
    threads: int = 1
    tf32: bool = False
    gpu_memory: float | None = None

    @classmethod
    def of(cls, card: Card, options: LoadOptions) -> SessionOptions:
        """Return how a file with this card is opened as a user wants it."""
        return cls(
            optimized=card.optimize == "full",
            threads=options.threads or allowed_cores(),
            tf32=options.tf32,
            gpu_memory=options.gpu_memory,
        )


def import_onnxruntime(part: str = "") -> ModuleType:
    """Import ONNX Runtime, or a module inside it ("transformers.fusion_options"), with its telemetry off.

    From 1.29 the Linux wheels report home, and leave a device id under `~/.cache/Microsoft`, unless
    the environment says otherwise before the library is loaded.

    Raises:
        MissingDependencyError: no ONNX Runtime is installed, or one that is too old.
    """
    # Read once, when the library is loaded.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        ort = importlib.import_module("onnxruntime")
        _require_recent(ort)
        return importlib.import_module(f"onnxruntime.{part}") if part else ort
    except ImportError as error:
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            # It was interrupted while it was loaded, and says no more than "initialization failed".
            raise KeyboardInterrupt from error
        raise MissingDependencyError(
            "ONNX Runtime is not installed; type: {cpu} (for an NVIDIA GPU: {gpu}). Python said: {error}",
            cpu=Install("cpu"),
            gpu=Install("gpu"),
            error=str(error),
        ) from error


def _require_recent(ort: ModuleType) -> None:
    """Refuse a version that opens files which a model's external data names outside its folder."""
    version = str(getattr(ort, "__version__", ""))
    if version_of(version) < OLDEST_ONNXRUNTIME:
        raise MissingDependencyError(
            "ONNX Runtime {version} is too old: bertonnx needs {oldest}, since older ones open files that a "
            "model of a stranger names; type: {cpu} (for an NVIDIA GPU: {gpu})",
            version=version or "of an unknown version",
            oldest=".".join(map(str, OLDEST_ONNXRUNTIME)),
            cpu=Install("cpu", upgrade=True),
            gpu=Install("gpu", upgrade=True),
        )


def open_session(path: Path, card: Card, options: LoadOptions | None = None) -> OpenSession:
    """Open a model file.

    Args:
        path: an ONNX file that has been checked (`runtime.modelfile.modelfile`).
        card: what it says of itself.
        options: how a user wants it; its `provider` is a row's name, or "auto": the first automatic row
            that works, else CPU.

    Raises:
        ProviderError: the provider that was asked for cannot be used, or computes this file wrongly here;
            never falls back in silence.
        ModelFileError: ONNX Runtime cannot load the file.
    """
    options = options or LoadOptions()
    if options.provider == AUTO:
        return _open_automatic(path, card, options)
    row = PROVIDERS[options.provider]
    try:
        return _opened(row, path, card, options)
    except ProviderError as error:
        # That it was asked for says why nothing else was tried; a file that is at fault has no such problem.
        if "problem" not in error.facts:
            raise
        raise ProviderError(
            "{kind} {provider} was asked for, and {problem}",
            kind=Words("provider", r="device"),
            provider=row.name,
            problem=error.facts["problem"],
        ) from error


def open_provider(row: Provider, path: Path, options: SessionOptions) -> OpenSession:
    """Open a file with one provider.

    Raises:
        ProviderError: it cannot be used; the fact `problem` says what is missing and what mends it.
        ModelFileError: the file is broken.
    """
    ort = import_onnxruntime()
    if row.execution_provider not in ort.get_available_providers():
        raise not_usable(_problem(row, ort))
    try:
        session: OpenSession = resolve(row.opens)(ort, path, options)
    except ModelFileError as error:
        # A broken file is not the provider's fault, and a diagnosis would mislead.
        if not row.problem or type(error.__cause__).__name__ in _BROKEN_MODEL:
            raise
        raise not_usable(_problem(row, ort, str(error.__cause__))) from error
    return session


def _open_automatic(path: Path, card: Card, options: LoadOptions) -> OpenSession:
    notes: list[Message] = []
    available = import_onnxruntime().get_available_providers()
    # What this build does not bring is passed over without a note: a CPU build is no failure.
    for row in PROVIDERS:
        if row.automatic and row.execution_provider in available:
            try:
                session = _opened(row, path, card, options)
            except ProviderError as error:
                notes.append(
                    Message(
                        "running on {fallback}, although this ONNX Runtime is a {provider} build: {problem}",
                        fallback=FALLBACK.upper(),
                        provider=row.name.upper(),
                        problem=error.message,
                    )
                )
            else:
                took = Message("running on {provider}", provider=row.name.upper())
                session.notes = (took, *session.notes)
                return session
    session = _opened(PROVIDERS[FALLBACK], path, card, options)
    session.notes = (*notes, *session.notes)
    return session


def _opened(row: Provider, path: Path, card: Card, options: LoadOptions) -> OpenSession:
    # Before it is opened: what would answer wrongly must not answer.
    if row.saturates:
        require_exact_sums(path, card.quantization)
    return open_provider(row, path, SessionOptions.of(card, options))


def _problem(row: Provider, ort: ModuleType, error: str = "") -> Problem:
    if row.problem:
        problem: Problem = resolve(row.problem)(ort, error)
        return problem
    return Problem(
        Message("this ONNX Runtime was built without {provider}", provider=row.execution_provider),
        Message("choose another provider"),
    )
