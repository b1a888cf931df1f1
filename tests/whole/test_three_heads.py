"""bge-m3: one file with three heads, against FlagEmbedding's published formulas in PyTorch.

The formulas are those of FlagEmbedding: `_dense_embedding`, `_sparse_embedding` and `_colbert_embedding` of
FlagEmbedding/finetune/embedder/encoder_only/m3/modeling.py; `_process_token_weights`, `_process_colbert_vecs`
and `colbert_score` of FlagEmbedding/inference/embedder/encoder_only/m3.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import bertonnx
from bertonnx.errors import BertonnxError, CheckpointError, TaskError, UsageError
from bertonnx.exporters.options import Trust
from bertonnx.runtime.io.text import json_line
from tests.checkpoints import message, read
from tests.commands import Command
from tests.tiny import save_tiny

TEXTS = ["Ada Lovelace wrote the first program, the first.", "", "No.", "long text " * 80, "日本 !!! ???"]
WIDTH = 32
TRUST = Trust(allow_pickle=True)
ALSO = ("sparse-embedding", "multi-vector")
State = dict[str, torch.Tensor]


def linear(outputs: int, inputs: int = WIDTH) -> State:
    drawn = torch.Generator().manual_seed(outputs)
    return {
        "weight": torch.randn(outputs, inputs, generator=drawn),
        "bias": torch.randn(outputs, generator=drawn),
    }


def folder_of(folder: Path, sparse: State | None = None, vectors: State | None = None) -> Path:
    save_tiny(folder, "xlm-roberta", "feature-extraction")
    torch.save(sparse or linear(1), folder / "sparse_linear.pt")
    torch.save(vectors or linear(WIDTH), folder / "colbert_linear.pt")
    return folder


class Reference:
    """bge-m3 in PyTorch and transformers."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = transformers.AutoModel.from_pretrained(folder).eval()
        self._own: Any = transformers.AutoTokenizer.from_pretrained(folder)
        self._sparse, self._vectors = (
            torch.load(folder / f"{name}_linear.pt") for name in ("sparse", "colbert")
        )

    def answers(self, text: str) -> tuple[np.ndarray[Any, Any], dict[int, float], np.ndarray[Any, Any]]:
        """Return the embedding, the weights of tokens by their ids, and the vectors of tokens."""
        linear, normalize = torch.nn.functional.linear, torch.nn.functional.normalize
        given = self._own(text, truncation=True, max_length=96, return_tensors="pt")
        with torch.no_grad():
            hidden = self._model(**given).last_hidden_state[0]
        dense = normalize(hidden[0], dim=-1)
        weights = torch.relu(linear(hidden, self._sparse["weight"], self._sparse["bias"])).squeeze(-1)
        vectors = normalize(linear(hidden[1:], self._vectors["weight"], self._vectors["bias"]), dim=-1)
        own = self._own
        unused = {own.cls_token_id, own.eos_token_id, own.pad_token_id, own.unk_token_id}
        found: dict[int, float] = {}
        for number, weight in zip(given["input_ids"][0].tolist(), weights.tolist(), strict=True):
            if number not in unused and weight > 0:
                found[number] = max(weight, found.get(number, 0.0))
        return dense.numpy(), found, vectors.numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("heads") / "folder")


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    report = bertonnx.export(
        folder, folder.parent / "model.onnx", pooling="cls", normalize=True, allow_pickle=True
    )
    assert (report.card.task, report.card.also) == ("feature-extraction", ALSO)
    assert report.golden is not None
    assert set(report.card.parity.outputs) >= {"token_weights", "token_embeddings"}  # type: ignore[union-attr]
    return report.path


