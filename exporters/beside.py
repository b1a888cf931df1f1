"""Several runs of a model at once, in the order in which they were asked for; PyTorch's part of the cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from bertonnx.runtime.session.cores import allowed_cores

__all__ = ["beside", "torch_threads"]

T = TypeVar("T")
R = TypeVar("R")


def beside(
    function: Callable[[T], R], items: Iterable[T], *, size: Callable[[T], int] = lambda _: 0
) -> Iterator[tuple[T, Future[R]]]:
    """Yield each item with what a function will have made of it, as many at once as there are cores.

    Not all at once: each may put out a vocabulary for every token. Of the first few the largest by `size`
    begins first, so that no core waits for it at the end.
    """
    cores, rest = allowed_cores(), iter(items)
    first = list(islice(rest, cores + 1))
    with ThreadPoolExecutor(cores, thread_name_prefix="bertonnx-beside") as pool:
        begun = {
            place: pool.submit(function, first[place])
            for place in sorted(range(len(first)), key=lambda place: -size(first[place]))
        }
        waiting = deque((item, begun[place]) for place, item in enumerate(first))
        while waiting:
            yield waiting.popleft()
            waiting.extend((item, pool.submit(function, item)) for item in islice(rest, 1))


@contextmanager
def torch_threads(most: int) -> Iterator[None]:
    """Let PyTorch use few threads in the block, one at least: each waits for the others with its core taken.

    Beside others that compute, they would do so for most of their time.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, most)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
