"""Memory that is moved into huge pages keeps what is in it."""

from __future__ import annotations

import mmap
import platform
import re
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bertonnx.runtime.session import huge_pages

Bytes = npt.NDArray[np.uint8]

SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ([], [(2, 5)], [(2, 5)]),
        ([(2, 5)], [(2, 5)], []),
        ([(2, 5)], [(2, 9)], [(5, 9)]),
        ([(2, 5)], [(0, 9)], [(0, 2), (5, 9)]),
        ([(0, 3), (6, 9)], [(2, 8)], [(3, 6)]),
        ([(0, 9)], [(1, 2), (4, 5)], []),
        ([(0, 2), (3, 4), (8, 9)], [(0, 6), (7, 10)], [(2, 3), (4, 6), (7, 8), (9, 10)]),
    ],
)
def test_what_was_added_is_told_from_what_was_there(
    before: list[huge_pages.Extent], after: list[huge_pages.Extent], new: list[huge_pages.Extent]
) -> None:
    assert list(huge_pages.added(before, after)) == new


def test_only_memory_of_our_own_is_found(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "1000-3000 r-xp 00000000 fd:00 7 /usr/lib/libc.so\n"
        "3000-4000 rw-p 00000000 fd:00 7 /a file with spaces\n"
        "4000-9000 rw-p 00000000 00:00 0 [heap]\n"
        "a000-b000 rw-s 00000000 00:00 0\n"
        "b000-f000 rw-p 00000000 00:00 0 \n"
        "f000-ff00 rw-p 00000000 00:00 0 [stack]\n"
        "ff00-fff0 r--p 00000000 00:00 0\n"
    )
    assert huge_pages.private_memory(maps) == [(0x4000, 0x9000), (0xB000, 0xF000)]
    assert huge_pages.private_memory(tmp_path / "missing") == []


@pytest.mark.parametrize("enabled", ["always madvise [never]\n", ""])
def test_who_gives_no_huge_pages_is_not_asked(tmp_path: Path, enabled: str) -> None:
    (tmp_path / "enabled").write_text(enabled)
    (tmp_path / "hpage_pmd_size").write_text("2097152\n" if enabled else "")
    assert huge_pages.gather([(0, 1 << 22)], tmp_path) is None
    assert huge_pages.gather([(0, 1 << 22)], tmp_path / "missing") is None
    assert huge_pages.gather([], SETTINGS) is None


def test_memory_keeps_what_is_in_it() -> None:
    thread, memory, values = _gathered()
    thread.join()
    assert np.array_equal(memory, values)


def test_memory_comes_into_huge_pages() -> None:
    thread, memory, _ = _gathered()
    thread.join()
    if _collapsed(memory) == 0:
        free = re.findall(r"Mem(?:Free|Available):\s+(\d+)", Path("/proc/meminfo").read_text())
        pytest.fail(f"no huge pages, with so many KiB free and available: {free}")


def _gathered() -> tuple[threading.Thread, Bytes, Bytes]:
    if sys.platform == "linux" and _release() < (6, 1):
        pytest.skip("this kernel moves nothing into huge pages on request; Linux 6.1 does")
    if not (SETTINGS / "hpage_pmd_size").exists() or "[never]" in (SETTINGS / "enabled").read_text():
        pytest.skip("this system gives no huge pages")
    before = huge_pages.private_memory()
    # Not NumPy's own, which asks for huge pages itself.
    memory = np.frombuffer(mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE), np.uint8)
    values = np.random.default_rng(0).integers(0, 256, memory.size, np.uint8)
    memory[:] = values
    extents = list(huge_pages.added(before, huge_pages.private_memory()))
    place = memory.ctypes.data
    assert any(start <= place and place + memory.size <= end for start, end in extents)
    thread = huge_pages.gather(extents)
    assert thread is not None
    return thread, memory, values


def _collapsed(memory: Bytes) -> int:
    """Return how much of an array lies in huge pages, in KiB."""
    found, within = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if extent := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, end = (int(each, 16) for each in extent.groups())
            within = start < memory.ctypes.data + memory.size and memory.ctypes.data < end
        elif within and line.startswith("AnonHugePages:"):
            found += int(line.split()[1])
    return found


def _release() -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", platform.release())[:2])
