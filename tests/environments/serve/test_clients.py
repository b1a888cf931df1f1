"""Clients that people have, against the server: each result is `Model`'s, bit for bit."""

from __future__ import annotations

import base64
import gc
import gzip
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_WHY = "runs in the environment that tools/environments.sh makes"
openai: Any = pytest.importorskip("openai", reason=_WHY)
cohere: Any = pytest.importorskip("cohere", reason=_WHY)
hub: Any = pytest.importorskip("huggingface_hub", reason=_WHY)

import bertonnx  # noqa: E402
from bertonnx import Model  # noqa: E402
from tests.environments.conftest import ROOT  # noqa: E402
from tests.serving import Running, serving  # noqa: E402

Models = Mapping[str, Model]

# What clients do with their own connections and models is theirs.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TEXTS = ["Ada lived in London", "a", "naïve café 😀"]
KEY = "a-key"

_INFERENCE = """
import sys
from pathlib import Path
import bertonnx
from tests.tiny import save_tiny
folder = Path(sys.argv[1])
source = save_tiny(
    folder / "nli", task="text-classification", labels=("contradiction", "neutral", "entailment")
)
bertonnx.export(source, folder / "nli.onnx")
"""


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Let go what clients leave open while that is theirs: after the last test it would be an error."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def paths(exported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inference")
    python = os.environ.get("BERTONNX_EXPORTER", sys.executable)
    subprocess.run([python, "-c", _INFERENCE, folder], cwd=ROOT, check=True, capture_output=True, timeout=300)
    return {**exported, "inference": folder / "nli.onnx"}


@pytest.fixture(scope="module")
def local(paths: dict[str, Path]) -> Iterator[Models]:
    models = {name: bertonnx.load(path, "cpu", 1) for name, path in paths.items()}
    yield models
    for model in models.values():
        model.close()


@pytest.fixture(scope="module")
def server(paths: dict[str, Path]) -> Iterator[Running]:
    with serving(paths, api_keys=(KEY,)) as running:
        yield running


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_array_equal(np.array(found, dtype=np.float32), wanted)


# OpenAI.


def test_openai(server: Running, local: Models) -> None:
    model = local["feature-extraction"]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        for form in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            answer = client.embeddings.create(model="feature-extraction", input=TEXTS, **form)
            vectors = [one.embedding for one in answer.data]
            if form.get("encoding_format") == "base64":
                vectors = [
                    np.frombuffer(base64.b64decode(one), "<f4") if isinstance(one, str) else one
                    for one in vectors
                ]
            same(vectors, model.embed(TEXTS))
        assert answer.usage.total_tokens > len(TEXTS)
        short = client.embeddings.create(model="feature-extraction", input="a", dimensions=8)
        same(
            [short.data[0].embedding],
            model.embed(["a"], dimensions=8, normalize=model.card.normalize or None),
        )
        assert [one.id for one in client.models.list()] == list(local)
        with pytest.raises(openai.NotFoundError) as absent:
            client.embeddings.create(model="absent", input="a")
        assert absent.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as long:
            client.embeddings.create(model="feature-extraction", input="word " * 3000)
        assert long.value.code == "context_length_exceeded"
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as wrong:
            client.embeddings.create(model="feature-extraction", input="a")
        assert wrong.value.code == "invalid_api_key"


def test_llama_index(server: Running, local: Models) -> None:
    module: Any = pytest.importorskip("llama_index.embeddings.openai", reason=_WHY)
    client = module.OpenAIEmbedding(
        model_name="feature-extraction", api_base=f"{server.url}/v1", api_key=KEY, max_retries=0
    )
    same(client.get_text_embedding_batch(TEXTS), local["feature-extraction"].embed(TEXTS))
    same([client.get_query_embedding("a")], local["feature-extraction"].embed(["a"]))


def test_langchain(server: Running, local: Models) -> None:
    module: Any = pytest.importorskip("langchain_openai", reason=_WHY)
    client = module.OpenAIEmbeddings(
        model="feature-extraction",
        base_url=f"{server.url}/v1",
        api_key=KEY,
        check_embedding_ctx_length=False,
        max_retries=0,
    )
    same(client.embed_documents(TEXTS), local["feature-extraction"].embed(TEXTS))
    same([client.embed_query("a")], local["feature-extraction"].embed(["a"]))


# Hugging Face.


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Hub's client reach this machine: in tests it is offline."""
    monkeypatch.setattr(importlib.import_module("huggingface_hub.constants"), "HF_HUB_OFFLINE", False)


def client_of(server: Running, name: str = "") -> Any:
    url = f"{server.url}/models/{name}" if name else server.url
    return hub.InferenceClient(model=url, token=KEY)


def test_feature_extraction_and_similarity(server: Running, local: Models) -> None:
    client, model = client_of(server), local["feature-extraction"]
    same(client.feature_extraction("a"), model.embed(["a"]))
    same(client.feature_extraction("a", normalize=True, truncate=True), model.embed(["a"], normalize=True))
    near = client.sentence_similarity("a", other_sentences=TEXTS)
    assert near == model.similarity(["a"], TEXTS)[0].tolist()


