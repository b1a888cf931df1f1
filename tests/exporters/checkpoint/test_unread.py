"""Weights that transformers passes over, and without which a model is another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file

from bertonnx.errors import CheckpointError
from tests.checkpoints import edit_weights, message, read, save

QUERY = "bert.encoder.layer.0.attention.self.query"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("unread") / "m", "BertForSequenceClassification")


def test_an_adapter_within_the_weights(tmp_path: Path) -> None:
    made = save(tmp_path / "m", "BertForSequenceClassification", initializer_range=0.5)
    model: Any = read(made).model
    inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
    with torch.no_grad():
        before = model(**inputs).logits
        peft.inject_adapter_in_model(
            peft.LoraConfig(r=4, target_modules=["query"], init_lora_weights=False), model
        )
        # What transformers would leave out is no small thing.
        assert (model(**inputs).logits - before).abs().max() > 1e-3
    tensors = {name: value.clone().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    said = message(CheckpointError, made)
    assert f"the weights hold {QUERY}.lora_A.default.weight, " in said
    assert "and 1 more, of an adapter of peft that was not merged" in said
    assert "merge_and_unload" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{QUERY}.weight_scale", "by which quantized weights are to be read"),
        (f"{QUERY}.SCB", "by which quantized weights are to be read"),
        (
            "bert.encoder.layer.0.output.adapters.a.adapter_down.0.weight",
            "of adapters of the library of that",
        ),
        (f"{QUERY}.lora_B.weight", "of an adapter of peft"),
        ("crf.transitions", "of a conditional random field, which labels the tokens of a text together"),
        ("bilstm.weight_ih_l0", "of a recurrent layer between the encoder and its head"),
    ],
)
def test_parts_of_other_libraries(folder: Path, name: str, said: str) -> None:
    edit_weights(folder, lambda weights: weights | {name: torch.ones(4)})
    assert f"the weights hold {name}, {said}" in message(CheckpointError, folder)
    edit_weights(folder, lambda weights: {key: value for key, value in weights.items() if key != name})


def test_the_encoder_below_a_head_of_somebodys_own(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights | {"crf.transitions": torch.ones(4)})
    assert "its encoder can be exported, with --task feature-extraction" in message(CheckpointError, folder)
    assert read(folder, task="feature-extraction").task == "feature-extraction"
    edit_weights(folder, lambda weights: {key: value for key, value in weights.items() if "crf" not in key})


def test_a_head_that_nobody_reads_is_no_part(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights | {"cls.scales_of_things.weight": torch.ones(4)})
    assert any("cls.scales_of_things" in str(note) for note in read(folder).notes)
