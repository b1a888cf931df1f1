"""The choice of a decoder: by the task's row, and importing no other task's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from bertonnx.models.card import Card
from bertonnx.models.retrieval import LateInteraction
from bertonnx.models.tasks import TASKS, Task
from bertonnx.runtime.decoders import DecoderContext, decoder_for
from bertonnx.runtime.decoders.entities import EntityDecoder
from bertonnx.runtime.options import AGGREGATIONS, Aggregation, DecodeOptions
from bertonnx.runtime.tokenization import SubwordRule, TextTokenizer
from tests.tokenizers_zoo import wordpiece

TOKENIZER = wordpiece().to_str()


def context_of(task: str, options: DecodeOptions | None = None) -> DecoderContext:
    card = Card(
        task,
        "bert",
        32,
        (),
        (),
        labels=("O", "B-PER"),
        mask_token="[MASK]",
        mask_token_id=4,
        normalize=True,
        late=LateInteraction(4) if task == "multi-vector" else None,
    )
    return DecoderContext(card, TextTokenizer(TOKENIZER, card), options or DecodeOptions())


@pytest.mark.parametrize("row", TASKS, ids=lambda row: row.name)
def test_each_task_has_the_decoder_that_its_row_names(row: Task) -> None:
    decoder = decoder_for(context_of(row.name))
    module, _, factory = row.decoder.partition(":")
    assert type(decoder).__module__ == module
    assert factory.endswith("_decoder")
    assert set(decoder.fetch) <= set(row.outputs)


def test_the_options_reach_the_decoders() -> None:
    asked = DecodeOptions(top_k=3)
    assert decoder_for(context_of("text-classification", asked)).top_k == 3  # type: ignore[attr-defined]
    assert decoder_for(context_of("question-answering", asked)).top_k == 3  # type: ignore[attr-defined]
    assert decoder_for(context_of("fill-mask", asked)).top_k == 3  # type: ignore[attr-defined]
    words = DecodeOptions(aggregation="first")
    assert decoder_for(context_of("token-classification", words)).aggregation == "first"  # type: ignore[attr-defined]


@pytest.mark.parametrize("row", TASKS, ids=lambda row: row.name)
def test_without_a_number_the_task_says_how_many_candidates(row: Task) -> None:
    assert context_of(row.name).top_k == row.candidates


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_rule_of_words_is_read_where_words_are_joined(aggregation: Aggregation) -> None:
    context = context_of("token-classification", DecodeOptions(aggregation=aggregation))
    decoder = decoder_for(context)
    assert isinstance(decoder, EntityDecoder)
    rule = SubwordRule(True, wordpiece().token_to_id("[UNK]"))
    assert decoder.subwords == (rule if aggregation in ("first", "average", "max") else SubwordRule(False))
    assert ("subwords" in vars(context.tokenizer)) == (aggregation in ("first", "average", "max"))


def test_an_unknown_task_is_none_of_the_others() -> None:
    context = context_of("fill-mask")
    with pytest.raises(KeyError, match="there is no task 'counting'; there are feature-extraction, "):
        decoder_for(replace(context, card=replace(context.card, task="counting")))


@pytest.mark.parametrize("row", TASKS, ids=lambda row: row.name)
def test_a_tasks_decoder_imports_no_others(row: Task) -> None:
    module = row.decoder.partition(":")[0]
    program = f"import sys, {module}\nprint(*(name for name in sys.modules if '.decoders.' in name))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    others = {other.decoder.partition(":")[0] for other in TASKS} - {module}
    assert not others & set(done.stdout.split()), done.stderr
    assert module in done.stdout.split()
