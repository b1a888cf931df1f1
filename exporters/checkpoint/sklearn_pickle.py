"""Reads a fitted classifier of scikit-learn out of joblib's pickle, without running anything of the pickle's.

A pickle names classes and functions to call. Here only NumPy's arrays are made by what it names; every class
of scikit-learn becomes a bare object that holds its attributes, and any other name is refused. Neither joblib
nor scikit-learn is needed.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from bertonnx.errors import CheckpointError, UnsupportedError

__all__ = ["Part", "read_classifier"]

_LONGEST = 256 * 2**20
"""Bytes of an array that no classifier of sentence embeddings needs."""


_BUILD: Any = pickle._Unpickler.dispatch[pickle.BUILD[0]]
"""What gives an object its attributes, in Python's own unpickler."""


class Part:
    """An object of scikit-learn, of which nothing is left but its attributes.

    Attributes:
        kind: the name of its class.
    """

    kind = ""

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute; `default` where it has none of that name."""
        return vars(self).get(name, default)


class _Array:
    """What joblib writes in place of an array, whose bytes follow in the file."""

    shape: tuple[int, ...]
    order: str
    dtype: Any


def _as_bytes(text: str, codec: str = "latin1") -> bytes:
    return text.encode(codec)


def _names() -> Mapping[tuple[str, str], Callable[..., Any]]:
    # As a pickle of each would have them: where NumPy keeps the two has changed.
    array, number = np.zeros(1).__reduce__()[0], np.float64(1).__reduce__()[0]
    made: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _as_bytes,
        ("joblib.numpy_pickle", "NumpyArrayWrapper"): _Array,
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        made[module, "_reconstruct"] = array
        made[module, "scalar"] = number
    return made


class _Restricted(pickle._Unpickler):
    """Unpickles arrays and bare objects, and nothing else."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        super().__init__(stream)
        self._stream = stream
        self._path = path
        self._known = _names()

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name; nothing is imported for it."""
        if (module, name) in self._known:
            return self._known[module, name]
        if module.split(".")[0] == "sklearn":
            return type("Part", (Part,), {"kind": name})
        if module.split(".")[0] in ("setfit", "torch"):
            raise UnsupportedError(
                "{path} holds a head of PyTorch ({kind}), and of SetFit's heads only scikit-learn's are "
                "merged; train it with use_differentiable_head=False",
                path=self._path,
                kind=f"{module}.{name}",
            )
        raise UnsupportedError(
            "{path} names {kind}, which no classifier of scikit-learn needs; nothing of it was run",
            path=self._path,
            kind=f"{module}.{name}",
        )

    def load_build(self) -> None:
        """Give an object its attributes; read the array that follows where it stands for one."""
        _BUILD(self)
        if isinstance(self.stack[-1], _Array):
            self.stack[-1] = self._array(self.stack[-1])

    dispatch[pickle.BUILD[0]] = load_build

    def _array(self, what: Any) -> Any:
        if what.dtype.hasobject:
            return _Restricted(self._stream, self._path).load()
        count = int(np.prod(what.shape, dtype=np.int64))
        size = count * what.dtype.itemsize
        if not 0 <= size <= _LONGEST:
            raise ValueError(f"an array of {size} bytes")
        # joblib aligns arrays since 1.1, and says by how much.
        if vars(what).get("numpy_array_alignment_bytes") is not None:
            self._stream.read(self._stream.read(1)[0])
        flat = np.frombuffer(self._stream.read(size), dtype=what.dtype, count=count)
        return flat.reshape(what.shape[::-1]).T if what.order == "F" else flat.reshape(what.shape)


def read_classifier(path: Path) -> Part:
    """Return the classifier in a file that joblib wrote.

    Raises:
        UnsupportedError: it names what no classifier of scikit-learn needs; nothing of it was run.
        CheckpointError: it is damaged, or no classifier.
    """
    try:
        with path.open("rb") as stream:
            found = _Restricted(stream, path).load()
    except UnsupportedError:
        raise
    except Exception as error:  # a damaged pickle fails in any way
        raise CheckpointError(
            "{path} cannot be read ({kind}: {why}); download it again",
            path=path,
            kind=type(error).__name__,
            why=error,
        ) from error
    if not isinstance(found, Part):
        raise CheckpointError(
            "{path} holds a {kind}, and a classifier of scikit-learn is expected",
            path=path,
            kind=type(found).__name__,
        )
    return found