@pytest.mark.filterwarnings("ignore::bertonnx.TruncationWarning")
def test_all_three_are_flagembeddings(folder: Path, file: Path) -> None:
    wanted = [*map(Reference(folder).answers, TEXTS)]
    with bertonnx.load(file) as model:
        dense, sparse, vectors = model.embed(TEXTS), model.embed_sparse(TEXTS), model.embed_tokens(TEXTS)
        ranked = model.rank(TEXTS[0], TEXTS)
    for number, (embedding, weights, own) in enumerate(wanted):
        assert np.abs(dense[number] - embedding).max() < 1e-5
        found = dict(zip(sparse[number]["ids"].tolist(), sparse[number]["weights"].tolist(), strict=True))
        assert found == pytest.approx(weights, abs=1e-5)
        assert np.abs(vectors[number]["vectors"] - own).max() < 1e-5
    scores = [(wanted[0][2] @ own.T).max(axis=1).mean() for _, _, own in wanted]
    assert [item["index"] for item in ranked] == np.argsort(scores)[::-1].tolist()
    assert [item["score"] for item in ranked] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)


def test_which_task_is_chosen(file: Path, tmp_path: Path, command: Command) -> None:
    with bertonnx.load(file) as model:
        assert [*model.predict(["Ada"])[0]] == ["embedding"]
        assert [*model.predict(["Ada"], task="splade")[0]] == ["sparse"]
        own = model.embed_tokens(["Ada"])[0]["vectors"].tolist()
        assert model.predict(["Ada"], task="multi-vector")[0]["vectors"] == own
        with pytest.raises(
            UsageError, match="exported for feature-extraction, sparse-embedding, multi-vector"
        ):
            model.predict(["Ada"], task="ner")
        with pytest.raises(TaskError):
            model.classify(["Ada"])
    (tmp_path / "in.txt").write_text("Ada\n", encoding="utf-8")
    for task, field in (("sparse-embedding", "sparse"), ("multi-vector", "vectors")):
        done = command("run", file, tmp_path / "in.txt", "--task", task)
        assert [*json.loads(done.out)] == ["row", field]
    done = command("run", file, tmp_path / "in.txt", "--task", "colbert", "--query", "who?")
    assert [*json.loads(done.out)] == ["row", "score"]
    refused = command("run", file, tmp_path / "in.txt", "--task", "colbert", "-o", tmp_path / "out.npy")
    assert "the results of multi-vector are more than that" in refused.err
    assert "also        sparse-embedding, multi-vector" in command("info", file).out


