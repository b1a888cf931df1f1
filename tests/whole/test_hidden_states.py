"""Token vectors of every layer against transformers' `output_hidden_states`, in fp32, INT8 and fp16."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import bertonnx
from bertonnx.errors import TaskError, UsageError
from bertonnx.runtime.decoders.tokens import Pooled
from bertonnx.runtime.model import Model
from tests.corpus import PARAGRAPHS, SENTENCES
from tests.decoding import shared_folder
from tests.tiny import save_tiny

TEXTS = [*SENTENCES[:5], "", "ünï naïve 👩‍🔬 untouchable"]
LAYERS = 2


@pytest.fixture(scope="module", params=["bert", "modernbert"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("hidden") / "checkpoint", request.param, "feature-extraction")


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    path = bertonnx.export(folder, folder.parent / "all.onnx", hidden_states="all").path
    with bertonnx.load(path) as opened:
        yield opened


def theirs(folder: Path, text: str | list[int], longest: int | None = 64) -> Any:
    made: Any = AutoModel
    network = made.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer
    if isinstance(text, str):
        encoded = tokenizer.from_pretrained(folder)(
            text, return_tensors="pt", truncation=True, max_length=longest
        )
    else:
        encoded = {"input_ids": torch.tensor([text])}
    with torch.no_grad():
        return network(**encoded, output_hidden_states=True)


def test_every_layer_is_theirs(folder: Path, model: Model) -> None:
    count = len(theirs(folder, TEXTS[0]).hidden_states)
    assert model.card.hidden_states == tuple(range(count))
    assert model.card.layers == count - 1
    for layer in range(-count, count):
        ours = model.embed_tokens(TEXTS, layer=layer)
        for text, item in zip(TEXTS, ours, strict=True):
            expected = theirs(folder, text).hidden_states[layer][0].numpy()
            assert item["vectors"].dtype == np.float32
            np.testing.assert_allclose(item["vectors"], expected, atol=1e-5)
            assert len(item["tokens"]) == len(item["offsets"]) == len(expected)


def test_tokens_and_words_are_where_they_stand(model: Model) -> None:
    text = SENTENCES[0]
    (item,) = model.embed_tokens([text])
    (encoded,) = model.tokenize([text])
    assert item["tokens"] == encoded.pieces[0].encoding.tokens
    assert item["offsets"] == encoded.pieces[0].encoding.offsets
    ways: tuple[tuple[Pooled, str | None], ...] = (
        ("mean", "mean"),
        ("max", "max"),
        ("first", None),
        ("last", None),
    )
    for how, function in ways:
        (words,) = model.embed_tokens([text], words=how)
        assert words["words"] == [text[start:end] for start, end in words["offsets"]]
        assert "".join(words["words"]).replace(" ", "") == text.replace(" ", "")
        for (start, end), vector in zip(words["offsets"], words["vectors"], strict=True):
            inside = [
                place
                for place, (first, last) in enumerate(item["offsets"])
                if start <= first and last <= end and last > first
            ]
            parts = item["vectors"][inside]
            pooled = parts[0 if how == "first" else -1] if function is None else getattr(parts, function)(0)
            np.testing.assert_allclose(vector, pooled, atol=1e-6)
    (empty,) = model.embed_tokens([""], words="mean")
    assert (empty["words"], empty["vectors"].shape[0]) == ([], 0)


def test_windows_give_each_token_once(model: Model) -> None:
    text = PARAGRAPHS[0]
    with bertonnx.load(model.path, max_length=24, long_text="stride") as windows:
        (item,) = windows.embed_tokens([text])
        assert len(windows.tokenize([text])[0].pieces) > 1
    (encoded,) = model.tokenize([text]) if len(model.tokenize([text])[0].pieces) == 1 else (None,)
    if encoded is not None and not encoded.truncated:
        assert item["tokens"] == encoded.pieces[0].encoding.tokens
        assert item["offsets"] == encoded.pieces[0].encoding.offsets
    assert item["vectors"].shape[0] == len(item["tokens"])


@pytest.mark.parametrize("options", [{"quantize": True, "min_agreement": 0.5}, {"precision": "fp16"}])
def test_smaller_numbers_keep_the_layers(folder: Path, model: Model, options: Any) -> None:
    made = bertonnx.export(
        folder, folder.parent / "small.onnx", hidden_states=[0, 1, -1], force=True, **options
    )
    with bertonnx.load(made.path) as small:
        assert small.card.hidden_states == (0, 1, *([] if model.card.layers == 1 else [model.card.layers]))
        for layer in (0, 1, -1):
            ours, whole = (each.embed_tokens(TEXTS[:3], layer=layer) for each in (small, model))
            for item, other in zip(ours, whole, strict=True):
                a, b = item["vectors"].ravel(), other["vectors"].ravel()
                assert float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) > 0.98
    assert bertonnx.check(made.path).examples > 0


def test_without_the_option_nothing_is_there(folder: Path, model: Model) -> None:
    made = bertonnx.export(folder, folder.parent / "plain.onnx")
    outputs = [value.name for value in onnx.load(made.path).graph.output]
    assert outputs == ["sentence_embedding", "last_hidden_state"]
    with bertonnx.load(made.path) as plain:
        for item, text in zip(plain.embed_tokens(TEXTS), TEXTS, strict=True):
            expected = theirs(folder, text).last_hidden_state[0].numpy()
            np.testing.assert_allclose(item["vectors"], expected, atol=1e-5)
        assert plain.embed(TEXTS).tobytes() == model.embed(TEXTS).tobytes()
        with pytest.raises(
            UsageError, match=r"layer=0: this file holds the last layer alone .*hidden_states='all'"
        ):
            plain.embed_tokens(TEXTS, layer=0)
        with pytest.raises(UsageError, match="words='sum' is unknown"):
            plain.embed_tokens(TEXTS, words="sum")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"layer=9: this file holds the layers 0, 1"):
        model.embed_tokens(TEXTS, layer=9)


@pytest.mark.parametrize("asked", [[9], "some", [], [-9], [1.5]])
def test_layers_that_are_not_there(folder: Path, asked: Any) -> None:
    with pytest.raises(UsageError, match="hidden_states="):
        bertonnx.export(folder, folder.parent / "none.onnx", hidden_states=asked)


def test_other_tasks_have_none(exported: dict[str, Path], folder: Path) -> None:
    with pytest.raises(UsageError, match="hidden_states is for feature-extraction"):
        bertonnx.export(folder, folder.parent / "no.onnx", hidden_states="all", task="fill-mask")
    with bertonnx.load(exported["fill-mask"]) as other, pytest.raises(TaskError, match="feature-extraction"):
        other.embed_tokens(TEXTS)


def test_layers_words_and_windows_of_a_real_model(tmp_path: Path) -> None:
    """Of all MiniLM's layers, in whole texts and in those of several windows."""
    folder = shared_folder() / "models" / "sst2-minilm"
    path = bertonnx.export(
        folder, tmp_path / "model.onnx", task="feature-extraction", hidden_states="all", pooling="mean"
    ).path
    texts = [*SENTENCES[:4], PARAGRAPHS[0], "", "ünï naïve 👩\u200d🔬 untouchable 北京"]
    with bertonnx.load(path) as model:
        wanted = [theirs(folder, text, model.max_length).hidden_states for text in texts]
        assert model.card.hidden_states == tuple(range(len(wanted[0])))
        for layer in model.card.hidden_states:
            for item, states in zip(model.embed_tokens(texts, layer=layer), wanted, strict=True):
                np.testing.assert_allclose(item["vectors"], states[layer][0].numpy(), atol=5e-5)
        (words,) = model.embed_tokens(texts[-1:], layer=1, words="mean")
        network: Any = AutoTokenizer
        encoded = network.from_pretrained(folder)(texts[-1])
        for place, word in enumerate(dict.fromkeys(w for w in encoded.word_ids() if w is not None)):
            tokens = [t for t, of in enumerate(encoded.word_ids()) if of == word]
            expected = wanted[-1][1][0, tokens].mean(dim=0).numpy()
            np.testing.assert_allclose(words["vectors"][place], expected, atol=5e-5)
            assert words["offsets"][place] == tuple(encoded.word_to_chars(word))
    long = " ".join(SENTENCES[:8])
    with bertonnx.load(path, max_length=32, long_text="stride") as model:
        (encoded,) = model.tokenize([long])
        (item,) = model.embed_tokens([long], layer=3)
        assert len(encoded.pieces) > 2
        # Each window is a text of its own to the network, and its first tokens are the first window's.
        first = encoded.pieces[0]
        states = theirs(folder, first.ids.tolist(), None).hidden_states[3][0].numpy()
        kept = len(first.ids) - 1
        np.testing.assert_allclose(item["vectors"][:kept], states[:kept], atol=5e-5)
        assert item["offsets"] == [*sorted(item["offsets"][:-1]), (0, 0)]
        assert [long[a:b].lower() for a, b in item["offsets"][1:-1]] == [
            token.removeprefix("##") for token in item["tokens"][1:-1]
        ]
