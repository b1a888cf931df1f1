"""What a card says of its model beyond its fields."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bertonnx.errors import UsageError
from bertonnx.models.activations import ACTIVATIONS
from bertonnx.models.card import Card
from tests.fake_predictor import card


@pytest.mark.parametrize(
    ("task", "pairs", "needs", "takes"),
    [
        ("text-classification", True, True, True),
        ("text-classification", None, False, True),
        ("text-classification", False, False, False),
        ("question-answering", None, True, True),
        ("fill-mask", False, False, False),
    ],
)
def test_who_reads_pairs(task: str, pairs: bool | None, needs: bool, takes: bool) -> None:
    model = card(task, pairs=pairs)
    assert (model.needs_pair, model.takes_pair) == (needs, takes)


PROMPTS = {"query": "q: ", "passage": "p: ", "title": "", "": "x: "}


@pytest.mark.parametrize(
    ("default", "asked", "text"),
    [
        (None, None, ""),
        ("passage", None, "p: "),
        ("passage", "", ""),
        ("passage", "query", "q: "),
        # The one name that sentence-transformers knows without a text, whatever the default prompt is.
        ("passage", "document", ""),
        ("document", None, ""),
        (None, "title", ""),
        # A prompt of this name can be the default one; asked for, the empty name is no prompt.
        ("", None, "x: "),
        ("", "", ""),
    ],
)
def test_prompts(default: str | None, asked: str | None, text: str) -> None:
    assert card("feature-extraction", prompts=PROMPTS, default_prompt=default).prompt_text(asked) == text


@pytest.mark.parametrize(
    ("task", "prompts", "said"),
    [
        (
            "feature-extraction",
            PROMPTS,
            "prompt='quest': this model has no such prompt; it has query, document, passage, title",
        ),
        (
            "text-classification",
            {},
            "prompt='quest': this model has no prompts (it was exported for text-classification); leave it "
            "out",
        ),
    ],
)
def test_prompts_that_are_not_there(task: str, prompts: dict[str, str], said: str) -> None:
    model = card(task, prompts=prompts)
    assert model.prompt_text("") == model.prompt_text() == ""
    with pytest.raises(UsageError) as caught:
        model.prompt_text("quest")
    assert str(caught.value) == said


def test_the_prefix_of_an_old_card_is_its_default_prompt() -> None:
    def reread(**keys: Any) -> Card:
        old = card("feature-extraction").as_dict()
        return Card.from_json(json.dumps({name: old[name] for name in old if "prompt" not in name} | keys))

    assert (reread(prefix="").prompts, reread().prompt_text()) == ({}, "")
    old = reread(prefix="passage: ")
    assert (old.prompt_text(), old.prompt_text("query"), old.prompt_text("")) == ("passage: ", "", "")
    assert "prefix" not in old.as_dict()
    assert Card.from_json(old.to_json()) == old


@pytest.mark.parametrize("name", ACTIVATIONS.names)
def test_what_makes_scores_can_be_any_activation(name: str) -> None:
    """A cross-encoder's own, or the one of `--activation`, reads back from its file."""
    made = card("text-classification", activation=name)
    assert Card.from_json(made.to_json()).activation == name
