from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bertonnx.errors import CheckpointError
from tests.checkpoints import edit_json, edit_weights, message, read, save

HEADS = {
    "BertForMaskedLM": "cls.predictions",
    "AlbertForMaskedLM": "predictions",
    "RobertaForMaskedLM": "lm_head",
    "MPNetForMaskedLM": "lm_head",
}
WORDS = 1300


@pytest.fixture(params=HEADS)
def untied(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A checkpoint whose decoder gives zeros, so that its logits are the bias; and its head's name."""
    folder = save(tmp_path / "m", request.param, tie_word_embeddings=False)
    head = HEADS[request.param]

    def change(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights = {
            name: value for name, value in weights.items() if name.removeprefix(f"{head}.") not in BIASES
        }
        return weights | {f"{head}.decoder.weight": torch.zeros_like(weights[f"{head}.decoder.weight"])}

    edit_weights(folder, change)
    return folder, head


BIASES = {"bias", "decoder.bias"}


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = read(folder).model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, 1]
    return result


def test_the_decoders_own_bias_is_added_as_version_5_adds_it(untied: tuple[Path, str]) -> None:
    # transformers 5.24 gives these logits; 4.57 adds the other bias for BERT, ALBERT and MPNet.
    folder, head = untied
    own = torch.arange(WORDS) / WORDS
    edit_weights(folder, lambda weights: weights | {f"{head}.bias": -own, f"{head}.decoder.bias": own})
    assert torch.equal(logits(folder), own)


@pytest.mark.parametrize("name", sorted(BIASES))
def test_one_bias_is_that_of_the_decoder_whatever_its_name(untied: tuple[Path, str], name: str) -> None:
    # Version 4 of transformers saves one, and 4.57 gives these logits for it; 5.24 lacks a weight.
    folder, head = untied
    own = torch.arange(WORDS) / WORDS
    edit_weights(folder, lambda weights: weights | {f"{head}.{name}": own})
    assert torch.equal(logits(folder), own)


def test_no_bias_at_all_is_a_missing_weight(untied: tuple[Path, str]) -> None:
    folder, head = untied
    assert f"{head}.bias" in message(CheckpointError, folder)


@pytest.mark.parametrize("head", HEADS)
def test_a_second_table_is_the_decoder_where_version_5_saved_it(tmp_path: Path, head: str) -> None:
    # tie_word_embeddings is true: 5.24 takes the decoder of the file, 4.57 the table of embeddings.
    folder, name = save(tmp_path / "m", head), f"{HEADS[head]}.decoder.weight"
    expected = decoder(folder)
    own = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    edit_weights(folder, lambda weights: weights | {name: own})
    edit_json(folder / "config.json", transformers_version="5.24.0")
    assert torch.equal(decoder(folder), own)
    for version in ("4.57.6", "3.5.1", None):
        edit_json(folder / "config.json", transformers_version=version)
        assert torch.equal(decoder(folder), expected)


@pytest.mark.parametrize("head", HEADS)
def test_two_biases_of_a_tied_decoder(tmp_path: Path, head: str) -> None:
    # 5.24 takes the decoder's; 4.57 that of BERT's and MPNet's head, and of ALBERT and RoBERTa the decoder's.
    folder, name = save(tmp_path / "m", head), HEADS[head]
    own = torch.arange(WORDS) / WORDS
    edit_weights(folder, lambda weights: weights | {f"{name}.bias": -own, f"{name}.decoder.bias": own})
    edit_json(folder / "config.json", transformers_version="5.24.0")
    found: Any = read(folder).model.get_output_embeddings()
    assert torch.equal(found.bias, own)
    edit_json(folder / "config.json", transformers_version="4.57.6")
    if transformers.__version__ < "5":
        found = read(folder).model.get_output_embeddings()
        assert torch.equal(found.bias, -own if head.startswith(("Bert", "MPNet")) else own)
    else:
        said = message(CheckpointError, folder)
        assert said.startswith(f"the weights hold two biases of the decoder, {name}.decoder.bias and {name}.")


def decoder(folder: Path) -> torch.Tensor:
    module: Any = read(folder).model.get_output_embeddings()
    return torch.as_tensor(module.weight.detach())
