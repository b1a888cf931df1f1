"""Prompts against the sentence-transformers package itself: `encode`, `encode_query`, `encode_document`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer

import bertonnx
from bertonnx.errors import UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.model import Model
from bertonnx.runtime.rows import Row
from tests.commands import Command, read_lines, written
from tests.corpus import PARAGRAPHS, SENTENCES
from tests.tiny import save_tiny

PROMPTS = {"query": "Query: ", "passage": "What the page says: ", "title": "title - "}
TEXTS = [*SENTENCES[:6], PARAGRAPHS[0] * 2, "", " Query: ", "ünï"]
TOLERANCE = 1e-5

MODULES: Any = importlib.import_module("sentence_transformers.sentence_transformer.modules")
"""The module classes, whose types the package does not export."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three prompts, none of which is the default."""
    place = tmp_path_factory.mktemp("prompts")
    tiny = save_tiny(place / "checkpoint", "bert", "feature-extraction")
    modules = [MODULES.Transformer(str(tiny), max_seq_length=48), MODULES.Pooling(32), MODULES.Normalize()]
    made: Any = SentenceTransformer
    made(modules=modules, device="cpu", prompts=PROMPTS).save(str(place / "folder"))
    return place / "folder"


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    return bertonnx.export(folder, folder.parent / "model.onnx").path


@pytest.fixture(params=[None, "passage"])
def pair(folder: Path, exported: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Model, Any]]:
    """Yield our model and theirs, with the same prompts and default prompt."""
    theirs: Any = SentenceTransformer(str(folder), device="cpu", default_prompt_name=request.param)
    with bertonnx.load(exported) as model:
        object.__setattr__(model.card, "default_prompt", request.param)
        yield model, theirs


def close(ours: Any, theirs: Any) -> bool:
    return ours.shape == theirs.shape and bool(np.abs(ours - theirs).max() <= TOLERANCE)


def test_the_card_has_the_folders_prompts(exported: Path) -> None:
    with bertonnx.load(exported) as model:
        # The package itself adds "document", without a text.
        assert model.card.prompts == {**PROMPTS, "document": ""}
        assert model.card.default_prompt is None
    assert Card.from_json(model.card.to_json()) == model.card


def test_each_prompt_as_sentence_transformers(pair: tuple[Model, Any]) -> None:
    model, theirs = pair
    without = theirs.encode(TEXTS, prompt="")
    default = theirs.encode(TEXTS)
    assert close(model.embed(TEXTS), default)
    assert close(model.embed(TEXTS, prompt=""), without)
    for name in PROMPTS:
        expected = theirs.encode(TEXTS, prompt_name=name)
        # A prompt that is left out must not pass.
        assert np.abs(expected - without).max() > 100 * TOLERANCE
        assert close(model.embed(TEXTS, prompt=name), expected)
    assert close(model.embed(TEXTS, prompt="query"), theirs.encode_query(TEXTS))
    # No prompt, although there is one for passages, and in one case it is the default.
    assert close(model.embed(TEXTS, prompt="document"), theirs.encode_document(TEXTS))


def test_all_ways_to_ask_for_a_prompt_give_the_same_bits(exported: Path) -> None:
    with bertonnx.load(exported) as model:
        expected = model.embed(TEXTS, prompt="title")
        alone = [model.embed([text], prompt="title")[0] for text in TEXTS]
        predicted = [item["embedding"] for item in model.predict(TEXTS, prompt="title")]
        batch = model.predict_batch(pyarrow.RecordBatch.from_pydict({"text": TEXTS}), prompt="title")
        encoded = model.tokenize(TEXTS, prompt="title")
    assert np.array_equal(expected, alone)
    assert np.array_equal(expected, np.array(predicted, dtype=np.float32))
    assert np.array_equal(expected, np.array(batch["embedding"].to_pylist(), dtype=np.float32))
    # An empty text with a prompt is a text: the prompt.
    assert encoded[TEXTS.index("")].pieces[0].encoding.offsets[-2] == (6, 7)


