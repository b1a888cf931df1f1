"""Takes off what training tools put before the names of weights, such as DataParallel's "module."."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

__all__ = ["unwrapped", "wrapping_of"]

_WRAPPING = ("module.", "model.", "_orig_mod.")
"""What training tools put before the names of weights: DataParallel, Lightning, torch.compile."""


def wrapping_of(maker: Any, config: PretrainedConfig, folder: Path, *, pickled: bool) -> str:
    """Return what a training tool put before the names of a model's weights, or "".

    Args:
        maker: transformers' class that makes the model.
        config: of the model.
        folder: holds the weights.
        pickled: whether those are pickles, which may be read.
    """
    import torch

    names = [name for path in _files(folder, pickled=pickled) for name in _names(path)]
    starts = {start for name in names for start in _starts(name)}
    if not starts:
        return ""
    try:
        with torch.device("meta"):
            model = maker.from_config(copy.deepcopy(config), attn_implementation="eager")
    except Exception:  # loading it fails in the same way, and says why
        return ""
    base = f"{model.base_model_prefix}."
    # An encoder's weights may stand with or without the name that its head's model gives it.
    wanted = {name.removeprefix(base) for name in model.state_dict()}

    def hits(start: str) -> int:
        return sum(name.removeprefix(start).removeprefix(base) in wanted for name in names)

    # Some models have a part called "model" themselves, so the shortest that fits as well is right.
    return max(["", *sorted(starts, key=len)], key=hits)


@contextmanager
def unwrapped(folder: Path, wrapping: str, *, pickled: bool) -> Iterator[Path]:
    """Give a folder with the weights by their own names: the same one where nothing is to be taken off.

    Renamed in a file, since transformers 4 looks at the names of the file whatever it is told of them.
    """
    if not wrapping:
        yield folder
        return
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for path in _files(folder, pickled=pickled):
        for name, tensor in _tensors(path).items():
            # Copied, since a file of safetensors holds no two names of one tensor.
            tensors[name.removeprefix(wrapping)] = tensor.clone().contiguous()
    with tempfile.TemporaryDirectory(prefix="bertonnx-", ignore_cleanup_errors=True) as there:
        save_file(tensors, Path(there) / "model.safetensors", metadata={"format": "pt"})
        yield Path(there)


def _files(folder: Path, *, pickled: bool) -> list[Path]:
    return sorted(folder.glob("pytorch_model*.bin" if pickled else "model*.safetensors"))


def _names(path: Path) -> list[str]:
    """Return the names of a file's weights; none where it cannot be read, which loading it will say."""
    from safetensors import safe_open

    try:
        if path.suffix == ".bin":
            return list(_tensors(path, device="meta"))
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except Exception:  # safetensors and torch raise many kinds for damaged files
        return []


def _tensors(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    import torch
    from safetensors.torch import load_file

    if path.suffix != ".bin":
        return load_file(path)
    tensors: dict[str, torch.Tensor] = torch.load(path, map_location=device, weights_only=True)
    return tensors


def _starts(name: str) -> Iterator[str]:
    """Yield the beginnings of a name that are made of what training tools put there."""
    end = 0
    while part := next((part for part in _WRAPPING if name.startswith(part, end)), ""):
        end += len(part)
        yield name[:end]
