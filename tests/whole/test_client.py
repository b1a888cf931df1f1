"""`bertonnx.Client`: every method of a local model, with its bits, its errors and its warnings."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Encoding

import bertonnx
from bertonnx import Client, Model, TruncationWarning
from bertonnx.errors import RowError, ServerError, TaskError, UsageError
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Encoded, Piece, Row, as_rows

for _package in ("httpx", "uvicorn", "httptools", "orjson", "prometheus_client", "starlette"):
    pytest.importorskip(_package, reason="the server's packages are those of the extra `serve`")

TEXTS = ["Ada lived in London", "a", "", "naïve café 😀", "Ada lived in London"]
MASKED = ["Ada [MASK]", "[MASK] and [MASK]"]
SECRET = "a-key"

Both = tuple[Model, Client]


@pytest.fixture(scope="module")
def address(exported: dict[str, Path]) -> Iterator[str]:
    from tests.serving import serving

    with serving(exported, api_keys=("other", SECRET)) as running:
        yield running.url


@pytest.fixture(scope="module")
def both(exported: dict[str, Path], address: str) -> Iterator[Mapping[str, Both]]:
    pairs = {
        task: (bertonnx.load(path, "cpu", 1), Client(address, task, SECRET))
        for task, path in exported.items()
    }
    yield pairs
    for model, client in pairs.values():
        model.close()
        client.close()


def equal(found: Any, wanted: Any) -> None:
    """Compare to the last bit, and the kinds of values with them."""
    assert type(found) is type(wanted)
    if isinstance(wanted, np.ndarray):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert found.tobytes() == wanted.tobytes()
    elif isinstance(wanted, Encoded | Piece):
        for name in wanted.__dataclass_fields__:
            equal(getattr(found, name), getattr(wanted, name))
    elif isinstance(wanted, Encoding):
        for name in ("ids", "type_ids", "tokens", "offsets", "word_ids", "sequence_ids"):
            assert getattr(found, name) == getattr(wanted, name)
        assert found.special_tokens_mask == wanted.special_tokens_mask
    elif isinstance(wanted, RowError):
        assert (found.kind, str(found)) == (wanted.kind, str(wanted))
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for name in wanted:
            equal(found[name], wanted[name])
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            equal(one, other)
    else:
        assert found == wanted


MIXED = [Row("a"), Row("b", "c"), RowError("missing-text", "there is none"), Row("d")]
"""Rows of one stream, of which some are pairs."""

PROMPTED = [Row("a"), Row("a", prompt="query"), Row("a", prompt=""), Row("b", prompt="")]

CALLS: list[tuple[str, Callable[[Any], Any]]] = [
    ("feature-extraction", lambda m: m.embed(TEXTS)),
    ("feature-extraction", lambda m: m.embed([])),
    ("feature-extraction", lambda m: m.embed(TEXTS, dimensions=8, normalize=True, prompt="")),
    ("feature-extraction", lambda m: m.embed(TEXTS, encoding="binary")),
    ("feature-extraction", lambda m: m.embed(TEXTS, encoding="ubinary", dimensions=16)),
    ("feature-extraction", lambda m: m.embed([f"text {number}" for number in range(600)])),
    ("feature-extraction", lambda m: m.embed_chunks(TEXTS, dimensions=8)),
    ("feature-extraction", lambda m: m.predict(TEXTS)),
    ("text-classification", lambda m: m.classify(TEXTS)),
    ("text-classification", lambda m: m.classify(TEXTS, TEXTS[::-1], top_k=2, raw_scores=True)),
    ("text-classification", lambda m: m.predict(tuple(TEXTS))),
    ("text-ranking", lambda m: m.rank("Where?", TEXTS)),
    ("text-ranking", lambda m: m.rank("Where?", TEXTS, top_k=2, raw_scores=True)),
    ("text-ranking", lambda m: m.predict(TEXTS, TEXTS)),
    ("token-classification", lambda m: m.entities(TEXTS)),
    ("token-classification", lambda m: m.entities(TEXTS, aggregation="none")),
    ("question-answering", lambda m: m.answer(["Who?"], ["Ada lived in London"])),
    ("question-answering", lambda m: m.answer(["Who?"], ["Ada " * 900], top_k=3, no_answer=True)),
    ("fill-mask", lambda m: m.fill_mask(MASKED)),
    ("fill-mask", lambda m: m.fill_mask(MASKED, top_k=1)),
    ("sparse-embedding", lambda m: m.embed_sparse(TEXTS)),
    ("sparse-embedding", lambda m: m.embed_sparse(TEXTS, top_k=3)),
    ("feature-extraction", lambda m: m.embed_tokens(TEXTS)),
    ("feature-extraction", lambda m: m.embed_tokens(TEXTS, words="mean", prompt="")),
    ("feature-extraction", lambda m: m.embed_tokens([])),
    ("multi-vector", lambda m: m.embed_tokens(TEXTS, prompt="query")),
    ("multi-vector", lambda m: m.embed_tokens([f"text {number}" for number in range(300)])),
    ("multi-vector", lambda m: m.rank("Where?", TEXTS)),
    ("feature-extraction", lambda m: m.tokenize([*TEXTS, "word " * 3000])),
    ("feature-extraction", lambda m: m.tokenize(TEXTS, prompt="query")),
    ("question-answering", lambda m: m.tokenize(["Who?", "Where?"], ["Ada " * 900, "here"])),
    ("multi-vector", lambda m: m.tokenize(TEXTS, prompt="query")),
    ("text-classification", lambda m: list(m.stream(MIXED))),
    ("text-classification", lambda m: list(m.stream([]))),
    ("text-ranking", lambda m: list(m.stream([]))),
    ("text-ranking", lambda m: m.predict([], [])),
    ("text-ranking", lambda m: list(m.stream(as_rows([None], ["a"])))),
    ("feature-extraction", lambda m: list(m.stream(PROMPTED, DecodeOptions(dimensions=8)))),
    ("feature-extraction", lambda m: m.max_length),
    ("feature-extraction", lambda m: m.identity),
    ("feature-extraction", lambda m: m.provider),
]

OF_THE_MACHINE = {
    "answers": "takes what computes rows",
    "decoder": "makes results of what the graph puts out",
    "engine": "is what computes rows",
    "placement": "is where the graph's nodes are",
    "prompted": "is for who computes rows",
    "token_answers": "takes what computes rows",
    "threads": "are those of the machine",
    "options": "say how a file was opened",
    "path": "is of a file here",
    "tokenizer": "is of a file here",
}
"""What a local model has besides, and why a client does not."""


@pytest.mark.parametrize(("task", "call"), CALLS)
def test_every_method_has_the_results_of_a_local_model(
    both: Mapping[str, Both], task: str, call: Callable[[Any], Any]
) -> None:
    model, client = both[task]
    equal(call(client), call(model))


def test_a_client_has_all_that_a_model_has(both: Mapping[str, Both]) -> None:
    model, client = both["feature-extraction"]
    public = {name for name in dir(model) if not name.startswith("_")}
    missing = {name for name in public if not hasattr(client, name)}
    assert missing == set(OF_THE_MACHINE)
    for name in public - missing:
        own, theirs = getattr(type(model), name, None), getattr(type(client), name, None)
        if callable(own) and name != "close":
            assert inspect.signature(theirs) == inspect.signature(own), name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("feature-extraction", {"encoding": "ubinary"}),
        ("feature-extraction", {"keep": True, "prefix": "bert_", "plain": True}),
        ("text-classification", {"pair_column": "pair", "first_row": None}),
        ("token-classification", {"column": "text"}),
        ("sparse-embedding", {"top_k": 2}),
    ],
)
def test_arrow_batches_are_those_of_a_local_model(
    both: Mapping[str, Both], task: str, options: dict[str, Any]
) -> None:
    pa = pytest.importorskip("pyarrow", reason="Arrow is the extra `arrow`")
    model, client = both[task]
    batch = pa.record_batch({"text": [*TEXTS, None], "pair": [*TEXTS[::-1], "a"]})
    options = {"column": "text", **options}
    wanted = model.predict_batch(batch, **options)
    found = client.predict_batch(batch, **options)
    assert found.schema == wanted.schema
    assert found.equals(wanted)
    table = pa.Table.from_batches([batch])
    assert client.predict_batch(table, **options).equals(model.predict_batch(table, **options))
    shape = {name: value for name, value in options.items() if "column" not in name}
    assert client.batch_schema(batch.schema, **shape) == model.batch_schema(batch.schema, **shape)


FAULTS: list[tuple[str, Callable[[Any], Any], type[Exception]]] = [
    ("feature-extraction", lambda m: m.classify(TEXTS), TaskError),
    ("feature-extraction", lambda m: m.embed("one text"), UsageError),
    ("feature-extraction", lambda m: m.embed(TEXTS, prompt="absent"), UsageError),
    ("feature-extraction", lambda m: m.embed(TEXTS, dimensions=10_000), UsageError),
    ("feature-extraction", lambda m: m.embed(["a", None]), RowError),
    ("feature-extraction", lambda m: m.embed(["a", "\ud800"]), RowError),
    ("text-classification", lambda m: m.classify(TEXTS, top_k=0), UsageError),
    ("text-classification", lambda m: m.classify(TEXTS, ["too few"]), UsageError),
    ("text-ranking", lambda m: m.predict(TEXTS), UsageError),
    ("text-ranking", lambda m: m.rank(" ", TEXTS), UsageError),
    ("fill-mask", lambda m: m.fill_mask(["no mask"]), RowError),
    ("token-classification", lambda m: m.entities(TEXTS, aggregation="best"), UsageError),
    ("feature-extraction", lambda m: m.embed_tokens(TEXTS, layer=0), UsageError),
    ("feature-extraction", lambda m: m.embed_tokens(TEXTS, layer=True), UsageError),
    ("feature-extraction", lambda m: m.embed_tokens(["a", None]), RowError),
    ("text-classification", lambda m: m.embed_tokens(TEXTS), TaskError),
    ("feature-extraction", lambda m: m.tokenize(["a"] * 300 + [None]), RowError),
    ("feature-extraction", lambda m: m.tokenize(TEXTS, prompt="absent"), UsageError),
    ("feature-extraction", lambda m: m.tokenize("one text"), UsageError),
    ("feature-extraction", lambda m: list(m.stream([Row("a")], DecodeOptions(top_k=1))), UsageError),
    ("feature-extraction", lambda m: list(m.stream([Row("a", prompt="absent")])), UsageError),
]


@pytest.mark.parametrize(("task", "call", "kind"), FAULTS)
def test_errors_are_those_of_a_local_model(
    both: Mapping[str, Both], task: str, call: Callable[[Any], Any], kind: type[Exception]
) -> None:
    model, client = both[task]
    with pytest.raises(kind) as wanted:
        call(model)
    with pytest.raises(kind) as found:
        call(client)
    assert getattr(found.value, "kind", None) == getattr(wanted.value, "kind", None)
    assert str(found.value) == str(wanted.value)


def test_long_texts_are_cut_with_the_same_warning(both: Mapping[str, Both]) -> None:
    model, client = both["feature-extraction"]
    texts = ["a", "word " * 3000]
    with pytest.warns(TruncationWarning) as wanted:
        vectors = model.embed(texts)
    with pytest.warns(TruncationWarning) as found:
        equal(client.embed(texts), vectors)
    assert [str(one.message) for one in found] == [str(one.message) for one in wanted]
    assert found[0].filename == __file__


def test_threads_may_share_a_client(both: Mapping[str, Both]) -> None:
    model, client = both["text-classification"]
    wanted = model.classify(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: client.classify(TEXTS), range(40)):
            equal(found, wanted)


def test_a_client_is_pickled_by_its_address_and_shows_no_key(both: Mapping[str, Both]) -> None:
    client = both["feature-extraction"][1]
    assert SECRET not in repr(client)
    assert (client.card.task, client.model) == ("feature-extraction",) * 2
    with pickle.loads(pickle.dumps(client)) as other:
        equal(other.embed(TEXTS), client.embed(TEXTS))


def test_without_a_name_it_is_the_first_model(address: str, exported: dict[str, Path]) -> None:
    with Client(address + "/", api_key=SECRET) as client:
        assert client.model == next(iter(exported))


@pytest.mark.parametrize("key", [None, "wrong", "a-ke", ""])
def test_a_server_asks_for_its_key(address: str, key: str | None) -> None:
    with pytest.raises(ServerError, match="api_key"):
        Client(address, api_key=key)


def test_what_cannot_be_reached_says_so(address: str) -> None:
    with pytest.raises(ServerError, match=r"refused .*404.*no model of that name"):
        Client(address, "absent", SECRET)
    for url in ("http://127.0.0.1:1", "nonsense", "http://[", ""):
        with pytest.raises(ServerError):
            Client(url, timeout=5)
