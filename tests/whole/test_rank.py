"""Documents put in order for a query: as `CrossEncoder.rank` of Sentence-Transformers does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sentence_transformers import CrossEncoder

import bertonnx
from bertonnx.errors import InputError, RowError, TaskError, TruncationWarning, UsageError
from bertonnx.exporters.quiet import quiet
from bertonnx.models.card import CARD_KEY
from bertonnx.runtime.engine.batches import Batch
from bertonnx.runtime.engine.running import Runner
from bertonnx.runtime.options import DecodeOptions
from tests.commands import Command, with_metadata, written
from tests.tiny import save_tiny

QUERY = "which planet is red?"
DOCUMENTS = [
    "Mars is red.",
    "I like tea.",
    "",
    "Ada Lovelace wrote the first program. " * 3,
    "Le café est à côté — 火星は赤い 🔴",
    "I like tea.",
    "word " * 300,
    "which planet is red?",
]
KINDS: dict[tuple[str, str], Any] = {
    ("xlm-roberta", "sigmoid"): torch.nn.Sigmoid(),  # bge-reranker
    ("deberta-v2", "none"): torch.nn.Identity(),  # mxbai-rerank
    ("modernbert", "sigmoid"): torch.nn.Sigmoid(),  # gte-reranker
    ("bert", "none"): torch.nn.Identity(),  # ms-marco
    ("electra", "tanh"): torch.nn.Tanh(),
}


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return a cross-encoder in their hands, and its file."""
    (family, _), activation = request.param, KINDS[request.param]
    folder = tmp_path_factory.mktemp("ranker")
    plain = save_tiny(folder / "plain", family, "text-classification", labels=("score",))
    made: Any = CrossEncoder
    with quiet():
        theirs = made(str(plain), activation_fn=activation, device="cpu", max_length=64)
        theirs.save_pretrained(str(folder / "it"))
    report = bertonnx.export(folder / "it", folder / "model.onnx")
    assert (report.card.task, report.card.activation) == ("text-ranking", request.param[1])
    return theirs, report.path


@pytest.mark.filterwarnings("ignore::bertonnx.errors.TruncationWarning")
def test_as_cross_encoder(pair: tuple[Any, Path]) -> None:
    theirs, path = pair
    with bertonnx.load(path, "cpu") as model, quiet():
        for raw, activation in ((False, None), (True, torch.nn.Identity())):
            wanted = theirs.predict([(QUERY, one) for one in DOCUMENTS], activation_fn=activation)
            found = model.rank(QUERY, DOCUMENTS, raw_scores=raw)
            scores = {item["index"]: item["score"] for item in found}
            assert np.abs([scores[i] - score for i, score in enumerate(wanted)]).max() <= 1e-5
        ranked = theirs.rank(QUERY, DOCUMENTS)
        found = model.rank(QUERY, DOCUMENTS)
        assert [item["index"] for item in found] == [item["corpus_id"] for item in ranked]
        # The texts of documents 1 and 5 are the same.
        order = [item["index"] for item in found]
        assert order.index(5) == order.index(1) + 1
        assert model.rank(QUERY, DOCUMENTS, top_k=3) == found[:3]
        assert model.rank(QUERY, DOCUMENTS, top_k=99) == found
        # The same bits as pairs, and whatever stands beside a document.
        items = model.predict([QUERY] * len(DOCUMENTS), DOCUMENTS)
        assert {item["index"]: item["score"] for item in found} == dict(
            enumerate(item["score"] for item in items)
        )
        alone = [model.rank(QUERY, [one])[0]["score"] for one in DOCUMENTS]
        assert alone == [item["score"] for item in items]


@pytest.fixture
def ranker(exported: dict[str, Path]) -> Any:
    with bertonnx.load(exported["text-ranking"], "cpu") as model:
        yield model


