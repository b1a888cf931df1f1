"""Each interface gives what `Model` gives, bit for bit, and its own form of errors."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bertonnx import Model
from bertonnx.models.card import Card
from bertonnx.runtime.io.text import json_line
from bertonnx.wording import HTTP, Call, Message, Option

if TYPE_CHECKING:
    import httpx

Posted = Callable[..., tuple[int, Any]]
Models = Mapping[str, Model]

TEXTS = ["Ada lived in London", "a", "", "naïve café 😀", "Ada lived in London"]
LONG = "word " * 2000


def floats(rows: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(rows, dtype=np.float32)


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_array_equal(floats(found), wanted)


# OpenAI.


@pytest.mark.parametrize("form", [None, "float", "base64"])
def test_embeddings_of_openai_have_the_bits_of_the_model(
    posted: Posted, local: Models, form: str | None
) -> None:
    status, answer = posted(
        "/v1/embeddings", {"input": TEXTS, "model": "mini", "encoding_format": form, "user": "u"}
    )
    assert status == 200
    vectors = [one["embedding"] for one in answer["data"]]
    if form == "base64":
        vectors = [np.frombuffer(base64.b64decode(one), "<f4") for one in vectors]
    same(vectors, local["mini"].embed(TEXTS))
    assert [one["index"] for one in answer["data"]] == list(range(len(TEXTS)))
    tokens = sum(len(piece.ids) for one in local["mini"].tokenize(TEXTS) for piece in one.pieces)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert (answer["object"], answer["model"]) == ("list", "mini")


def test_long_lists_that_are_written_in_parts_are_as_short_ones(posted: Posted, local: Models) -> None:
    texts = [f"a {number % 7} b" for number in range(300)]
    wanted = local["mini"].embed(texts)
    for form in ("float", "base64"):
        _, answer = posted("/v1/embeddings", {"input": texts, "encoding_format": form})
        found = [one["embedding"] for one in answer["data"]]
        same(
            [np.frombuffer(base64.b64decode(one), "<f4") for one in found] if form == "base64" else found,
            wanted,
        )
        assert [one["index"] for one in answer["data"]] == list(range(300))
        assert answer["data"][299].keys() == {"object", "index", "embedding"}
    for path in ("/embed", "/"):
        same(posted(path, {"inputs": texts})[1], wanted)
    _, answer = posted("/v1/predict", {"model": "mini", "texts": [*texts, None]})
    same([one["embedding"] for one in answer["results"][:-1]], wanted)
    assert [one["row"] for one in answer["results"]] == list(range(301))
    assert answer["results"][300]["error"]["type"] == "missing-text"


def test_one_text_is_a_list_of_one(posted: Posted, local: Models) -> None:
    _, answer = posted("/v1/embeddings", {"input": "a"})
    same([answer["data"][0]["embedding"]], local["mini"].embed(["a"]))


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"input": "a", "model": "gpt"}, 404, "model_not_found", "model"),
        ({"input": []}, 400, None, "input"),
        ({"input": None}, 400, None, "input"),
        ({}, 400, None, "input"),
        ({"input": [1.5]}, 400, None, "input.0"),
        ({"input": {"a": 1}}, 400, None, "input"),
        ({"input": "a", "model": 3}, 400, None, "model"),
        ({"input": "a", "encoding_format": "hex"}, 400, None, "encoding_format"),
        ({"input": "a", "dimensions": 0}, 400, None, "dimensions"),
        ({"input": "a", "dimensions": 1e300}, 400, None, "dimensions"),
        ({"input": "a", "model": "mood"}, 424, "wrong_task", None),
        ({"input": LONG}, 400, "context_length_exceeded", None),
    ],
)
def test_errors_of_openai(
    posted: Posted, body: Any, status: int, code: str | None, param: str | None
) -> None:
    found, answer = posted("/v1/embeddings", body)
    error = answer["error"]
    assert (found, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_models_are_listed_in_the_order_of_the_command_line(http: httpx.Client, local: Models) -> None:
    listed = http.get("/v1/models").json()
    assert [one["id"] for one in listed["data"]] == list(local)
    assert listed["data"][0]["card"] == json.loads(local["mini"].card.to_json())
    assert http.get("/v1/models/mood").json()["task"] == "text-classification"
    assert http.get("/v1/models/other").json()["error"]["code"] == "model_not_found"
    assert [one["id"] for one in http.get("/models/mood/v1/models").json()["data"]] == ["mood"]


# text-embeddings-inference.


def test_embed_of_tei(posted: Posted, local: Models) -> None:
    status, answer = posted("/embed", {"inputs": TEXTS, "truncate": True})
    assert status == 200
    same(answer, local["mini"].embed(TEXTS))


@pytest.mark.filterwarnings("ignore::bertonnx.TruncationWarning")
@pytest.mark.parametrize("side", ["Left", "Right"])
def test_long_texts_are_cut_if_asked_and_it_is_said(http: httpx.Client, local: Models, side: str) -> None:
    text = " ".join(f"{place} word" for place in range(400))
    answer = http.post("/embed", json={"inputs": [text, "a"], "truncate": True, "truncation_direction": side})
    assert answer.headers["x-truncated"] == "1"
    wanted = local["mini"].embed([text, "a"])
    assert np.array_equal(floats(answer.json()), wanted) is (side == "Right")
    same(answer.json()[1], wanted[1])
    refused = http.post("/embed", json={"inputs": [text, "a"]})
    assert (refused.status_code, refused.json()["error_type"]) == (422, "Validation")
    assert '"truncate": true' in refused.json()["error"]


def labels_of(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    scores = item["scores"]
    return [{"score": scores[one], "label": one} for one in sorted(scores, key=lambda one: -scores[one])]


def test_predict_of_tei(posted: Posted, local: Models) -> None:
    model = local["mood"]
    one, two = model.classify(["a", "Ada"])
    assert posted("/predict", {"inputs": "a"}) == (200, labels_of(one))
    assert posted("/predict", {"inputs": [["a"], ["Ada"]]}) == (200, [labels_of(one), labels_of(two)])
    (pair,) = model.classify(["a"], ["Ada"])
    assert posted("/predict", {"inputs": ["a", "Ada"]}) == (200, labels_of(pair))
    mixed = [["Ada"], ["a", "Ada"], ["a"]]
    assert posted("/predict", {"inputs": mixed}) == (200, [labels_of(two), labels_of(pair), labels_of(one)])
    (raw,) = model.classify(["a"], raw_scores=True)
    assert posted("/predict", {"inputs": "a", "raw_scores": True}) == (200, labels_of(raw))


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/embed", {"inputs": []}, 400, "Empty"),
        ("/embed", {"inputs": [1.5]}, 422, "Validation"),
        ("/embed", {"inputs": "a", "normalize": "yes"}, 422, "Validation"),
        ("/embed", {"inputs": "a", "truncation_direction": "up"}, 422, "Validation"),
        ("/embed", {"inputs": "a", "prompt_name": "absent"}, 422, "Validation"),
        ("/models/mood/embed", {"inputs": "a"}, 424, "Backend"),
        ("/predict", {"inputs": ["a", "b", "c"]}, 422, "Validation"),
        ("/predict", {"inputs": [[]]}, 422, "Validation"),
        ("/predict", {"inputs": [["a", 1]]}, 422, "Validation"),
        ("/models/mini/predict", {"inputs": "a"}, 424, "Backend"),
        ("/decode", {"ids": [-1]}, 422, "Validation"),
        ("/decode", {"ids": [2**32]}, 422, "Validation"),
        ("/decode", {"ids": [True]}, 422, "Validation"),
    ],
)
def test_errors_of_tei(posted: Posted, path: str, body: Any, status: int, kind: str) -> None:
    found, answer = posted(path, body)
    assert (found, answer["error_type"]) == (status, kind)
    assert isinstance(answer["error"], str)


def test_tokens_and_texts(posted: Posted, local: Models) -> None:
    text = "Ada lived😀"
    _, (tokens,) = posted("/tokenize", {"inputs": text})
    (encoded,) = local["mini"].tokenize([text])
    assert [one["id"] for one in tokens] == encoded.pieces[0].ids.tolist()
    inner = [one for one in tokens if not one["special"]]
    assert all(one["text"] == text[one["start"] : one["stop"]] for one in inner)
    assert [one["start"] for one in tokens if one["special"]] == [None, None]
    _, (bare,) = posted("/tokenize", {"inputs": [text], "add_special_tokens": False})
    assert bare == inner
    ids = [one["id"] for one in tokens]
    wanted = local["mini"].tokenizer.decode_ids(ids, True)
    assert posted("/decode", {"ids": ids}) == (200, [wanted])
    whole = local["mini"].tokenizer.decode_ids(ids, False)
    assert posted("/decode", {"ids": [ids, ids], "skip_special_tokens": False}) == (200, [whole, whole])


def test_info_and_what_a_request_took(http: httpx.Client) -> None:
    info = http.get("/models/mood/info").json()
    assert (info["served_model_name"], info["auto_truncate"]) == ("mood", False)
    assert set(info["model_type"]["classifier"]["id2label"].values()) == {"negative", "neutral", "positive"}
    assert http.get("/info").json()["model_type"] == {"embedding": {"pooling": "mean"}}
    headers = http.post("/embed", json={"inputs": ["ab", "c"]}).headers
    assert (headers["x-compute-type"], headers["x-compute-characters"]) == ("cpu", "3")
    assert int(headers["x-compute-tokens"]) > 3
    assert {"x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"} <= set(headers)
    assert "x-truncated" not in headers


# Shorter and normalized embeddings.


def test_shorter_embeddings_are_normalized_where_whole_ones_are(posted: Posted, local: Models) -> None:
    model = local["mini"]
    for path, name in (("/v1/embeddings", "input"), ("/embed", "inputs"), ("/", "inputs")):
        _, answer = posted(path, {name: TEXTS, "dimensions": 8})
        vectors = [one["embedding"] for one in answer["data"]] if name == "input" else answer
        same(vectors, model.embed(TEXTS, dimensions=8, normalize=True if model.card.normalize else None))
    assert posted("/embed", {"inputs": "a", "dimensions": 10_000})[0] == 422
    assert posted("/v1/embeddings", {"input": "a", "dimensions": 10_000})[0] == 400


def test_normalize_is_as_the_file_or_as_asked(posted: Posted, local: Models) -> None:
    model = local["mini"]
    same(posted("/embed", {"inputs": TEXTS, "normalize": True})[1], model.embed(TEXTS, normalize=True))
    status, answer = posted("/embed", {"inputs": TEXTS, "normalize": False})
    if model.card.normalize:
        assert (status, answer["error_type"]) == (422, "Validation")
    else:
        same(answer, model.embed(TEXTS))


def test_sparse_embeddings_of_tei(posted: Posted, local: Models) -> None:
    wanted = [
        [
            {"index": number, "value": weight}
            for number, weight in zip(item["ids"].tolist(), item["weights"].tolist(), strict=True)
        ]
        for item in local["sparse"].embed_sparse(TEXTS)
    ]
    assert posted("/embed_sparse", {"inputs": TEXTS}) == (200, wanted)
    assert any(wanted)


def test_token_ids_are_embedded_as_their_text(posted: Posted, local: Models) -> None:
    model = local["mini"]
    texts = ["Ada lived in London", "a b"]
    ids = [one.pieces[0].ids.tolist() for one in model.tokenize(texts)]
    bare = [row[1:-1] for row in ids]
    for asked, wanted in ((ids, texts), (bare, texts), (ids[0], texts[:1]), (bare[1], texts[1:])):
        _, answer = posted("/v1/embeddings", {"input": asked})
        same([one["embedding"] for one in answer["data"]], model.embed(wanted))
        same(posted("/embed", {"inputs": asked})[1], model.embed(wanted))
    assert posted("/v1/embeddings", {"input": bare})[1]["usage"]["prompt_tokens"] == sum(map(len, ids))
    faults: list[Any] = [[[]], [10**6], [-1], [1, "a"], [1.5], [[1], 2], [[1], "a"], [2**40]]
    for wrong in faults:
        assert posted("/v1/embeddings", {"input": wrong})[0] == 400
    long = bare[0] * 200
    assert posted("/v1/embeddings", {"input": long})[1]["error"]["code"] == "context_length_exceeded"
    assert posted("/embed", {"inputs": long, "truncate": True})[0] == 200


def test_lines_to_type_are_those_of_the_command_line() -> None:
    said = Message(
        "{asked}: {export}", asked=Option("normalize", False), export=Call("export", "A", normalize=False)
    )
    assert said.worded(HTTP) == '"normalize": false: bertonnx export A --no-normalize'


def test_vectors_of_tokens(posted: Posted, local: Models) -> None:
    status, answer = posted("/embed_all", {"inputs": TEXTS})
    assert status == 200
    for found, item in zip(answer, local["late"].embed_tokens(TEXTS), strict=True):
        same(found, item["vectors"])
    ranked = local["late"].rank("Where?", TEXTS)
    assert posted("/models/late/rerank", {"query": "Where?", "texts": TEXTS}) == (200, ranked)
    # Of an ordinary model for embeddings, the vectors of its last layer, special tokens included.
    status, answer = posted("/models/mini/embed_all", {"inputs": TEXTS})
    assert status == 200
    for found, item in zip(answer, local["mini"].embed_tokens(TEXTS), strict=True):
        same(found, item["vectors"])
    assert posted("/models/mood/embed_all", {"inputs": "a"})[0] == 424


def test_similarity(posted: Posted, local: Models) -> None:
    inputs = {"source_sentence": "Ada lived", "sentences": TEXTS}
    wanted = local["mini"].similarity(["Ada lived"], TEXTS)[0].tolist()
    for path in ("/similarity", "/", "/models/mini"):
        assert posted(path, {"inputs": inputs}) == (200, wanted)
    assert posted("/similarity", {"inputs": {**inputs, "sentences": []}})[0] == 400
    assert posted("/similarity", {"inputs": "a"})[0] == 422


# Rerank.

DOCUMENTS = ["Ada lived in London", "a b c", "", "Ada", "a b c"]


def test_rerank_of_tei(posted: Posted, local: Models) -> None:
    wanted = local["ranker"].rank("Where?", DOCUMENTS)
    assert posted("/rerank", {"query": "Where?", "texts": DOCUMENTS}) == (200, wanted)
    shown = [
        {**one, "text": DOCUMENTS[one["index"]]}
        for one in local["ranker"].rank("a", DOCUMENTS, raw_scores=True)
    ]
    body = {"query": "a", "texts": DOCUMENTS, "return_text": True, "raw_scores": True}
    assert posted("/models/ranker/rerank", body) == (200, shown)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_of_cohere_and_jina(posted: Posted, local: Models, path: str) -> None:
    wanted = [
        {
            "index": one["index"],
            "relevance_score": one["score"],
            "document": {"text": DOCUMENTS[one["index"]]},
        }
        for one in local["ranker"].rank("Where?", DOCUMENTS, top_k=2)
    ]
    documents = [DOCUMENTS[0], {"text": DOCUMENTS[1]}, *DOCUMENTS[2:]]
    body = {
        "query": "Where?",
        "documents": documents,
        "top_n": 2,
        "return_documents": True,
        "model": "ranker",
    }
    status, answer = posted(path, body)
    assert (status, answer["results"], answer["model"]) == (200, wanted, "ranker")
    assert answer["id"]
    assert answer["usage"]["total_tokens"] > 0
    _, answer = posted(path, {"query": "Where?", "documents": ["a", "b"]})
    assert [set(one) for one in answer["results"]] == [{"index", "relevance_score"}] * 2


def test_cohere_always_cuts(http: httpx.Client) -> None:
    answer = http.post("/v2/rerank", json={"query": "a", "documents": [LONG, "b"]})
    assert (answer.status_code, answer.headers["x-truncated"]) == (200, "1")
    assert http.post("/rerank", json={"query": "a", "texts": [LONG]}).status_code == 422


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/rerank", {"query": "a"}, 422, "error"),
        ("/rerank", {"query": "a", "texts": ["a"], "documents": ["a"]}, 422, "error"),
        ("/rerank", {"query": 1, "texts": ["a"]}, 422, "error"),
        ("/rerank", {"query": "a", "texts": []}, 400, "error"),
        ("/rerank", {"query": " ", "texts": ["a"]}, 422, "error"),
        ("/models/mini/rerank", {"query": "a", "texts": ["a"]}, 424, "error"),
        ("/v2/rerank", {"query": "a", "documents": []}, 400, "message"),
        ("/v2/rerank", {"query": "a", "documents": [{"title": "a"}]}, 400, "message"),
        ("/v2/rerank", {"query": "a", "documents": ["a"], "top_n": 0}, 400, "message"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "model": "other"}, 404, "message"),
    ],
)
def test_what_rerank_refuses(posted: Posted, path: str, body: Any, status: int, field: str) -> None:
    found, answer = posted(path, body)
    assert (found, bool(answer[field])) == (status, True)


# Hugging Face.


def test_every_task_answers_at_the_root(posted: Posted, local: Models) -> None:
    same(posted("/", {"inputs": "Ada"})[1], local["mini"].embed(["Ada"]))
    same(posted("/", {"inputs": ["Ada", "a"], "truncate": True})[1], local["mini"].embed(["Ada", "a"]))
    (item,) = local["mood"].classify(["Ada"])
    for path, parameters in (
        ("/models/mood", {}),
        ("/models/mood/", {"top_k": 9}),
        ("/", {"function_to_apply": "softmax"}),
    ):
        assert posted(path, {"inputs": "Ada", "parameters": parameters}) == (200, [labels_of(item)])
    assert posted("/models/mood", {"inputs": "Ada", "parameters": {"top_k": 1}})[1] == [labels_of(item)[:1]]
    (raw,) = local["mood"].classify(["Ada"], raw_scores=True)
    asked = {"inputs": "Ada", "parameters": {"function_to_apply": "none"}}
    assert posted("/models/mood", asked) == (200, [labels_of(raw)])


@pytest.mark.parametrize(
    ("how", "name"), [("simple", "entity_group"), ("none", "entity"), ("max", "entity_group")]
)
def test_entities_at_the_root(posted: Posted, local: Models, how: Any, name: str) -> None:
    texts = ["Ada lived in London", "a b"]
    wanted = [
        [
            {name: e["entity"], "word": e["text"], **{k: e[k] for k in ("score", "start", "end")}}
            for e in item["entities"]
        ]
        for item in local["names"].entities(texts, aggregation=how)
    ]
    asked = {"parameters": {"aggregation_strategy": how}}
    assert posted("/", {"inputs": texts, **asked}) == (200, wanted)
    assert posted("/models/names", {"inputs": texts[0], **asked}) == (200, wanted[0])


def test_answers_at_the_root(posted: Posted, local: Models) -> None:
    question, context = "Where?", "Ada lived in London, " * 300
    (item,) = local["reader"].answer([question], [context])
    assert posted("/", {"inputs": {"question": question, "context": context}}) == (200, item)
    (several,) = local["reader"].answer([question], [context], top_k=3, no_answer=True)
    asked = {"top_k": 3, "handle_impossible_answer": True}
    body = {"inputs": {"question": question, "context": context}, "parameters": asked}
    assert posted("/", body) == (200, several["answers"])


def test_masks_at_the_root(posted: Posted, local: Models) -> None:
    def wanted(mask: Any) -> Any:
        return [
            {
                "score": one["score"],
                "token": one["token_id"],
                "token_str": one["token"],
                "sequence": one["sequence"],
            }
            for one in mask
        ]

    texts = ["Ada [MASK]", "[MASK] and [MASK]"]
    one, two = local["filler"].fill_mask(texts, top_k=3)
    asked = {"parameters": {"top_k": 3}}
    assert posted("/models/filler", {"inputs": texts[0], **asked}) == (200, wanted(one["masks"][0]))
    both = [wanted(one["masks"][0]), [wanted(mask) for mask in two["masks"]]]
    assert posted("/models/filler", {"inputs": texts, **asked}) == (200, both)
    status, answer = posted("/models/filler", {"inputs": "no mask"})
    assert (status, answer["error_type"]) == (422, "Validation")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/", {}, 422),
        ("/", {"inputs": 3}, 422),
        ("/", {"inputs": {"question": "a"}}, 422),
        ("/", {"inputs": {}}, 422),
        ("/", {"inputs": "a", "parameters": []}, 422),
        ("/models/mood", {"inputs": "a", "parameters": {"function_to_apply": "sigmoid"}}, 422),
        ("/models/names", {"inputs": "a", "parameters": {"ignore_labels": []}}, 422),
        ("/models/names", {"inputs": "a", "parameters": {"stride": 3}}, 422),
        ("/models/reader", {"inputs": "a"}, 424),
        ("/models/mini", {"inputs": {"question": "a", "context": "b"}}, 424),
    ],
)
def test_what_the_root_refuses(posted: Posted, path: str, body: Any, status: int) -> None:
    assert posted(path, body)[0] == status


# KServe.


def tensor(name: str, texts: list[str]) -> dict[str, Any]:
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": texts}


def test_infer_of_kserve(posted: Posted, local: Models) -> None:
    body = {"id": "7", "inputs": [tensor("text", TEXTS)]}
    status, answer = posted("/v2/models/mini/infer", body)
    (output,) = answer["outputs"]
    assert (status, answer["id"], answer["model_name"]) == (200, "7", "mini")
    assert (output["name"], output["datatype"], output["shape"]) == (
        "embedding",
        "FP32",
        [5, local["mini"].card.width],
    )
    same(output["data"], local["mini"].embed(TEXTS).ravel())
    _, answer = posted("/v2/models/mood/infer", {"inputs": [tensor("text", ["a"]), tensor("pair", ["b"])]})
    scores, label = answer["outputs"]
    (item,) = local["mood"].classify(["a"], ["b"])
    same(scores["data"], list(item["scores"].values()))
    assert (scores["shape"], label["data"], label["shape"]) == ([1, 3], [item["label"]], [1])
    _, answer = posted("/v2/models/names/infer", {"inputs": [tensor("text", TEXTS[:2])]})
    lines = [json_line(place, item) for place, item in enumerate(local["names"].entities(TEXTS[:2]))]
    assert answer["outputs"] == [{"name": "json", "datatype": "BYTES", "shape": [2], "data": lines}]


def binary(texts: list[str]) -> bytes:
    return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)


def test_binary_tensors_of_kserve(http: httpx.Client, local: Models) -> None:
    data = binary(TEXTS)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "text",
                    "shape": [len(TEXTS)],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(data)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = http.post("/v2/models/mini/infer", content=head + data, headers=headers)
    size = int(answer.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(answer.content[:size])["outputs"]
    assert output["parameters"]["binary_data_size"] == len(answer.content) - size
    same(np.frombuffer(answer.content[size:], "<f4"), local["mini"].embed(TEXTS).ravel())
    for wrong in (str(len(head) + len(data) + 1), "-1", "0", "x", "9" * 40):
        refused = http.post(
            "/v2/models/mini/infer",
            content=head + data,
            headers={"Inference-Header-Content-Length": wrong},
        )
        assert (refused.status_code, list(refused.json())) == (400, ["error"])
    for cut in (data[:-1], data + b"x", b"", b"\xff" * len(data)):
        refused = http.post("/v2/models/mini/infer", content=head + cut, headers=headers)
        assert (refused.status_code, list(refused.json())) == (400, ["error"])


def test_what_kserve_tells_of_models(http: httpx.Client) -> None:
    found = http.get("/v2/models/mood").json()
    assert (found["name"], found["versions"], found["platform"]) == ("mood", ["1"], "onnxruntime_onnx")
    assert [one["name"] for one in found["inputs"]] == ["text", "pair"]
    assert [one["shape"] for one in found["outputs"]] == [[-1, 3], [-1]]
    assert http.get("/v2/models/mood/ready").json()["ready"] is True
    assert http.get("/v2").json()["name"] == "bertonnx"
    assert http.get("/v2/models/absent").status_code == 404
    assert http.get("/v2/models/absent").json() == {"error": "there is no model of the name in this path"}


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        [],
        [3],
        [{"name": "text"}],
        [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a"]}],
        [{"name": "text", "shape": [1], "datatype": "FP32", "data": [1]}],
        [{"name": "text", "shape": [-1, -1], "datatype": "BYTES", "data": ["a"]}],
        [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [1]}],
        [{"name": "words", "shape": [1], "datatype": "BYTES", "data": ["a"]}],
        [tensor("text", ["a"]), tensor("text", ["a"])],
        [tensor("text", ["a"]), tensor("pair", ["a"])],
    ],
)
def test_what_kserve_refuses(posted: Posted, inputs: Any) -> None:
    status, answer = posted("/v2/models/mini/infer", {"inputs": inputs})
    assert (status, list(answer)) == (400, ["error"])


def test_prompts_go_wherever_tei_takes_them(
    posted: Posted, local: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini, name, usual = local["mini"], "asked", Card.prompt_text

    def prompt_text(card: Card, asked: str | None = None) -> str:
        return "What is asked: " if asked == name else usual(card, asked)

    # Of the server's models too, which are in this process.
    monkeypatch.setattr(Card, "prompt_text", prompt_text)
    inputs = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}
    status, found = posted("/similarity", {"inputs": inputs, "parameters": {"prompt_name": name}})
    assert status == 200
    a, b = (mini.embed(texts, prompt=name) for texts in (TEXTS[:1], TEXTS[1:]))
    same(found, mini.similarity(a, b)[0])
    assert not np.array_equal(a, mini.embed(TEXTS[:1]))
    _, tokens = posted("/tokenize", {"inputs": "a", "prompt_name": name, "add_special_tokens": False})
    _, wanted = posted("/tokenize", {"inputs": "What is asked: a", "add_special_tokens": False})
    assert tokens == wanted
    for path, body in (("/similarity", {"parameters": {"prompt_name": "no"}}), ("/tokenize", {})):
        assert posted(path, {"inputs": inputs, "prompt_name": "no", **body})[0] == 422


def test_the_root_takes_what_tei_takes_there(posted: Posted, local: Models) -> None:
    body = {"query": "a", "texts": ["b", "c"], "return_text": True}
    assert posted("/", body) == posted("/rerank", body)
    assert posted("/", {"query": "a"})[0] == 422
    ids = [piece.ids.tolist() for one in local["mini"].tokenize(["Ada"]) for piece in one.pieces]
    status, found = posted("/", {"inputs": ids})
    assert status == 200
    same(found, local["mini"].embed(["Ada"]))
    nested = {"inputs": [["a"], ["b"]]}
    assert posted("/models/mood", nested) == posted("/models/mood/predict", nested)


# Our own wire.


def test_results_of_the_wire_are_the_lines_of_run(posted: Posted, local: Models) -> None:
    for name, texts, pairs in (
        ("mini", TEXTS, None),
        ("mood", TEXTS, TEXTS),
        ("names", TEXTS, None),
        ("reader", ["Who?"], ["Ada lived in London"]),
        ("ranker", ["a", "b"], ["c", "d"]),
    ):
        items = local[name].predict(texts, pairs)
        lines = [json.loads(json_line(place, item)) for place, item in enumerate(items)]
        body = {"model": name, "method": "predict", "texts": texts, "pairs": pairs}
        assert posted("/v1/predict", body) == (200, {"results": lines})


def test_errors_of_rows_stand_in_their_places(posted: Posted) -> None:
    status, answer = posted("/v1/predict", {"model": "mini", "texts": ["a", None, 3, LONG]})
    assert (status, len(answer["results"])) == (200, 4)
    assert [one.get("error", {}).get("type") for one in answer["results"]] == [
        None,
        "missing-text",
        "invalid-text",
        "too-long",
    ]
    _, cut = posted("/v1/predict", {"model": "mini", "texts": [LONG], "truncate": True})
    assert list(cut["results"][0])[-1] == "truncated"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"texts": "a"}, 400),
        ({"texts": ["a"], "method": "close"}, 400),
        ({"texts": ["a"], "options": {"colour": 1}}, 400),
        ({"texts": ["a"], "options": {"top_k": "1"}}, 400),
        ({"texts": ["a"], "options": {"top_k": True}}, 400),
        ({"texts": ["a"], "options": {"top_k": 0}}, 400),
        ({"texts": ["a"], "options": {"raw_scores": 1}}, 400),
        ({"texts": ["a"], "model": "reader"}, 400),
        ({"texts": ["a"], "pairs": ["a", "b"], "model": "reader"}, 400),
        ({"texts": ["a"], "method": "classify", "model": "mini"}, 424),
        ({"texts": ["a"], "other": 1}, 400),
        ({"texts": ["a"], "face": "latin"}, 400),
    ],
)
def test_what_the_wire_refuses(posted: Posted, body: Any, status: int) -> None:
    found, answer = posted("/v1/predict", body)
    assert (found, bool(answer["error"]["message"])) == (status, True)
    assert posted("/v1/predict", {"texts": []}) == (200, {"results": []})


@pytest.mark.parametrize(
    ("face", "refused", "row"),
    [
        (None, "prompt='no'", "long_text='truncate'"),
        ("python", "prompt='no'", "long_text='truncate'"),
        ("r", 'prompt = "no"', 'long_text = "truncate"'),
        ("command-line", "--prompt no", "--long-text truncate"),
        ("http", '"prompt": "no"', '"truncate": true'),
    ],
)
def test_errors_are_told_in_the_words_of_whom_they_are_for(
    posted: Posted, face: str | None, refused: str, row: str
) -> None:
    asked = {"model": "mini", "face": face}
    status, answer = posted("/v1/predict", {**asked, "texts": ["a"], "options": {"prompt": "no"}})
    assert (status, answer["error"]["class"]) == (400, "UsageError")
    assert refused in answer["error"]["message"]
    _, answer = posted("/v1/predict", {**asked, "texts": [LONG]})
    assert row in answer["results"][0]["error"]["message"]


def test_a_small_body_cannot_ask_for_billions_of_rows(posted: Posted) -> None:
    long = "word " * 30_000
    body = {"query": long, "documents": [str(number) for number in range(3000)]}
    status, answer = posted("/v2/rerank", body)
    assert (status, "send fewer" in answer["message"]) == (413, True)