def test_run_asks_for_a_prompt_and_resume_notices_another(
    exported: Path, tmp_path: Path, command: Command
) -> None:
    texts = [text for text in TEXTS if text.strip()]
    source = written(tmp_path / "in.txt", "\n".join(texts).encode() + b"\n\xff\n")
    out = tmp_path / "out.jsonl"
    # It ends at the row that is no text.
    assert command("run", exported, source, "-o", out, "--prompt", "query", "--on-error", "fail").code == 1
    other = command("run", exported, source, "-o", out, "--prompt", "title", "--resume")
    assert other.code == 2
    assert "begun with --prompt query, and now it is title" in other.error
    assert "and now it is not given" in command("run", exported, source, "-o", out, "--resume").error
    assert command("run", exported, source, "-o", out, "--prompt", "query", "--resume").code == 3
    with bertonnx.load(exported) as model:
        expected = model.embed(texts, prompt="query")
    lines = [line["embedding"] for line in read_lines(out)[: len(texts)]]
    assert np.array_equal(np.array(lines, dtype=np.float32), expected)


def test_a_prompt_that_is_not_there(exported: Path, command: Command) -> None:
    said = "this model has no such prompt; it has query, document, passage, title"
    with bertonnx.load(exported) as model:
        for ask in (model.embed, model.predict, model.tokenize):
            with pytest.raises(UsageError) as caught:
                ask(["a"], prompt="titel")
            assert str(caught.value) == f"prompt='titel': {said}"
    ran = command("run", exported, "-", "--prompt", "titel")
    assert (ran.code, ran.error) == (2, f"--prompt titel: {said}")


def test_info_shows_the_prompts(exported: Path, command: Command) -> None:
    shown = command("info", exported).out
    assert 'query "Query: "' in shown
    assert 'passage "What the page says: "' in shown
    assert "none by default" in shown


MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def test_prompts_that_are_not_pooled(tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "checkpoint", "bert", "feature-extraction")
    pooling = MODULES.Pooling(32, pooling_mode=MODES, include_prompt=False)
    made: Any = SentenceTransformer
    theirs = made(
        modules=[MODULES.Transformer(str(tiny), max_seq_length=48), pooling, MODULES.Normalize()],
        device="cpu",
        prompts=PROMPTS,
        default_prompt_name="passage",
    )
    theirs.save(str(tmp_path / "folder"))
    report = bertonnx.export(tmp_path / "folder", tmp_path / "model.onnx")
    assert report.card.inputs == ("input_ids", "attention_mask", "token_type_ids", "pooling_mask")
    # Texts that are equal with their prompts, in one job: the tokens are the same, and what is pooled is not.
    texts = [*TEXTS, "Query: Ada", "Ada"]
    with bertonnx.load(report.path) as model:
        assert not model.card.pooled_prompt
        assert close(model.embed(texts), theirs.encode(texts))
        for name in ("", *PROMPTS):
            ours = model.embed(texts, prompt=name)
            expected = theirs.encode(texts, prompt="") if not name else theirs.encode(texts, prompt_name=name)
            assert close(ours, expected)
            alone = [model.embed([text], prompt=name)[0] for text in texts]
            assert np.array_equal(ours, alone)
        rows = [Row("Query: Ada", prompt=""), Row("Ada", prompt="query")] * 20
        mixed = [item["embedding"] for item in model.stream(rows) if isinstance(item, dict)]
        for row, embedding in zip(rows, mixed, strict=True):
            assert np.array_equal(embedding, model.embed([row.text], prompt=row.prompt)[0])
        assert np.abs(mixed[0] - mixed[1]).max() > 100 * TOLERANCE
    assert bertonnx.check(report.path).examples > 0


def test_prompts_of_a_cross_encoder(tmp_path: Path) -> None:
    tiny = save_tiny(tmp_path / "checkpoint", "bert", "text-classification", labels=("relevant",))
    made: Any = CrossEncoder
    theirs = made(str(tiny), device="cpu", prompts=PROMPTS, default_prompt_name="query")
    theirs.save_pretrained(str(tmp_path / "folder"))
    pairs = [("red planet?", "Mars is red."), ("", "I like tea."), (SENTENCES[0], PARAGRAPHS[0])]
    queries, documents = map(list, zip(*pairs, strict=True))
    report = bertonnx.export(tmp_path / "folder", tmp_path / "model.onnx")
    with bertonnx.load(report.path) as model:

        def scores(prompt: str | None) -> Any:
            return np.array([item["score"] for item in model.predict(queries, documents, prompt=prompt)])

        # Before the query alone; "query" and "document" mean nothing special to a cross-encoder.
        assert close(scores(None), theirs.predict(pairs))
        assert close(scores("title"), theirs.predict(pairs, prompt_name="title"))
        assert close(scores(""), theirs.predict(pairs, prompt=""))
        assert np.abs(scores("title") - scores("")).max() > 100 * TOLERANCE
        with pytest.raises(UsageError, match=r"it has passage, query, title$"):
            model.predict(queries, documents, prompt="document")