def test_text_classification(server: Running, local: Models) -> None:
    (item,) = local["text-classification"].classify([TEXTS[0]])
    for client in (client_of(server, "text-classification"),):
        found = client.text_classification(TEXTS[0], top_k=2)
        best = sorted(item["scores"].items(), key=lambda one: -one[1])[:2]
        assert [(one.label, one.score) for one in found] == best
        raw = client.text_classification(TEXTS[0], function_to_apply="none")
        (logits,) = local["text-classification"].classify([TEXTS[0]], raw_scores=True)
        assert {one.label: one.score for one in raw} == logits["scores"]


def test_token_classification(server: Running, local: Models) -> None:
    (item,) = local["token-classification"].entities([TEXTS[0]])
    found = client_of(server).token_classification(TEXTS[0], aggregation_strategy="simple")
    wanted = [(e["entity"], e["text"], e["score"], e["start"], e["end"]) for e in item["entities"]]
    assert [(one.entity_group, one.word, one.score, one.start, one.end) for one in found] == wanted


def test_question_answering(server: Running, local: Models) -> None:
    (item,) = local["question-answering"].answer(["Where?"], [TEXTS[0]])
    found = client_of(server).question_answering("Where?", TEXTS[0])
    assert (found.answer, found.score, found.start, found.end) == tuple(
        item[name] for name in ("answer", "score", "start", "end")
    )


def test_fill_mask(server: Running, local: Models) -> None:
    (item,) = local["fill-mask"].fill_mask(["Ada [MASK]"], top_k=3)
    found = client_of(server, "fill-mask").fill_mask("Ada [MASK]", top_k=3)
    wanted = [(c["token_id"], c["token"], c["score"], c["sequence"]) for c in item["masks"][0]]
    assert [(one.token, one.token_str, one.score, one.sequence) for one in found] == wanted


@pytest.mark.parametrize("several", [False, True])
def test_zero_shot_classification(server: Running, local: Models, several: bool) -> None:
    labels = ["travel", "food, and drink", "war"]
    (item,) = local["inference"].zero_shot([TEXTS[0]], labels, multi_label=several)
    found = client_of(server).zero_shot_classification(TEXTS[0], labels, multi_label=several)
    wanted = sorted(item["scores"].items(), key=lambda one: -one[1])
    assert [(one.label, one.score) for one in found] == wanted


# Cohere.


def test_cohere(server: Running, local: Models) -> None:
    wanted = local["text-ranking"].rank("Where?", TEXTS, top_k=2)
    for kind in (cohere.ClientV2, cohere.Client):
        client = kind(api_key=KEY, base_url=server.url)
        found = client.rerank(model="text-ranking", query="Where?", documents=TEXTS, top_n=2)
        assert [{"index": one.index, "score": one.relevance_score} for one in found.results] == wanted


# Triton.


@pytest.mark.parametrize("binary", [True, False])
def test_triton(server: Running, local: Models, binary: bool) -> None:
    triton: Any = pytest.importorskip("tritonclient.http", reason=_WHY)
    headers = {"Authorization": f"Bearer {KEY}"}
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    try:
        assert client.is_server_live()
        assert client.is_model_ready("feature-extraction", headers=headers)
        assert client.get_model_metadata("feature-extraction", headers=headers)["versions"] == ["1"]
        texts = triton.InferInput("text", [len(TEXTS)], "BYTES")
        texts.set_data_from_numpy(np.array(TEXTS, dtype=object), binary_data=binary)
        wanted = [triton.InferRequestedOutput("embedding", binary_data=binary)]
        answer = client.infer("feature-extraction", [texts], outputs=wanted, headers=headers)
        same(answer.as_numpy("embedding"), local["feature-extraction"].embed(TEXTS))
        answer = client.infer("text-classification", [texts], headers=headers)
        items = local["text-classification"].classify(TEXTS)
        same(answer.as_numpy("scores"), [list(item["scores"].values()) for item in items])
        labels = [one.decode() if isinstance(one, bytes) else one for one in answer.as_numpy("label")]
        assert labels == [item["label"] for item in items]
    finally:
        client.close()


# curl.


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("header", [[], ["-H", "Transfer-Encoding: chunked"]])
@pytest.mark.parametrize("packed", [False, True])
def test_curl(server: Running, local: Models, tmp_path: Path, header: list[str], packed: bool) -> None:
    body = json.dumps({"inputs": TEXTS}).encode()
    (tmp_path / "body").write_bytes(gzip.compress(body) if packed else body)
    coding = ["-H", "Content-Encoding: gzip"] if packed else []
    line = ["curl", "-sf", f"{server.url}/embed", "-H", f"Authorization: Bearer {KEY}", *header, *coding]
    found = subprocess.run([*line, "--data-binary", f"@{tmp_path / 'body'}"], capture_output=True, check=True)
    same(json.loads(found.stdout), local["feature-extraction"].embed(TEXTS))


# OpenTelemetry.


def test_spans_are_made_where_the_sdk_is(paths: dict[str, Path]) -> None:
    import httpx

    sdk: Any = pytest.importorskip("opentelemetry.sdk.trace", reason=_WHY)
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept: Any = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serving({"mini": paths["feature-extraction"]}) as running:
        answer = httpx.post(
            f"{running.url}/embed", json={"inputs": ["a secret", "b"]}, headers={"traceparent": parent}
        )
        assert answer.status_code == 200
    (span,) = [one for one in kept.get_finished_spans() if one.name == "/embed"]
    assert f"{span.context.trace_id:032x}" == parent.split("-")[1]
    assert (span.attributes["bertonnx.model"], span.attributes["bertonnx.texts"]) == ("mini", 2)
    assert "secret" not in str(span.attributes)
