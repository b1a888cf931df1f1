"""HTTP itself: keys, limits, encodings, and what people send to see a server fail."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bertonnx import Model
from tests.serving import PATIENCE, Running, exchanged, serving

if TYPE_CHECKING:
    import httpx

Models = Mapping[str, Model]

LIMIT = 20_000
KEY = "a-secret"
ORIGIN = "https://example.org"


@pytest.fixture(scope="module")
def guarded(paths: dict[str, Path]) -> Iterator[httpx.Client]:
    """A server with a key, a small limit and CORS."""
    import httpx

    chosen = {"mini": paths["mini"], "größe/zwei": paths["mood"]}
    with (
        serving(
            chosen, api_keys=(KEY, "other"), max_body=LIMIT, cors=(ORIGIN,), auto_truncate=True
        ) as running,
        httpx.Client(base_url=running.url, timeout=PATIENCE) as client,
    ):
        yield client


def bearer(key: str = KEY) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# Keys.


@pytest.mark.parametrize("path", ["/health", "/ready", "/v2/health/live", "/v2/health/ready", "/"])
def test_some_paths_are_open(guarded: httpx.Client, path: str) -> None:
    assert guarded.get(path).status_code == 200
    assert guarded.head(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/v1/models",
        "/info",
        "/openapi.json",
        "/v2",
        "/v2/models/mini",
        "/absent",
        "/models/mini/info",
    ],
)
def test_all_others_need_a_key(guarded: httpx.Client, path: str) -> None:
    refused = guarded.get(path)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert KEY not in refused.text
    assert guarded.get(path, headers=bearer()).status_code in (200, 404)
    assert guarded.get(path, headers=bearer("other")).status_code in (200, 404)


@pytest.mark.parametrize(
    "header",
    [
        {},
        bearer("a-secre"),
        bearer("a-secret2"),
        bearer("a-secret,other"),
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": b"Bearer \xff\xfe"},
        {"api-key": KEY},
    ],
)
def test_wrong_keys_are_refused(guarded: httpx.Client, header: Any) -> None:
    for path in ("/v1/embeddings", "/", "/models/mini/embed"):
        assert guarded.post(path, json={"input": "a", "inputs": "a"}, headers=header).status_code == 401
    error = guarded.post("/v1/embeddings", json={"input": "a"}, headers=header).json()["error"]
    assert error["code"] == "invalid_api_key"


def test_pages_of_one_origin_may_call(guarded: httpx.Client) -> None:
    asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
    allowed = guarded.options("/embed", headers={**asked, "access-control-request-headers": "authorization"})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, ORIGIN)
    answer = guarded.post("/embed", json={"inputs": "a"}, headers={**bearer(), "origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    other = guarded.options("/embed", headers={**asked, "origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    assert other.status_code == 400


def test_without_an_origin_no_page_may_call(http: httpx.Client) -> None:
    answer = http.get("/health", headers={"origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
    assert http.options("/embed", headers=asked).status_code == 405


# Paths and methods.


@pytest.mark.parametrize(
    "path",
    [
        "/absent",
        "/embed/",
        "/EMBED",
        "/models",
        "/models/",
        "/models/absent/embed",
        "/v2/models/mini/absent",
    ],
)
def test_unknown_paths_are_json_too(http: httpx.Client, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = http.request(method, path, content=b"{}")
        assert answer.status_code == 404
        assert answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        b"/models/../embed",
        b"/../../etc/passwd",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"/models/mini/../../x",
        b"/%00",
        b"/%ff",
    ],
)
def test_paths_lead_nowhere_else(server: Running, path: bytes) -> None:
    sent = b"GET " + path + b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    answer = exchanged(server.port, sent)
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:200]
    assert b"root:" not in answer


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/embed"), ("PUT", "/"), ("DELETE", "/health"), ("OPTIONS", "/info")]
)
def test_wrong_methods_say_which_are_right(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"]
    assert answer.json()["error"]


def test_names_may_be_any_text(guarded: httpx.Client, local: Models) -> None:
    listed = guarded.get("/v1/models", headers=bearer()).json()
    assert [one["id"] for one in listed["data"]] == ["mini", "größe/zwei"]
    (item,) = local["mood"].classify(["Ada"])
    for path in ("/models/größe/zwei/predict", "/predict"):
        answer = guarded.post(path, json={"inputs": "Ada"}, headers=bearer()).json()
        assert answer[0] == {"label": item["label"], "score": item["score"]}
    assert guarded.get("/v2/models/größe/zwei", headers=bearer()).json()["name"] == "größe/zwei"
    answer = guarded.post("/v2/models/größe/zwei/infer", json={"inputs": []}, headers=bearer())
    assert answer.status_code == 400


# Bodies.


def body_of(size: int) -> bytes:
    return json.dumps({"inputs": "a" * (size - 14)}).encode()


def test_a_body_may_have_the_limit_and_no_more(guarded: httpx.Client) -> None:
    assert len(body_of(LIMIT)) == LIMIT
    for extra, status in ((0, 200), (1, 413)):
        body = body_of(LIMIT + extra)
        assert guarded.post("/embed", content=body, headers=bearer()).status_code == status
        parts = (body[place : place + 999] for place in range(0, len(body), 999))
        assert guarded.post("/embed", content=parts, headers=bearer()).status_code == status
        packed = {**bearer(), "content-encoding": "gzip"}
        assert guarded.post("/embed", content=gzip.compress(body), headers=packed).status_code == status


def test_gzip_has_the_same_answer(http: httpx.Client, local: Models) -> None:
    body = json.dumps({"inputs": ["Ada", "a"]}).encode()
    for packed in (gzip.compress(body), gzip.compress(body, 0)):
        answer = http.post("/embed", content=packed, headers={"content-encoding": "gzip"})
        np.testing.assert_array_equal(np.array(answer.json(), np.float32), local["mini"].embed(["Ada", "a"]))


@pytest.mark.parametrize(
    ("content", "coding", "status"),
    [
        (gzip.compress(b"{}" + b" " * 50_000_000), "gzip", 413),
        (gzip.compress(b'{"inputs": "a"}')[:-4], "gzip", 422),
        (gzip.compress(b'{"inputs": "a"}') + b"more", "gzip", 422),
        (b"no gzip", "gzip", 422),
        (b"", "gzip", 422),
        (zlib.compress(b'{"inputs": "a"}'), "deflate", 415),
        (b'{"inputs": "a"}', "br", 415),
        (b'{"inputs": "a"}', "gzip, gzip", 415),
    ],
    # By themselves they would be named by their bytes, in which the time is.
    ids=["bomb", "cut", "more behind", "none", "empty", "deflate", "br", "twice"],
)
def test_encodings_that_are_refused(http: httpx.Client, content: bytes, coding: str, status: int) -> None:
    answer = http.post("/embed", content=content, headers={"content-encoding": coding})
    assert (answer.status_code, bool(answer.json()["error"])) == (status, True)


MALFORMED = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"3",
    b"{} {}",
    b'{"inputs": NaN}',
    b'{"inputs": "\\ud800"}',
    b'{"inputs": "\xff"}',
    b'{"inputs": 1e999}',
    b'{"inputs": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    b'{"inputs": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    b'{"inputs": ["a", null]}',
    b'{"inputs": 99999999999999999999999999999999999}',
    b"\x00" * 100,
    bytes(range(256)),
]


@pytest.mark.parametrize(
    "path", ["/embed", "/v1/embeddings", "/", "/predict", "/rerank", "/v2/rerank", "/tokenize"]
)
def test_what_is_no_request_is_refused(http: httpx.Client, path: str) -> None:
    for body in MALFORMED:
        body = body.replace(b'"inputs"', b'"input"') if path == "/v1/embeddings" else body
        answer = http.post(path, content=body)
        assert 400 <= answer.status_code < 500, (path, body[:60], answer.text)
        assert answer.json()


WRONG: list[Any] = [
    *(None, True, 3, -1, 1.5, 1e300, "", "x", [], [None], [[]], [[1]]),
    *({}, {"a": 1}, ["a", 1], [["a", "b", "c"]]),
]

BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {
        "input": "a",
        "model": "mini",
        "encoding_format": "float",
        "dimensions": 8,
        "user": "a",
    },
    "/embed": {
        "inputs": "a",
        "truncate": True,
        "truncation_direction": "Left",
        "prompt_name": "query",
        "normalize": True,
        "dimensions": 8,
    },
    "/embed_sparse": {"inputs": "a", "truncate": True, "prompt_name": "query"},
    "/predict": {"inputs": "a", "truncate": True, "raw_scores": True},
    "/tokenize": {"inputs": "a", "add_special_tokens": False},
    "/decode": {"ids": [1], "skip_special_tokens": False},
    "/rerank": {"query": "a", "texts": ["a"], "truncate": True, "raw_scores": True, "return_text": True},
    "/v2/rerank": {"query": "a", "documents": ["a"], "top_n": 1, "return_documents": True, "model": "ranker"},
    "/v2/models/mood/infer": {
        "id": "a",
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}],
        "outputs": [{"name": "scores"}],
        "parameters": {"binary_data_output": False},
    },
    "/v1/predict": {
        "model": "mood",
        "method": "classify",
        "texts": ["a"],
        "pairs": ["b"],
        "options": {"top_k": 2},
        "truncate": True,
    },
    "/models/mood": {"inputs": "a", "parameters": {"top_k": 1, "function_to_apply": "none"}},
    "/models/names": {"inputs": "a", "parameters": {"aggregation_strategy": "first", "ignore_labels": ["O"]}},
    "/models/filler": {"inputs": "[MASK]", "parameters": {"top_k": 2}},
    "/models/reader": {"inputs": {"question": "a", "context": "b"}, "parameters": {"top_k": 2}},
}


def _mutants(body: Any) -> Iterator[Any]:
    """Yield a body with each of its values replaced by each wrong one, at any depth."""
    yield from WRONG
    inner = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for name, value in inner:
        for mutant in _mutants(value):
            copy = dict(body) if isinstance(body, dict) else list(body)
            copy[name] = mutant
            yield copy


@pytest.mark.parametrize("path", BODIES)
def test_wrong_values_in_every_field_are_never_faults_of_the_server(http: httpx.Client, path: str) -> None:
    assert http.post(path, json=BODIES[path]).status_code == 200
    for body in _mutants(BODIES[path]):
        answer = http.post(path, json=body)
        assert answer.status_code < 500, (body, answer.text)
        if answer.headers["content-type"] == "application/json":
            assert isinstance(answer.json(), dict | list)


def test_ten_thousand_texts_are_split(http: httpx.Client, local: Models) -> None:
    texts = [f"{number} words" for number in range(10_000)]
    answer = http.post("/embed", json={"inputs": texts})
    assert answer.status_code == 200
    assert int(answer.headers["x-compute-characters"]) == sum(map(len, texts))
    some = [0, 1, 255, 256, 257, 5000, 9999]
    wanted = local["mini"].embed([texts[place] for place in some])
    np.testing.assert_array_equal(np.array([answer.json()[place] for place in some], np.float32), wanted)


# Sockets.


def request(body: bytes = b'{"inputs": "a"}', *, version: bytes = b"1.1", head: bytes = b"") -> bytes:
    length = b"" if b"ength" in head or b"encoding" in head else b"content-length: %d\r\n" % len(body)
    return (
        b"POST /embed HTTP/"
        + version
        + b"\r\nhost: a\r\nconnection: close\r\n"
        + length
        + head
        + b"\r\n"
        + body
    )


def alive(server: Running) -> None:
    answer = exchanged(server.port, request())
    assert answer.startswith(b"HTTP/1.1 200"), answer


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /h\xc3\xa9 HTTP/1.1\r\nhost: a\r\n\r\n",
        request(head=b"content-length: -1\r\n"),
        request(head=b"content-length: 1\r\ncontent-length: 2\r\n"),
        request(head=b"content-length: x\r\n"),
        request(head=b"transfer-encoding: chunked\r\n", body=b"zz\r\na\r\n"),
        request(head=b"content-length: 15\r\ntransfer-encoding: chunked\r\n"),
        b"GET /health HTTP/1.1\r\nbad header\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(server: Running, sent: bytes) -> None:
    answer = exchanged(server.port, sent, close=True)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert b"Traceback" not in answer
    alive(server)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(version=b"1.0"), b"200"),
        (request(head=b"transfer-encoding: chunked\r\n", body=b'f\r\n{"inputs": "a"}\r\n0\r\n\r\n'), b"200"),
        (request(head=b"content-length: 5\r\n"), b"422"),
        (
            request(head=b"upgrade: websocket\r\nsec-websocket-key: eA==\r\nsec-websocket-version: 13\r\n"),
            b"200",
        ),
        (b"HEAD /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", b"200"),
        (b"OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", b"40"),
        (b"GET http://other/health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", b"200"),
        (request(head=b"x-request-id: a b\r\n"), b"200"),
        (request(head=b"expect: 100-continue\r\n"), b"100"),
    ],
)
def test_odd_requests_have_their_answers(server: Running, sent: bytes, status: bytes) -> None:
    answer = exchanged(server.port, sent)
    assert answer.split(b" ", 2)[1].startswith(status), answer[:300]


def test_request_ids_are_taken_if_they_can_be_logged(http: httpx.Client) -> None:
    assert http.get("/health", headers={"x-request-id": "abc-1.2"}).headers["x-request-id"] == "abc-1.2"
    for wrong in ("a b", "a" * 200, "", "ä", "<script>"):
        found = http.get("/health", headers={b"x-request-id": wrong.encode()}).headers["x-request-id"]
        assert found != wrong
        assert len(found) == 16


def test_half_of_a_body_and_a_lost_client_leave_nothing(server: Running) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            connection.sendall(request(head=b"content-length: 1000\r\n"))
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(b"POST /embed HTTP/1.1\r\nhost: a\r\n")
    alive(server)


def test_a_head_without_end_is_cut_off(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(20_000):
                connection.sendall(b"x-%d: %s\r\n" % (number, b"a" * 100))
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = connection.recv(65_536)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
    alive(server)


def test_many_connections_at_a_time_are_answered(server: Running) -> None:
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: exchanged(server.port, request()), range(300)))
    assert {answer.split(b"\r\n", 1)[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    assert len({answer.rpartition(b"\r\n\r\n")[2] for answer in answers}) == 1


# What is told of it.


def test_metrics_count_by_model_and_endpoint(http: httpx.Client) -> None:
    def value(line: str) -> float:
        text = http.get("/metrics").text
        return next((float(row.rpartition(" ")[2]) for row in text.splitlines() if row.startswith(line)), 0.0)

    ok = 'bertonnx_requests_total{endpoint="/embed",model="mini",status="200"}'
    texts = 'bertonnx_texts_total{endpoint="/embed",model="mini"}'
    bad = 'bertonnx_failures_total{endpoint="/embed",model="mini",problem="invalid"}'
    before = [value(line) for line in (ok, texts, bad)]
    http.post("/embed", json={"inputs": ["a", "b"]})
    http.post("/embed", json={"inputs": ["a", 1]})
    assert [value(line) for line in (ok, texts, bad)] == [before[0] + 1, before[1] + 2, before[2] + 1]
    assert value('bertonnx_batch_size_count{model="mini"}') > 0
    assert value('bertonnx_queue_texts{model="mini"}') == 0
    for name in ("tokenizing", "queue", "model", "request"):
        assert value(f'bertonnx_{name}_seconds_count{{endpoint="/embed",model="mini"}}') > 0


class Wire:
    """What is written to a connection, as it would be sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.sent.append(b"".join(parts))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_a_head_is_sent_with_its_body_and_what_comes_before_it_at_once() -> None:
    from bertonnx.runtime.serving.listening import _HeadAndBody

    wire = Wire()
    both = _HeadAndBody(wire)
    both.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    both.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert wire.sent == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    both.write(b"HTTP/1.1 looks like a head")
    both.write(b", more")
    assert wire.sent[1:] == [b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 looks like a head", b", more"]
    alone = _HeadAndBody(wire)
    alone.write(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
    alone.close()
    assert wire.sent[3:] == [b"HTTP/1.1 500 Internal Server Error\r\n\r\n"]
    assert alone.is_closing()


def test_times_fall_into_the_buckets_that_prometheus_client_would_choose() -> None:
    from prometheus_client import CollectorRegistry, Histogram, generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    from bertonnx.runtime.serving.metrics import Metrics

    seconds = (0.0, 0.001, 0.0011, 0.3, 30.0, 31.0)
    metrics, registry = Metrics(()), CollectorRegistry()
    bounds = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
    theirs = Histogram(
        *("bertonnx_request_seconds", "From the request to its answer.", ("model", "endpoint")),
        registry=registry,
        buckets=bounds,
    )
    for one in seconds:
        metrics.note("/embed", 200, one, None, "")
        theirs.labels("", "/embed").observe(one)

    def samples(text: bytes) -> list[tuple[str, dict[str, str], float]]:
        return [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
            if sample.name.startswith("bertonnx_request_seconds") and "created" not in sample.name
        ]

    assert samples(metrics.text()) == samples(generate_latest(registry))
    requests = 'bertonnx_requests_total{endpoint="/embed",model="",status="200"} 6.0'
    assert requests in metrics.text().decode().splitlines()


def test_the_interface_is_described(http: httpx.Client, local: Models) -> None:
    found = http.get("/openapi.json").json()
    assert found["openapi"].startswith("3.")
    for path, methods in found["paths"].items():
        for method in methods.keys() - {"parameters"}:
            asked = path.replace("{model}", "mini")
            assert http.request(method, asked, content=b"{}").status_code not in (404, 405), path
    assert set(BODIES) - {"/v2/models/mood/infer"} <= set(found["paths"]) | {
        f"/models/{name}" for name in local
    }


def test_the_page_asks_nobody_else(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "://" not in page.text
    assert http.get("/models/mini").text == page.text