def test_documents_of_one_length_run_together(ranker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted by their length over all of the call, not only beside each other: nothing is padded."""
    sizes = []
    run = Runner.run

    def noted(self: Runner, batch: Batch, *, interruptible: bool) -> Any:
        sizes.append((batch.kind[0], len(batch.slots)))
        return run(self, batch, interruptible=interruptible)

    monkeypatch.setattr(Runner, "run", noted)
    random = np.random.default_rng(0)
    documents = [" ".join(random.choice(list("abcdefgh"), size)) for size in [5, 20, 9] * 100]
    pieces = [one.pieces[0].ids for one in ranker.tokenize([QUERY] * len(documents), documents)]
    ranker.rank(QUERY, documents)
    assert sum(rows for _, rows in sizes) == len({ids.tobytes() for ids in pieces}) > 200
    lengths = [length for length, _ in sizes]
    # Each length is whole batches of its own, wherever its documents stood.
    assert set(lengths) == {len(ids) for ids in pieces}
    assert len(lengths) < len(documents) / 10


def test_nothing_to_rank(ranker: Any) -> None:
    assert ranker.rank(QUERY, []) == []
    assert ranker.rank(QUERY, iter(["tea"]), top_k=1)[0]["index"] == 0


@pytest.mark.parametrize("query", ["", " \n"])
def test_an_empty_query(query: str, ranker: Any) -> None:
    with pytest.raises(UsageError, match=r"query is empty; say what the documents are ranked for"):
        ranker.rank(query, ["tea"])


@pytest.mark.parametrize(
    ("query", "documents", "options", "message"),
    [
        (["tea"], ["tea"], {}, "query is one text, and this is list"),
        (None, ["tea"], {}, "query is one text, and this is NoneType"),
        ("\ud800", ["tea"], {}, "query: the text holds a lone surrogate"),
        (QUERY, "tea", {}, "a list of texts is expected"),
        (QUERY, 5, {}, "a list of texts is expected, and this is int"),
        (QUERY, ["tea"], {"top_k": True}, "top_k=True is not a whole number"),
        (QUERY, ["tea"], {"top_k": 0}, "top_k=0 is too small"),
        (QUERY, ["tea"], {"top_k": 1.5}, "top_k=1.5 is not a whole number"),
    ],
)
def test_what_cannot_be_ranked(
    query: Any, documents: Any, options: dict[str, Any], message: str, ranker: Any
) -> None:
    with pytest.raises(UsageError, match=message):
        ranker.rank(query, documents, **options)


def test_a_document_that_is_no_text(ranker: Any) -> None:
    with pytest.raises(RowError, match="row 1: there is no text in this row"):
        ranker.rank(QUERY, ["tea", None])


def test_long_documents_are_cut_and_say_so(ranker: Any) -> None:
    with pytest.warns(TruncationWarning, match="1 of 2 texts were cut"):
        ranker.rank(QUERY, ["tea", "word " * 300])


def test_other_tasks_do_not_rank(exported: dict[str, Path]) -> None:
    with bertonnx.load(exported["text-classification"], "cpu") as model:
        with pytest.raises(TaskError, match=r"rank\(\) needs a model exported for text-ranking"):
            model.rank(QUERY, ["tea"])
        with pytest.raises(UsageError, match="query='a' is for text-ranking, multi-vector, and this model"):
            next(bertonnx.Model.stream(model, [], DecodeOptions(query="a")), None)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def scores_of(model: Path, query: str, documents: list[str]) -> list[float]:
    with bertonnx.load(model, "cpu") as ranker:
        found = ranker.rank(query, documents)
    return [item["score"] for item in sorted(found, key=lambda item: item["index"])]


TEXTS = ["Mars is red.", "I like tea.", "Venus, too"]
INPUTS = {
    "one.txt": "".join(f"{text}\n" for text in TEXTS),
    "one.csv": "anything\n" + "".join(f'"{text}"\n' for text in TEXTS),
    "two.csv": "id,document\n" + "".join(f'7,"{text}"\n' for text in TEXTS),
    "strings.jsonl": "".join(f"{json.dumps(text)}\n" for text in TEXTS),
    "objects.jsonl": "".join(json.dumps({"id": "7", "passage": text}) + "\n" for text in TEXTS),
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_query_given_once(name: str, command: Command, exported: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / name).write_text(INPUTS[name])
    done = command("run", exported["text-ranking"], tmp_path / name, "--query", QUERY)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [[*line] for line in lines] == [["row", "score"]] * 3
    wanted = scores_of(exported["text-ranking"], QUERY, TEXTS)
    assert np.array([line["score"] for line in lines], dtype=np.float32).tolist() == wanted


def test_columns_of_pairs_are_found(exported: dict[str, Path], tmp_path: Path) -> None:
    table = "id,document,query\n" + "".join(f'7,"{text}",{QUERY}\n' for text in TEXTS)
    (tmp_path / "in.csv").write_text(table)
    report = bertonnx.run(exported["text-ranking"], tmp_path / "in.csv", tmp_path / "out.jsonl")
    assert report.rows == 3
    wanted = scores_of(exported["text-ranking"], QUERY, TEXTS)
    assert [np.float32(row["score"]) for row in rows_of(tmp_path / "out.jsonl")] == wanted


def test_a_named_column_with_a_query(exported: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n" + "".join(f'x,"{text}"\n' for text in TEXTS))
    options: dict[str, Any] = {"query": QUERY, "column": "b"}
    bertonnx.run(exported["text-ranking"], tmp_path / "in.csv", tmp_path / "out.npy", **options)
    wanted = scores_of(exported["text-ranking"], QUERY, TEXTS)
    assert np.load(tmp_path / "out.npy").ravel().tolist() == wanted
    with pytest.raises(InputError, match=r"which column of .* holds the text"):
        bertonnx.run(exported["text-ranking"], tmp_path / "in.csv", tmp_path / "out.jsonl", query=QUERY)


def test_a_query_and_a_column_of_pairs(command: Command, exported: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\nx,y\n")
    asked = ("--query", "tea", "--pair-column", "b")
    done = command("run", exported["text-ranking"], tmp_path / "in.csv", *asked)
    assert done.code == 2
    assert "--pair-column b and --query tea exclude each other" in done.err
    done = command("run", exported["text-ranking"], tmp_path / "in.csv", "--query", "")
    assert (done.code, "--query is empty" in done.err) == (2, True)
    done = command("run", exported["text-classification"], tmp_path / "in.csv", "--query", "tea")
    assert (done.code, "--query tea is for text-ranking" in done.err) == (2, True)


def test_a_run_goes_on_with_the_same_query_only(
    command: Command, exported: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text(INPUTS["one.txt"])
    output = tmp_path / "out.jsonl"
    made = ("run", exported["text-ranking"], tmp_path / "in.txt", "-o", output)
    assert command(*made, "--query", QUERY).code == 0
    whole = output.read_text()
    # As a kill after the first row leaves it.
    stopped: Any = bertonnx.run

    def stop(progress: Any) -> None:
        if progress.rows == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped(exported["text-ranking"], tmp_path / "in.txt", output, query=QUERY, progress=stop)
    done = command(*made, "--query", "another", "--resume")
    assert (done.code, f"was begun with --query {QUERY}" in done.err) == (2, True)
    assert command(*made, "--query", QUERY, "--resume").code == 0
    assert output.read_text() == whole


def test_record_batches(ranker: Any, exported: dict[str, Path]) -> None:
    wanted = scores_of(exported["text-ranking"], QUERY, TEXTS)
    batch = pa.RecordBatch.from_pydict({"document": TEXTS})
    assert ranker.predict_batch(batch, query=QUERY)["score"].to_pylist() == wanted
    both = pa.RecordBatch.from_pydict({"document": TEXTS, "query": [QUERY] * 3})
    assert ranker.predict_batch(both)["score"].to_pylist() == wanted


def pairs(metadata: dict[str, str]) -> None:
    """Let a classifier be one of pairs."""
    metadata[CARD_KEY] = json.dumps({**json.loads(metadata[CARD_KEY]), "pairs": True})


@pytest.mark.parametrize(
    ("task", "instead"),
    [("text-ranking", "--query TEXT"), ("nli", "--label LABEL --label LABEL")],
)
def test_what_can_be_given_once_is_named_where_second_texts_are_missing(
    task: str, instead: str, command: Command, exported: dict[str, Path], tmp_path: Path
) -> None:
    path = exported.get(task) or with_metadata(exported["text-classification"], tmp_path / "nli.onnx", pairs)
    written(tmp_path / "in.csv", "a,b,c\n1,2,3\n")
    written(tmp_path / "in.txt", "Mars is red.\n")
    written(tmp_path / "in.jsonl", '"Mars is red."\n')
    for name in ("in.csv", "in.txt", "in.jsonl"):
        done = command("run", path, tmp_path / name)
        assert done.code == 1
        assert done.err.rstrip().endswith(f", or {instead} once for all rows")
    with bertonnx.load(path) as model:
        with pytest.raises(InputError, match=r"or (query|labels)=.* once for all rows") as caught:
            model.predict_batch(pa.RecordBatch.from_pydict({"a": ["x"], "b": ["y"], "c": ["z"]}))
        assert "--" not in str(caught.value)
        with pytest.raises(UsageError, match=r"as pairs, or call (rank|zero_shot)\(\)"):
            model.predict(["Mars is red."])
