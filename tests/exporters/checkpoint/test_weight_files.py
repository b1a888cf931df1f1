"""Files of weights that lie beside those that transformers reads: other precisions, older copies, parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bertonnx.errors import CheckpointError
from bertonnx.exporters.options import Trust
from tests.checkpoints import edit_weights, message, read
from tests.tiny import save_tiny

OTHERS = ("model.v2.safetensors", "model_old.safetensors", "model-00001-of-00002.safetensors")
"""Names before and after that of the weights, in order."""


def logits(folder: Path, trust: Trust = Trust()) -> torch.Tensor:  # noqa: B008
    ids = torch.tensor([[2, 10, 11, 3]])
    with torch.no_grad():
        found: torch.Tensor = read(folder, trust=trust).model(ids, attention_mask=torch.ones_like(ids))[0]
    return found


def put_beside(folder: Path, name: str) -> None:
    """Put a file of other values there, which no library reads."""
    weights = load_file(folder / "model.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, folder / name, metadata={"format": "pt"})


@pytest.mark.parametrize("name", OTHERS)
def test_the_bias_of_a_decoder_is_not_taken_from_another_file(name: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m", "bert", "fill-mask", tie_word_embeddings=False)
    own = logits(folder)
    put_beside(folder, name)
    assert torch.equal(logits(folder), own)


@pytest.mark.parametrize("name", OTHERS)
def test_nor_are_weights_whose_names_are_changed(name: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    own = logits(folder)
    edit_weights(folder, lambda weights: {f"module.{key}": value for key, value in weights.items()})
    put_beside(folder, name)
    assert torch.equal(logits(folder), own)


def test_a_file_that_no_library_reads_may_be_damaged(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    own = logits(folder)
    (folder / "model.fp16.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
    )
    assert torch.equal(logits(folder), own)


def test_a_pickle_is_read_beside_safetensors_that_no_library_reads(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    own = logits(folder)
    put_beside(folder, "model.fp16.safetensors")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    # Values of a pickle lie elsewhere in memory, so that the last bits differ.
    assert torch.allclose(logits(folder, Trust(allow_pickle=True)), own, atol=1e-5)


@pytest.mark.parametrize("name", ["cls.predictions.bias", "cls.predictions.decoder.bias"])
def test_one_bias_of_a_pickle_is_that_of_the_decoder(name: str, tmp_path: Path) -> None:
    # Version 4 of transformers saves one of the two, and gives these logits for either name.
    folder = save_tiny(tmp_path / "m", "bert", "fill-mask", tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    bias = torch.arange(len(weights["cls.predictions.bias"])) / 100
    kept = {key: value for key, value in weights.items() if not key.endswith("bias") or "LayerNorm" in key}
    kept |= {key: value for key, value in weights.items() if ".predictions." not in key}
    kept["cls.predictions.transform.dense.bias"] = weights["cls.predictions.transform.dense.bias"]
    kept["cls.predictions.decoder.weight"] = torch.zeros_like(weights["cls.predictions.decoder.weight"])
    torch.save(kept | {name: bias}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(logits(folder, Trust(allow_pickle=True))[0, 1], bias)


@pytest.mark.parametrize(
    ("kind", "name_of"), [(torch.int8, "I8"), (torch.int16, "I16"), (torch.int64, "I64")]
)
def test_weights_in_whole_numbers_are_said_to_be_quantized(
    kind: torch.dtype, name_of: str, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / "m")
    name = "bert.encoder.layer.0.output.dense.weight"
    edit_weights(folder, lambda weights: weights | {name: (weights[name] * 20).to(kind)})
    said = message(CheckpointError, folder)
    assert f"holds {name} in whole numbers ({name_of}), so its weights are quantized already" in said


@pytest.mark.parametrize("start", ["../", "", "inner/../../"])
def test_an_index_leads_to_no_other_folder(start: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    name = f"{start}other.safetensors" if start else str(tmp_path / "other.safetensors")
    (folder / "model.safetensors").rename(tmp_path / "other.safetensors")
    index = {"weight_map": dict.fromkeys(load_file(tmp_path / "other.safetensors"), name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"lists weights outside of its folder ({name})" in message(CheckpointError, folder)
