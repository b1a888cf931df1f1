"""Short batches as CUDA graphs: launched as a whole, where launches take longer than what they launch.

ONNX Runtime records a run of a session that was opened with `enable_cuda_graph`, under a number, and replays
it when that number comes again. What a graph reads, writes and uses in between lies at fixed places: inputs
and outputs are bound to memory on the device, and nothing else may run meanwhile, for other runs take the
same memory. ONNX Runtime keeps graphs by thread, so one thread records and replays all of them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ENABLED", "Recorded", "Turns", "unrecorded"]

ENABLED = {"enable_cuda_graph": "1"}
"""The option of ONNX Runtime's CUDA provider without which nothing is recorded."""

_NUMBER = "gpu_graph_id"
_UNRECORDED = "-1"

_TOKENS = 4096
"""Tokens of a batch up to which its launches take longer than its kernels (benchmarks/gpu)."""

_TIMES = 3
"""How often a shape comes before it is recorded, which takes three runs."""

_GRAPHS = 512
"""Shapes that are recorded. Each holds what its nodes take, about 0.2 MiB."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Shape = tuple[int, int, tuple[str, ...]]
"""Texts, tokens a text, and the outputs that are fetched."""


class Turns:
    """Any number of ordinary runs at a time, or one that is recorded or replayed.

    Attributes:
        waiting: how many wait to run alone.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._alone = False
        self.waiting = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run while nothing else does."""
        with self._changed:
            self.waiting += 1
            try:
                self._changed.wait_for(lambda: not self._alone and not self._running)
            finally:
                self.waiting -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


class _Graph:
    """One recorded shape: its memory on the device, and its number."""

    def __init__(
        self, ort: Any, session: Any, feeds: Mapping[str, Ints], outputs: Mapping[str, list[int]], number: int
    ) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._inputs = {}
        for name, array in feeds.items():
            self._inputs[name] = ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
            self._binding.bind_ortvalue_input(name, self._inputs[name])
        self._outputs = []
        for name, shape in outputs.items():
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0)
            self._binding.bind_ortvalue_output(name, value)
            self._outputs.append(value)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry(_NUMBER, str(number))

    def run(self, feeds: Mapping[str, Ints]) -> list[Floats]:
        for name, array in feeds.items():
            self._inputs[name].update_inplace(array)
        self._session.run_with_iobinding(self._binding, self._options)
        return [value.numpy() for value in self._outputs]


class Recorded:
    """Records shapes that come alone again and again, and replays them. Safe to use from several threads.

    Args:
        ort: ONNX Runtime.
        session: an `InferenceSession` that was opened with `ENABLED`.
        turns: whom ordinary runs of the session share.
    """

    def __init__(self, ort: Any, session: Any, turns: Turns) -> None:
        self._ort, self._session, self._turns = ort, session, turns
        self._results = {item.name: item for item in session.get_outputs()}
        self._dimensions = {item.name: item.shape for item in session.get_inputs()}
        self._seen: Counter[Shape] = Counter()
        self._graphs: dict[Shape, _Graph] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bertonnx-graphs")
        self._works = True

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Ints]) -> list[Floats] | None:
        """Return the named outputs of a batch that comes alone; None where it is to run as any other."""
        rows, tokens = next(iter(feeds.values())).shape
        shape: Shape = (rows, tokens, tuple(outputs))
        if not self._works or rows * tokens > _TOKENS:
            return None
        if shape not in self._graphs:
            self._seen[shape] += 1
            if self._seen[shape] < _TIMES or len(self._graphs) >= _GRAPHS:
                return None
        shapes = self._shapes(outputs, feeds)
        if shapes is None:
            return None
        return self._thread.submit(self._run, shape, shapes, feeds).result()

    def stop(self) -> None:
        """Replay nothing any more: the memory that recorded runs take is about to be given back."""
        self._works = False

    def _run(
        self, shape: Shape, shapes: Mapping[str, list[int]], feeds: Mapping[str, Ints]
    ) -> list[Floats] | None:
        with self._turns.alone():
            if not self._works:
                return None
            try:
                graph = self._graphs.get(shape)
                if graph is None:
                    graph = _Graph(self._ort, self._session, feeds, shapes, len(self._graphs) + 1)
                    results = graph.run(feeds)
                    self._graphs[shape] = graph
                    return results
                return graph.run(feeds)
            except (
                Exception
            ):  # whatever a library raises: the batch runs as any other, and says what is wrong
                self._works = False
                return None

    def _shapes(self, outputs: Sequence[str], feeds: Mapping[str, Ints]) -> dict[str, list[int]] | None:
        """Return the outputs' shapes; None where one is unknown before the run, or is not float32."""
        sizes: dict[Any, int] = {}
        for name, array in feeds.items():
            sizes |= zip(self._dimensions[name], array.shape, strict=True)
        shapes = {}
        for name in outputs:
            meta = self._results[name]
            shape = [size if isinstance(size, int) else sizes.get(size, -1) for size in meta.shape]
            if meta.type != "tensor(float)" or -1 in shape:
                return None
            shapes[name] = shape
        return shapes


def unrecorded(ort: Any) -> Any:
    """Return the options of an ordinary run of a session that was opened with `ENABLED`."""
    options = ort.RunOptions()
    options.add_run_config_entry(_NUMBER, _UNRECORDED)
    return options
