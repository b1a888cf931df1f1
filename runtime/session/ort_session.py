"""ONNX Runtime's sessions as the runtime runs them, whatever the provider."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import InferenceError, ModelFileError, OutOfMemoryError
from bertonnx.runtime.modelfile.held import Held, held
from bertonnx.runtime.modelfile.mapped import without_weights
from bertonnx.runtime.modelfile.own_memory import detach
from bertonnx.runtime.modelfile.ragged import GROUPS, groups_of, one_group, ragged_form
from bertonnx.runtime.session.binding import Binding
from bertonnx.runtime.session.memory import LastOut
from bertonnx.runtime.session.placement import Placement
from bertonnx.runtime.session.recorded import Recorded, Turns
from bertonnx.runtime.session.session import Feeds
from bertonnx.runtime.session.tables import Tables
from bertonnx.wording import Message

__all__ = ["OrtSession", "create", "options_for"]

_NO_MEMORY = re.compile(
    r"Failed to allocate memory|Available memory of \d+ is smaller than requested|out of memory"
    r"|CUDA failure 2:|_ALLOC_FAILED|bad_alloc|bad allocation"
)
"""What ONNX Runtime says where memory is short (bfc_arena.cc, cuda_call.cc, the C++ library)."""

_SETTLED = 32
"""Batches that came alone before the weights move once more: that takes as long as some 50 such runs gain."""


class OrtSession:
    """An ONNX Runtime session. Several runs at a time are safe.

    On CPU a run takes one thread, and several runs at a time use several cores. A session with all
    cores for a single run is opened beside it when batches come alone repeatedly: a command that
    predicts one text and ends would pay more for opening it than it gains. Both read the same tables.

    Attributes:
        provider: what really runs it.
        placement: on a GPU, which nodes are there; None on CPU, or where ONNX Runtime cannot say.
        notes: what a user should know of how it was opened.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
        ragged: whether a batch may have texts of several lengths.

    Args:
        session: ONNX Runtime's session.
        provider: as above.
        widen: opens the session with all cores, or returns None where the file is no longer the
            same; itself None where there is but one core, or a GPU.
        settle: called once, when so many batches have come alone that the session is worth more work.
        binding: runs the session on a GPU.
        unpadded: whether the graph was told that nothing is padded.
        placement: as above.
        recorded: replays batches that come alone, on a GPU.
        turns: keeps other runs from those meanwhile.
        tables: what the sessions read and do not own.
    """

    def __init__(
        self,
        session: Any,
        provider: str,
        *,
        widen: Callable[[], Any] | None = None,
        settle: Callable[[], object] | None = None,
        binding: Binding | None = None,
        unpadded: bool = False,
        placement: Placement | None = None,
        recorded: Recorded | None = None,
        turns: Turns | None = None,
        tables: Tables | None = None,
    ) -> None:
        self.provider = provider
        self.placement = placement
        self.notes: tuple[Message, ...] = ()
        if placement is not None and placement.computing_on_cpu:
            self.notes = (Message(str(placement)),)
        inputs = [item.name for item in session.get_inputs()]
        self.ragged = GROUPS in inputs
        self.inputs = tuple(name for name in inputs if name != GROUPS)
        self.outputs = tuple(item.name for item in session.get_outputs())
        self._session = session
        self._binding = binding
        self._recorded = recorded
        self._turns = turns or Turns()
        self._unpadded = unpadded
        self._widen = widen
        self._settle = settle
        self._wide: Any = None
        self._came_alone = 0
        self._lock = threading.Lock()
        self._tables = tables
        self._last_out = LastOut()

    def run(
        self, outputs: Sequence[str], feeds: Feeds, *, alone: bool = False
    ) -> list[npt.NDArray[np.float32]]:
        """Return the named outputs of one batch, as `Session.run`."""
        session = self._wider() if alone else self._session
        if self.ragged and session is self._session:
            feeds = {**feeds, GROUPS: one_group(*feeds["input_ids"].shape)}
        return self._answers(session, outputs, feeds, alone=alone)

    def run_together(
        self, outputs: Sequence[str], feeds: Feeds, lengths: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        """Return the named outputs of texts of several lengths, as `RaggedSession.run_together`."""
        return self._answers(self._session, outputs, {**feeds, GROUPS: groups_of(lengths)}, alone=False)

    def _answers(
        self, session: Any, outputs: Sequence[str], feeds: Feeds, *, alone: bool
    ) -> list[npt.NDArray[np.float32]]:
        # It would take the padding for text, and nothing else would tell.
        if self._unpadded and "attention_mask" in feeds and not feeds["attention_mask"].all():
            raise ValueError("this session was opened for batches without padding, and the mask has zeros")
        try:
            if self._binding is not None:
                replayed = self._recorded.run(outputs, feeds) if alone and self._recorded else None
                if replayed is not None:
                    return replayed
                with self._turns.together():
                    return self._binding.run(outputs, feeds)
            results: list[npt.NDArray[np.float32]] = session.run(list(outputs), dict(feeds))
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            if not _is_of_onnxruntime(error):
                raise
            message = str(error) or type(error).__name__
            if _is_of_memory(error):
                self._free_memory()
                raise OutOfMemoryError(message) from error
            raise InferenceError(message) from error
        for name, array in zip(outputs, results, strict=True):
            # A graph may put out sequences and texts as well.
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or not array.ndim:
                raise ModelFileError("the model puts out no numbers as {name}", name=name)
        return results

    def _free_memory(self) -> None:
        if self._recorded is not None:
            self._recorded.stop()
        if self._binding is not None:
            self._binding.untidy = True

    def _wider(self) -> Any:
        with self._lock:
            self._came_alone += 1
            if self._wide is None and self._came_alone > 1 and self._widen is not None:
                # Tried once: a file that was replaced will not come back.
                self._wide = self._widen()
                self._widen = None
            if self._came_alone == _SETTLED and self._settle is not None:
                self._settle()
        return self._wide or self._session


def options_for(ort: ModuleType, *, cores: int = 1) -> Any:
    """Return the options that sessions have in common on all providers.

    Args:
        ort: ONNX Runtime.
        cores: threads that one run takes on CPU.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = cores
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # A memory pattern is kept for every shape ever seen, and texts come in hundreds of shapes.
    options.enable_mem_pattern = False
    # What fails raises, in the same words; on standard error they would be said twice.
    options.log_severity_level = 4
    # Threads wait actively within a run and sleep after it, so that an idle model costs no core.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def create(
    ort: ModuleType,
    path: Path,
    options: Any,
    *,
    providers: Sequence[Any],
    mapped: bool = False,
    unpadded: bool = False,
    tables: Tables | None = None,
    ragged: bool = False,
) -> Any:
    """Return an `onnxruntime.InferenceSession` of a file.

    Args:
        ort: ONNX Runtime.
        path: the file.
        options: ONNX Runtime's options.
        providers: ONNX Runtime's names of those to take, in order, or pairs with their options.
        mapped: whether weights are mapped from the file where they lie, which an optimized graph allows.
        unpadded: whether the graph is told that nothing is ever padded.
        tables: what all sessions of this file read in common, while somebody keeps it; a file that is mapped.
        ragged: whether the graph is to take texts of several lengths in one batch, where it is known how.

    Raises:
        ModelFileError: ONNX Runtime cannot open it; its own error is the cause.
    """
    # Weights lie beside the file itself, not beside a link to it.
    real = path.resolve()
    try:
        with _opening, ExitStack() as stack:
            file = stack.enter_context(held(real))
            model = _prepared(options, real, file, stack, mapped=mapped)
            if tables is not None and mapped:
                tables.lend(ort, options, file.data)
            if unpadded and isinstance(model, bytes):
                from bertonnx.runtime.modelfile.device_form import device_form
                from bertonnx.runtime.modelfile.unpadded import assume_unpadded

                model = assume_unpadded(model) or model
                model = device_form(model, file.data) or model
            if ragged and isinstance(model, bytes):
                model = ragged_form(model) or model
            # Its fallback would open the file with another provider, and say so on standard output only.
            session = ort.InferenceSession(model, options, providers=list(providers), enable_fallback=0)
            _detach(real, file)
            return session
    except ModelFileError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base but Exception
        raise ModelFileError(
            "ONNX Runtime cannot load {path}: {error}", path=path, error=str(error)
        ) from error


