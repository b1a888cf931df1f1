"""What ONNX Runtime has mapped of a file, put into memory of our own at the same place.

After that the file can be written over, cut or deleted, and the session keeps its weights. What it had
packed in another order already it does not map any more, so that this is mostly the table of words.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterator
from pathlib import Path

__all__ = ["MAPS", "detach"]

MAPS = Path("/proc/self/maps")

_READ, _WRITE = 1, 2  # PROT_READ, PROT_WRITE
_PRIVATE, _ANONYMOUS = 2, 0x20  # MAP_PRIVATE, MAP_ANONYMOUS
_MAY_MOVE, _FIXED = 1, 2  # MREMAP_MAYMOVE, MREMAP_FIXED
_FAILED = ctypes.c_void_p(-1).value


def detach(paths: Collection[Path]) -> int:
    """Replace all private mappings of files by copies, and return how many bytes that were.

    Nobody may map or unmap these files meanwhile, nor change them (`held.held`). Linux only.

    Args:
        paths: the files, without links.

    Raises:
        MemoryError: there is not memory enough for the copies.
    """
    if not MAPS.exists():  # nothing is mapped on other systems (`held.held`)
        return 0
    names = {os.fsencode(path) for path in paths}
    libc = _libc()
    done = 0
    for start, size in list(_mappings(names)):
        copy = libc.mmap(None, size, _READ | _WRITE, _PRIVATE | _ANONYMOUS, -1, 0)
        if copy == _FAILED:
            raise MemoryError(f"no memory for {size} bytes of weights")
        ctypes.memmove(copy, start, size)
        libc.mprotect(copy, size, _READ)
        # At one stroke: other threads may be reading there.
        if libc.mremap(copy, size, size, _MAY_MOVE | _FIXED, start) == _FAILED:
            libc.munmap(copy, size)
            raise MemoryError("the weights cannot be moved")
        done += size
    return done


def _mappings(names: Collection[bytes]) -> Iterator[tuple[int, int]]:
    """Yield start and size of each private mapping of a file; ours are shared ones."""
    with MAPS.open("rb") as lines:
        for line in lines:
            extent, flags, _, _, _, *name = line.rstrip(b"\n").split(None, 5)
            # A line end in a name is written as \012, and nothing else is.
            if name and flags.endswith(b"p") and name[0].replace(b"\\012", b"\n") in names:
                start, _, end = extent.partition(b"-")
                yield int(start, 16), int(end, 16) - int(start, 16)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
    size, address = ctypes.c_size_t, ctypes.c_void_p
    libc.mmap.argtypes = [address, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong]
    libc.mremap.argtypes = [address, size, size, ctypes.c_int, address]
    libc.mprotect.argtypes = [address, size, ctypes.c_int]
    libc.munmap.argtypes = [address, size]
    return libc