def test_each_kind_of_client_reaches_each_head(file: Path) -> None:
    httpx: Any = pytest.importorskip("httpx", reason="clients of the server are the extra `client`")
    pytest.importorskip("uvicorn", reason="the server's packages are those of the extra `serve`")
    from tests.serving import serving

    texts = ["Ada wrote", "No."]
    with (
        bertonnx.load(file, "cpu", 1) as model,
        serving({"m3": file}) as running,
        bertonnx.Client(running.url) as client,
        httpx.Client(base_url=running.url, timeout=60) as http,
    ):

        def posted(path: str, **body: Any) -> Any:
            answer = http.post(path, json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        def close(found: Any, wanted: Any) -> None:
            assert np.array_equal(np.array(found, dtype=np.float32), wanted)

        dense, ranked = model.embed(texts), model.rank("who?", texts)
        sparse = [dict(zip(*map(list, item.values()), strict=True)) for item in model.embed_sparse(texts)]
        vectors = [item["vectors"] for item in model.embed_tokens(texts)]
        # text-embeddings-inference, by its paths.
        close(posted("/embed", inputs=texts), dense)
        found = posted("/embed_sparse", inputs=texts)
        assert [{one["index"]: np.float32(one["value"]) for one in row} for row in found] == sparse
        for own, row in zip(vectors, posted("/embed_all", inputs=texts), strict=True):
            close(row, own)
        assert posted("/rerank", query="who?", texts=texts) == ranked
        # OpenAI has embeddings alone, Cohere rerankers.
        close([one["embedding"] for one in posted("/v1/embeddings", input=texts)["data"]], dense)
        cohere = posted("/v2/rerank", query="who?", documents=texts)["results"]
        assert [{"index": one["index"], "score": one["relevance_score"]} for one in cohere] == ranked
        # KServe by `parameters.task`, our own wire by `method`, or `options.task`.
        given = [{"name": "text", "shape": [2], "datatype": "BYTES", "data": texts}]
        for task, method, field in (
            ("sparse-embedding", "embed_sparse", "sparse"),
            ("colbert", "predict", "vectors"),
        ):
            items = enumerate(model.predict(texts, task=task))
            lines = [json.loads(json_line(place, item)) for place, item in items]
            (output,) = posted("/v2/models/m3/infer", inputs=given, parameters={"task": task})["outputs"]
            assert [json.loads(line)[field] for line in output["data"]] == [line[field] for line in lines]
            options = {} if method == "embed_sparse" else {"task": task}
            rows = posted("/v1/predict", texts=texts, method=method, options=options)["results"]
            assert [row[field] for row in rows] == [line[field] for line in lines]
        close(posted("/v2/models/m3/infer", inputs=given)["outputs"][0]["data"], dense.ravel())
        refused = http.post("/v2/models/m3/infer", json={"inputs": given, "parameters": {"task": "ner"}})
        assert (refused.status_code, "multi-vector" in refused.text) == (400, True)
        # And `Client` by its methods.
        close(client.embed(texts), dense)
        assert [
            dict(zip(*map(list, one.values()), strict=True)) for one in client.embed_sparse(texts)
        ] == sparse
        for own, item in zip(vectors, client.embed_tokens(texts), strict=True):
            close(item["vectors"], own)
        assert client.rank("who?", texts) == ranked


def test_columns_of_each_task(file: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    batch = pa.RecordBatch.from_pydict({"text": ["Ada"]})
    with bertonnx.load(file) as model:
        for task, name in ((None, "embedding"), ("sparse-embedding", "sparse"), ("multi-vector", "vectors")):
            assert model.predict_batch(batch, task=task).schema.names[1] == name


def test_int8_is_judged_by_the_worst_of_the_three(folder: Path, tmp_path: Path) -> None:
    report = bertonnx.export(
        folder, tmp_path / "model.onnx", allow_pickle=True, quantize=True, min_agreement=0.9
    )
    assert report.card.quantization is not None
    assert report.card.quantization.metric == "rank correlation"
    assert 0.9 <= report.card.quantization.agreement < 1


def test_without_trust_the_embedding_alone(folder: Path) -> None:
    found = read(folder)
    assert (found.also, found.late, found.sparse) == ((), None, None)
    said = "\n".join(map(str, found.notes))
    assert "its heads for sparse-embedding and multi-vector lie in pickle files" in said


def _not_finite() -> State:
    return {"weight": torch.full((1, WIDTH), float("nan")), "bias": torch.zeros(1)}


BROKEN: Mapping[str, tuple[str, Callable[[], State], str]] = {
    "width": ("sparse", lambda: linear(1, 48), "the encoder's vectors have 32 numbers"),
    "several weights": ("sparse", lambda: linear(2), "makes 2 weights for a token, and one is wanted"),
    "no bias": ("colbert", lambda: {"weight": linear(8)["weight"]}, "cannot be read as a linear layer"),
    "not finite": ("sparse", _not_finite, "holds NaN or infinity"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_heads_that_are_refused(name: str, tmp_path: Path) -> None:
    head, state, why = BROKEN[name]
    kind: type[BertonnxError] = CheckpointError
    given = {"sparse": None, "colbert": None, head: state()}
    assert why in message(kind, folder_of(tmp_path, given["sparse"], given["colbert"]), trust=TRUST)


def test_one_head_is_missing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "colbert_linear.pt").unlink()
    assert "has sparse_linear.pt without colbert_linear.pt" in message(CheckpointError, folder, trust=TRUST)
