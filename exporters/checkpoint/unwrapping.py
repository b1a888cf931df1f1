"""Names of weights as transformers' classes have them.

Takes off what training tools put before them, such as DataParallel's "module.", and puts the encoder's name
before those of its weights where a head lies beside them.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx.exporters.checkpoint.weight_files import format_of, weight_files
from bertonnx.models.tasks import ENCODER

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

__all__ = ["AS_THEY_ARE", "Renaming", "renaming_of", "tensors_of", "unwrapped"]

_WRAPPING = ("module.", "model.", "_orig_mod.")
"""What training tools put before the names of weights: DataParallel, Lightning, torch.compile."""

_READ = ("pt", "mlx", None)
"""What transformers 4 takes for PyTorch's names and layouts."""


@dataclass(frozen=True)
class Renaming:
    """What is done to the names of a checkpoint's weights.

    Attributes:
        off: what a training tool put before each, which is taken off; "" for nothing.
        base: what is put before those of the encoder ("bert."); "" for nothing.
        inner: the names that get it.
    """

    off: str = ""
    base: str = ""
    inner: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.off or self.base)

    def __call__(self, name: str) -> str:
        """Return a name as transformers has it."""
        name = name.removeprefix(self.off)
        return self.base + name if name in self.inner else name


AS_THEY_ARE = Renaming()


def renaming_of(maker: Any, config: PretrainedConfig, folder: Path, *, pickled: bool) -> Renaming:
    """Return how a checkpoint's weights are to be renamed for a class of transformers.

    Args:
        maker: transformers' class that makes the model.
        config: of the model.
        folder: holds the weights.
        pickled: whether those are pickles, which may be read.
    """
    import torch

    names = [name for path in weight_files(folder, pickled=pickled) for name in _names(path)]
    starts = {start for name in names for start in _starts(name)}
    # A model is made only where names may differ, since making one takes a while.
    if not starts and (maker.__name__ == ENCODER.auto_class or _has_base(names, maker, config)):
        return AS_THEY_ARE
    try:
        with torch.device("meta"):
            model = maker.from_config(copy.deepcopy(config), attn_implementation="eager")
    except Exception:  # loading it fails in the same way, and says why
        return AS_THEY_ARE
    base = f"{model.base_model_prefix}."
    # An encoder's weights may stand with or without the name that its head's model gives it.
    wanted = {name.removeprefix(base) for name in model.state_dict()}

    def hits(start: str) -> int:
        return sum(name.removeprefix(start).removeprefix(base) in wanted for name in names)

    # Some models have a part called "model" themselves, so the shortest that fits as well is right.
    off = max(["", *sorted(starts, key=len)], key=hits)
    inner = _without_base({name.removeprefix(off) for name in names}, {*model.state_dict()}, base)
    return Renaming(off, base if inner else "", inner)


def _has_base(names: list[str], maker: Any, config: PretrainedConfig) -> bool:
    made = maker._model_mapping[type(config)]
    bases = {f"{one.base_model_prefix}." for one in (made if isinstance(made, tuple) else (made,))}
    return any(name.startswith(tuple(bases)) for name in names)


def _without_base(names: set[str], wanted: set[str], base: str) -> frozenset[str]:
    """Return the weights of an encoder that lack its name beside those of a head.

    Version 5 of transformers finds them; version 4 takes such a file for damaged.
    """
    heads = {name for name in wanted if not name.startswith(base)}
    if any(name.startswith(base) for name in names) or not names & heads:
        return frozenset()
    return frozenset(name for name in names - heads if base + name in wanted)


@contextmanager
def unwrapped(folder: Path, renaming: Renaming, *, pickled: bool) -> Iterator[Path]:
    """Give a folder with the weights by their own names: the same one where nothing is to be changed.

    Renamed in a file, since transformers 4 looks at the names of the file whatever it is told of them. Nor
    does it take one whose metadata does not say what saved it, which version 5 passes over.
    """
    if not renaming and (pickled or all(format_of(path) in _READ for path in weight_files(folder))):
        yield folder
        return
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(folder, pickled=pickled):
        for name, tensor in tensors_of(path).items():
            # Copied, since a file of safetensors holds no two names of one tensor.
            tensors[renaming(name)] = tensor.clone().contiguous()
    with tempfile.TemporaryDirectory(prefix="bertonnx-", ignore_cleanup_errors=True) as there:
        save_file(tensors, Path(there) / "model.safetensors", metadata={"format": "pt"})
        yield Path(there)


def _names(path: Path) -> list[str]:
    """Return the names of a file's weights; none where it cannot be read, which loading it will say."""
    from safetensors import safe_open

    try:
        if path.suffix == ".bin":
            return list(tensors_of(path, device="meta"))
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except Exception:  # safetensors and torch raise many kinds for damaged files
        return []


def tensors_of(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Return the weights of a file by their names; of a pickle nothing but tensors."""
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
