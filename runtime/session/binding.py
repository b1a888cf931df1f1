"""Runs on a GPU with inputs and outputs bound to memory, so that each is copied once.

Inputs go through page-locked memory, from which the device copies by itself; outputs are written
into the arrays that the caller gets. Where page-locked memory cannot be had, ordinary memory does:
slower by a little, the same in all else.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Allocate", "Binding", "page_locked"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

Allocate = Callable[[int], Ints]
"""Returns so many int64 numbers of memory."""

_PORTABLE = 1  # cudaHostAllocPortable: page-locked for every thread and device


class Binding:
    """Runs one session. Safe to use from several threads at once, each of which has memory of its own.

    Args:
        session: an `onnxruntime.InferenceSession`.
        allocate: makes the memory through which inputs go; default ordinary memory.
        options: of ordinary runs, an `onnxruntime.RunOptions`; default none.
        tidy: the same, of runs that give back at their end what they do not need.

    Attributes:
        untidy: whether memory ran out, so that the next run is to be such a one: what failed leaves
            pieces behind that are too small for others.
    """

    def __init__(
        self, session: Any, allocate: Allocate | None = None, *, options: Any = None, tidy: Any = None
    ) -> None:
        self._session = session
        self._options, self._tidy = options, tidy
        self.untidy = False
        self._allocate = allocate or _ordinary
        self._own = threading.local()
        self._dimensions = {item.name: item.shape for item in session.get_inputs()}
        self._results = {item.name: item for item in session.get_outputs()}

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Ints]) -> list[Floats]:
        """Return the named outputs, float32, in arrays that the caller owns.

        Args:
            outputs: their names.
            feeds: int64 arrays of shape (batch, tokens), by the names of the inputs.
        """
        binding = self._session.io_binding()
        sizes: dict[Any, int] = {}
        for name, array in feeds.items():
            held = self._held(name, array)
            binding.bind_input(name, "cpu", 0, np.int64, held.shape, held.ctypes.data)
            sizes |= zip(self._dimensions[name], array.shape, strict=True)
        results = {name: self._bind_output(binding, name, sizes) for name in outputs}
        self._session.run_with_iobinding(binding, self._tidy if self.untidy else self._options)
        self.untidy = False
        late = dict(zip(outputs, binding.get_outputs(), strict=True))
        return [
            late[name].numpy().astype(np.float32, copy=False) if result is None else result
            for name, result in results.items()
        ]

    def _held(self, name: str, array: Ints) -> Ints:
        """Return a copy of an input in this thread's memory, which the next run overwrites."""
        memory: dict[str, Ints] = self._own.__dict__
        if name not in memory or memory[name].size < array.size:
            memory[name] = self._allocate(array.size)
        held = memory[name][: array.size].reshape(array.shape)
        held[...] = array
        return held

    def _bind_output(self, binding: Any, name: str, sizes: Mapping[Any, int]) -> Floats | None:
        """Bind an output to a new array; None where its shape or type is not known before the run."""
        meta = self._results[name]
        shape = [size if isinstance(size, int) else sizes.get(size, -1) for size in meta.shape]
        if meta.type != "tensor(float)" or -1 in shape:
            binding.bind_output(name, "cpu")
            return None
        result: Floats = np.empty(shape, dtype=np.float32)
        binding.bind_output(name, "cpu", 0, np.float32, result.shape, result.ctypes.data)
        return result


def page_locked(library: Any) -> Allocate:
    """Return what allocates page-locked memory, and ordinary memory where that fails.

    Args:
        library: CUDA's runtime (libcudart), loaded with ctypes; see
            https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__MEMORY.html.
    """

    def allocate(size: int) -> Ints:
        address = ctypes.c_void_p()
        wanted = ctypes.c_size_t(8 * size)
        if (
            library.cudaHostAlloc(ctypes.byref(address), wanted, ctypes.c_uint(_PORTABLE))
            or not address.value
        ):
            library.cudaGetLastError()  # or ONNX Runtime would find it and take it for its own
            return _ordinary(size)
        block = (ctypes.c_int64 * size).from_address(address.value)
        array: Ints = np.ctypeslib.as_array(block)
        # Not at the interpreter's end, when CUDA has let go of it already.
        weakref.finalize(block, library.cudaFreeHost, ctypes.c_void_p(address.value)).atexit = False
        return array

    return allocate


def _ordinary(size: int) -> Ints:
    return np.empty(size, dtype=np.int64)
