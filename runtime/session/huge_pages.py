"""Weights put into huge pages, for texts that come alone.

One short text reads all weights and computes little with them, so that it waits for memory, and a part of
that is finding where pages of 4 KiB lie (benchmarks/huge_pages.py). ONNX Runtime packs weights into memory
of its own, which a system that gives huge pages on request alone (Debian's default) leaves in small ones.

Sources: https://docs.kernel.org/admin-guide/mm/transhuge.html, madvise(2): MADV_COLLAPSE, since Linux 6.1.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from bertonnx.runtime.modelfile.own_memory import MAPS

__all__ = ["THREAD", "Extent", "added", "gather", "private_memory"]

Extent = tuple[int, int]
"""Where memory begins and ends."""

THREAD = "bertonnx-huge-pages"
"""The name of the thread."""

_SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")

_HUGEPAGE, _COLLAPSE = 14, 25  # MADV_HUGEPAGE, MADV_COLLAPSE


def private_memory(maps: Path = MAPS) -> list[Extent]:
    """Return the extents of this process's own memory, in order; none on systems other than Linux."""
    found: list[Extent] = []
    with suppress(OSError), maps.open("rb") as lines:
        for line in lines:
            extent, flags, _, _, inode, *name = line.split(None, 5)
            # Stacks and what the kernel maps have names; the heap has one too.
            if flags == b"rw-p" and inode == b"0" and (not name or name[0].startswith(b"[heap]")):
                start, _, end = extent.partition(b"-")
                found.append((int(start, 16), int(end, 16)))
    return found


def gather(extents: Sequence[Extent], settings: Path = _SETTINGS) -> threading.Thread | None:
    """Put memory into huge pages, in a thread that is returned; None where nothing is to do.

    Nothing changes but the time that reading takes: neither bits nor how much memory there is. Where
    the system has no huge page left, or gives none to anybody, all stays as it is; where the memory
    is gone by then, whatever is there instead gets them.

    Args:
        extents: the memory.
        settings: where the system says what it gives.
    """
    size = _huge_page(settings)
    if not size or not extents:
        return None
    thread = threading.Thread(target=_collapse, args=(tuple(extents), size), name=THREAD, daemon=True)
    thread.start()
    return thread


def added(before: Sequence[Extent], after: Sequence[Extent]) -> Iterator[Extent]:
    """Yield what is in the second and not in the first; both are in order."""
    known = iter(before)
    other = next(known, None)
    for start, end in after:
        while other is not None and other[1] <= start:
            other = next(known, None)
        while other is not None and other[0] < end:
            if start < other[0]:
                yield start, other[0]
            start = max(start, other[1])
            if other[1] > end:
                break
            other = next(known, None)
        if start < end:
            yield start, end


def _huge_page(settings: Path) -> int:
    """Return the bytes of a huge page, 0 where the system gives none."""
    try:
        # The system would give them even where its owner chose "never", to those who ask in this way.
        if "[never]" in (settings / "enabled").read_text(encoding="ascii"):
            return 0
        return int((settings / "hpage_pmd_size").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _collapse(extents: Sequence[Extent], size: int) -> None:
    madvise = _madvise()
    for start, end in extents if madvise is not None else ():
        start, end = -(-start // size) * size, end // size * size
        if start < end:
            # What is freed and touched again later shall be in huge pages at once.
            madvise(start, end - start, _HUGEPAGE)
        # One page at a time: other threads that ask the system for memory wait meanwhile.
        for page in range(start, end, size):
            madvise(page, size, _COLLAPSE)


@cache
def _madvise() -> Any:
    try:
        madvise = ctypes.CDLL(None).madvise
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return None
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return madvise
