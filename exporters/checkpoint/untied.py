"""Fill-mask's decoder where the files hold one of its own beside the table of embeddings.

Where `tie_word_embeddings` is true, version 4 of transformers takes the table for it whatever the files hold,
and version 5 takes the files' decoder where that is another.

Version 4 keeps one bias under two names, `bias` of the head and `bias` of its decoder, and saves one of them.
Version 5 does the same where `tie_word_embeddings` is true; where it is false, it adds the decoder's alone,
and saves both. So each version reads the other's files wrong, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.tokenizer_folder import installed_major
from bertonnx.exporters.checkpoint.unwrapping import tensors_of
from bertonnx.exporters.checkpoint.weight_files import weight_files
from bertonnx.wording import Install

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

__all__ = ["settle_decoder", "settle_decoder_biases"]


def settle_decoder(model: PreTrainedModel, folder: Path) -> None:
    """Give the decoder the numbers that the version which saved the checkpoint gives it.

    Args:
        model: changed in place.
        folder: holds the weights, by the names of the model.

    Raises:
        CheckpointError: there are two biases, and only version 4 knows which of them it takes.
    """
    from torch import equal
    from torch.nn import Parameter

    decoder: Any = model.get_output_embeddings()
    table: Any = model.get_input_embeddings()
    if decoder is None or not getattr(model.config, "tie_word_embeddings", True):
        return
    names = [name for name, module in model.named_modules() if module is decoder]
    names = [f"{name}.weight" for name in names]
    # Version 3 and those before it did not say which they are, and did as 4 does.
    by_version_5 = str(model.config.transformers_version or "4").partition(".")[0] == "5"
    tied = decoder.weight is table.weight
    if by_version_5 and tied:
        saved = _saved(folder, names)
        if saved is not None and not equal(saved.float(), table.weight):
            decoder.weight = Parameter(saved.float())
    # Version 5 lists all that it ties; two tables of different widths cannot be one.
    elif not by_version_5 and not tied and {*names} & {*(model._tied_weights_keys or ())}:
        decoder.weight = table.weight
    if decoder.bias is not None:
        _settle_bias(decoder, names[0].removesuffix(".weight"), folder, by_version_5=by_version_5)


def _settle_bias(decoder: Any, name: str, folder: Path, *, by_version_5: bool) -> None:
    from torch import equal
    from torch.nn import Parameter

    names = (f"{name}.bias", f"{name.rpartition('.')[0]}.bias")
    own, heads = (_saved(folder, [one]) for one in names)
    if own is None or heads is None or equal(own, heads):
        return
    if by_version_5:
        decoder.bias = Parameter(own.float())
    elif installed_major() != 4:
        # Its classes part: of BERT the head's is taken, of RoBERTa the decoder's.
        raise CheckpointError(
            "the weights hold two biases of the decoder, {names}, which differ, and transformers 4, which "
            "saved them, takes one of them for both; take the other out, or export with {install}",
            names=" and ".join(names),
            install=Install("export", packages=("transformers==4.57.6",)),
        )


def settle_decoder_biases(model: PreTrainedModel, folder: Path) -> frozenset[str]:
    """Give each decoder that is not tied the bias that the version which saved the weights adds.

    Args:
        model: changed in place.
        folder: holds the weights, by the names of the model.

    Returns:
        Names of the biases that were found there.
    """
    from torch.nn import Linear, Parameter

    if getattr(model.config, "tie_word_embeddings", True):
        return frozenset()
    found: set[str] = set()
    for name, module in model.named_modules():
        decoder, own = getattr(module, "decoder", None), getattr(module, "bias", None)
        if not isinstance(decoder, Linear) or decoder.bias is None or not isinstance(own, Parameter):
            continue
        names = (f"{name}.decoder.bias", f"{name}.bias")
        # Where version 5 saved both, version 4 takes the head's, which version 5 leaves unused.
        saved = _saved(folder, names)
        if saved is not None and saved.shape == decoder.bias.shape:
            decoder.bias = module.bias = Parameter(saved.float())
            found |= set(names)
    return frozenset(found)


def _saved(folder: Path, names: Sequence[str]) -> Tensor | None:
    """Return the first of these weights that the folder holds."""
    from safetensors import safe_open

    held: dict[str, Tensor] = {}
    # A pickle is read by now, with its author trusted.
    for path in weight_files(folder, pickled=True):
        if path.suffix == ".bin":
            held |= {name: tensor for name, tensor in tensors_of(path).items() if name in names}
            continue
        with safe_open(path, framework="pt") as file:
            held |= {name: file.get_tensor(name) for name in {*names} & {*file.keys()}}
    return next((held[name] for name in names if name in held), None)