_opening = threading.Lock()
"""One session at a time: while another maps a file, its mappings cannot be replaced (`own_memory.detach`)."""


def _in_child() -> None:
    """Let a forked process open sessions although the other one was about to."""
    global _opening
    _opening = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _prepared(options: Any, path: Path, file: Held, stack: ExitStack, *, mapped: bool) -> bytes | str:
    """Return the model as ONNX Runtime takes it, and let the options say where its weights are.

    Args:
        options: ONNX Runtime's options.
        path: the file, without links.
        file: the same, held.
        stack: holds the files beside it.
        mapped: whether its own weights are taken from where they lie.
    """
    parts = {name: stack.enter_context(held(path.parent / name)) for name in _beside(file)}
    if mapped:
        parts[path.name] = file
    if parts:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.parent)
        )
    in_memory = {name: part.data for name, part in parts.items() if not part.leased}
    if in_memory:
        options.add_external_initializers_from_files_in_memory(
            list(in_memory), list(in_memory.values()), list(map(len, in_memory.values()))
        )
    if mapped:
        return without_weights(path)
    return str(path) if file.leased and not in_memory else bytes(file.data)


def _beside(file: Held) -> set[str]:
    """Return the names of the files that hold weights of a file that was checked."""
    return {entries["location"] for entries in file.structure.external}


def _detach(path: Path, file: Held) -> None:
    """Let nothing stay mapped; what was read into memory never was."""
    detach([path, *(path.parent / name for name in _beside(file))])


def _is_of_onnxruntime(error: Exception) -> bool:
    return type(error).__module__.startswith("onnxruntime") or isinstance(error, (MemoryError, RuntimeError))


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None
