"""Names of weights that a training tool put something before, and buffers that are not learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bertonnx.errors import CheckpointError
from bertonnx.exporters.options import Trust
from bertonnx.wording import COMMAND_LINE
from tests.checkpoints import edit_weights, message, read
from tests.tiny import save_tiny


def outputs(folder: Path, trust: Trust = Trust()) -> torch.Tensor:  # noqa: B008
    ids = torch.tensor([[2, 10, 11, 3]])
    with torch.no_grad():
        found: torch.Tensor = read(folder, trust=trust).model(ids, attention_mask=torch.ones_like(ids))[0]
    return found


def wrapped(folder: Path, start: str) -> Path:
    edit_weights(folder, lambda weights: {f"{start}{name}": tensor for name, tensor in weights.items()})
    return folder


@pytest.mark.parametrize("start", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
# ModernBERT has a part called "model" itself.
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_what_a_training_tool_put_before_names_is_taken_off(family: str, start: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m", family)
    plain = outputs(folder)
    checkpoint = read(wrapped(folder, start))
    assert torch.equal(outputs(folder), plain)
    said = [note.worded(COMMAND_LINE) for note in checkpoint.notes]
    assert f"the names of the weights begin with {start}, which was taken off" in said


def test_names_of_a_pickle_too(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = save_tiny(tmp_path / "m")
    plain = outputs(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, folder / "pytorch_model.bin")
    assert torch.equal(outputs(folder, Trust(allow_pickle=True)), plain)


def test_names_that_mean_nothing_are_few_and_counted(tmp_path: Path) -> None:
    said = message(CheckpointError, wrapped(save_tiny(tmp_path / "m"), "mine."))
    assert said.startswith("the checkpoint holds no weight by a name that a bert model has: it holds mine.")
    assert said.endswith("save the model itself, not what wraps it: model.save_pretrained('folder')")
    assert len(said) < 700


def test_a_shape_that_does_not_fit_is_named_once_and_the_rest_counted(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    edit_weights(folder, lambda weights: {name: tensor[..., :8].clone() for name, tensor in weights.items()})
    said = message(CheckpointError, folder)
    assert "has shape (" in said
    assert " more; correct config.json" in said
    assert len(said) < 500


def test_its_shape_is_told_whatever_stands_before_its_name(tmp_path: Path) -> None:
    folder = wrapped(save_tiny(tmp_path / "m"), "module.")
    edit_weights(folder, lambda weights: {name: tensor[..., :8].clone() for name, tensor in weights.items()})
    assert "has shape another" not in message(CheckpointError, folder)


def test_rotary_buffers_are_computed_whether_or_not_they_are_saved(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m", "esm", "fill-mask")
    plain = outputs(folder)
    layers = [f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq" for layer in (0, 1)]
    saved = 1.0 / (10000 ** (torch.arange(0, 8, 2).float() / 8))

    def without(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in weights.items() if "inv_freq" not in name}

    edit_weights(folder, without)
    assert torch.equal(outputs(folder), plain)
    edit_weights(folder, lambda weights: weights | {name: saved.clone() for name in layers})
    assert torch.equal(outputs(folder), plain)


def test_an_encoder_without_its_name_beside_a_head(tmp_path: Path) -> None:
    """Version 5 of transformers reads such a file, and version 4 takes it for damaged."""
    folder = save_tiny(tmp_path / "m")
    plain = outputs(folder)
    edit_weights(folder, lambda weights: {name.removeprefix("bert."): weights[name] for name in weights})
    checkpoint = read(folder)
    assert torch.equal(outputs(folder), plain)
    said = [note.worded(COMMAND_LINE) for note in checkpoint.notes]
    assert "the names of the encoder's weights lack bert. beside those of the head; it was put there" in said


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction"])
def test_names_of_both_forms_are_told_apart(task: str, tmp_path: Path) -> None:
    import transformers

    folder = save_tiny(tmp_path / "m", task=task)
    plain = outputs(folder)

    def mixed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        short = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
        return {f"bert.{name}" if "layer.0" in name else name: tensor for name, tensor in short.items()}

    edit_weights(folder, mixed)
    if transformers.__version__.startswith("4"):
        said = message(CheckpointError, folder)
        assert said.startswith("the names of some of the encoder's weights begin with bert., and those of ")
        assert "embeddings.LayerNorm.bias" in said
        assert said.endswith("give all of them one of the two forms")
    else:
        assert torch.allclose(outputs(folder), plain, atol=1e-6)
