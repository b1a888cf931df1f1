"""What happens under load, to clients that leave, and at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import bertonnx
from bertonnx.errors import ModelFileError, ServerError, UsageError
from bertonnx.runtime.engine.running import Runner
from bertonnx.runtime.serving.fleet import named_paths
from bertonnx.runtime.serving.options import ServeOptions
from bertonnx.runtime.serving.server import keys_of_environment
from tests.runtime.engine.fakes import until
from tests.serving import PATIENCE, serving


class Held:
    """Holds every batch of every model until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.begun = 0
        inner = Runner._compute

        def compute(runner: Runner, batch: Any) -> None:
            self.begun += 1
            assert self.open.wait(PATIENCE)
            inner(runner, batch)

        monkeypatch.setattr(Runner, "_compute", compute)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    found = Held(monkeypatch)
    yield found
    found.open.set()


def test_threads_take_short_turns_while_a_server_runs(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertonnx.runtime.options import LoadOptions
    from bertonnx.runtime.serving import server

    before, turns = sys.getswitchinterval(), []

    async def served(*_: Any) -> None:
        turns.append(sys.getswitchinterval())

    monkeypatch.setattr(server, "served", served)
    server.run({"mini": paths["mini"]}, LoadOptions(), ServeOptions(port=0))
    assert turns == [pytest.approx(0.001)]
    assert sys.getswitchinterval() == before


def test_a_full_queue_says_when_to_come_again(paths: dict[str, Path], held: Held) -> None:
    import httpx

    with (
        serving({"mini": paths["mini"]}, max_queue=4) as running,
        httpx.Client(base_url=running.url, timeout=PATIENCE) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        # One that is larger than the queue is let in where nothing waits.
        first = pool.submit(client.post, "/embed", json={"inputs": [f"text {number}" for number in range(9)]})
        until(lambda: held.begun > 0)
        for path in ("/embed", "/v1/embeddings"):
            refused = client.post(path, json={"inputs": "a", "input": "a"})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert int(refused.headers["retry-after-ms"]) >= 100
        assert client.post("/embed", json={"inputs": "a"}).json()["error_type"] == "Overloaded"
        assert client.get("/health").status_code == 200
        held.open.set()
        assert len(first.result(PATIENCE).json()) == 9
        several = [pool.submit(client.post, "/embed", json={"inputs": ["a", "b"]}) for _ in range(2)]
        assert [one.result(PATIENCE).status_code for one in several] == [200, 200]


def test_texts_of_clients_that_left_are_dropped(paths: dict[str, Path], held: Held) -> None:
    import httpx

    with (
        serving({"mini": paths["mini"]}, threads=1) as running,
        httpx.Client(base_url=running.url, timeout=PATIENCE) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.post, "/embed", json={"inputs": "a"})
        until(lambda: held.begun == 1)
        body = json.dumps({"inputs": [f"{'word ' * number}" for number in range(1, 40)]}).encode()
        head = b"POST /embed HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
        gone = 'bertonnx_requests_total{endpoint="/embed",model="mini",status="499"} 1.0'
        with socket.create_connection(("127.0.0.1", running.port), PATIENCE) as connection:
            connection.sendall(head + body)
            until(lambda: 'bertonnx_queue_texts{model="mini"} 40.0' in client.get("/metrics").text)
        until(lambda: gone in client.get("/metrics").text)
        assert 'bertonnx_queue_texts{model="mini"} 1.0' in client.get("/metrics").text
        held.open.set()
        assert first.result(PATIENCE).status_code == 200
        assert held.begun == 1


def test_nothing_is_computed_for_who_has_left_already(
    paths: dict[str, Path], held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    from bertonnx.runtime.serving import listening
    from bertonnx.runtime.serving.app import LEFT

    inner = listening._Protocol.on_headers_complete

    def on_headers_complete(protocol: Any) -> None:
        inner(protocol)
        assert callable(protocol.scope[LEFT])
        assert not protocol.scope[LEFT]()
        if b"x-gone" in dict(protocol.scope["headers"]):
            protocol.scope[LEFT] = lambda: True

    monkeypatch.setattr(listening._Protocol, "on_headers_complete", on_headers_complete)
    with (
        serving({"mini": paths["mini"]}) as running,
        httpx.Client(base_url=running.url, timeout=PATIENCE) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.post, "/embed", json={"inputs": "a"})
        until(lambda: held.begun == 1)
        # In truth there is nobody to get it.
        assert client.post("/embed", json={"inputs": "b c"}, headers={"x-gone": "1"}).status_code == 500
        gone = 'bertonnx_requests_total{endpoint="/embed",model="",status="499"} 1.0'
        assert gone in client.get("/metrics").text
        held.open.set()
        assert first.result(PATIENCE).status_code == 200
        assert held.begun == 1


def test_what_is_under_way_is_answered_at_the_end(paths: dict[str, Path], held: Held) -> None:
    import httpx

    with (
        serving({"mini": paths["mini"]}) as running,
        httpx.Client(base_url=running.url, timeout=PATIENCE) as client,
        ThreadPoolExecutor(1) as pool,
        socket.create_connection(("127.0.0.1", running.port), PATIENCE) as half,
    ):
        assert client.get("/ready").status_code == 200
        half.sendall(b"POST /embed HTTP/1.1\r\nhost: a\r\ncontent-length: 99\r\n\r\n{")
        first = pool.submit(client.post, "/embed", json={"inputs": "a"})
        until(lambda: held.begun == 1)
        running.signalled(signal.SIGTERM)
        until(lambda: httpx.get(f"{running.url}/ready").status_code == 503)
        refused = httpx.post(f"{running.url}/v1/embeddings", json={"input": "a"})
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert httpx.get(f"{running.url}/health").status_code == 200
        assert half.recv(65_536).startswith(b"HTTP/1.1 503")
        held.open.set()
        assert first.result(PATIENCE).status_code == 200
        running.ended.result(PATIENCE)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{running.url}/health")


def test_models_share_the_cores(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = [0], [0], threading.Lock()
    inner = Runner._compute

    def compute(runner: Runner, batch: Any) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        try:
            inner(runner, batch)
        finally:
            with lock:
                running[0] -= 1

    monkeypatch.setattr(Runner, "_compute", compute)
    import httpx

    with serving({"mini": paths["mini"], "mood": paths["mood"]}, threads=1) as server:
        texts = [f"{'word ' * (number % 30)}" for number in range(300)]

        def ask(path: str) -> int:
            answer = httpx.post(server.url + path, json={"inputs": texts}, timeout=PATIENCE)
            return int(answer.status_code)

        with ThreadPoolExecutor(6) as pool:
            bodies = ["/embed", "/models/mood/"] * 6
            assert set(pool.map(ask, bodies)) == {200}
    assert most[0] == 1


def test_a_model_that_fails_for_one_text_answers_the_others(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertonnx.errors import InferenceError

    inner = Runner._compute

    def compute(runner: Runner, batch: Any) -> None:
        if any(len(slot.piece.ids) == 7 for slot in batch.slots):
            raise InferenceError("boom")
        inner(runner, batch)

    monkeypatch.setattr(Runner, "_compute", compute)
    import httpx

    with (
        serving({"mini": paths["mini"]}) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE) as client,
        bertonnx.load(paths["mini"], "cpu", 1) as model,
    ):
        bad = next(
            text
            for text in ("a " * n for n in range(1, 9))
            if len(model.tokenize([text])[0].pieces[0].ids) == 7
        )
        refused = client.post("/embed", json={"inputs": ["a", bad]})
        assert (refused.status_code, refused.json()["error_type"]) == (424, "Backend")
        assert client.post("/embed", json={"inputs": ["a"]}).status_code == 200
        answer = client.post("/v1/predict", json={"texts": ["a", bad]}).json()["results"]
        assert ["error" in one for one in answer] == [False, True]


def test_answers_that_nobody_reads_are_dropped(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertonnx.runtime.serving import listening

    monkeypatch.setattr(listening, "_STUCK_SECONDS", 0.05)
    # Megabytes of tokens: more than the system itself keeps for a connection.
    body = json.dumps({"inputs": "a " * 200_000}).encode()
    head = b"POST /tokenize HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
    lost = threading.Event()
    ended = listening._Protocol.connection_lost

    def connection_lost(protocol: Any, error: Exception | None) -> None:
        ended(protocol, error)
        lost.set()

    monkeypatch.setattr(listening._Protocol, "connection_lost", connection_lost)
    with serving({"mini": paths["mini"]}) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(head + body)
        assert lost.wait(PATIENCE)
        connection.settimeout(PATIENCE)
        found = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    wanted = int(found.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    assert len(found) < wanted


# The command.


def started(*arguments: object, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bertonnx", "serve", *map(str, arguments), "--provider", "cpu"]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **variables}
    )


def test_the_command_listens_and_ends_with_code_0(paths: dict[str, Path]) -> None:
    import httpx

    process = started(
        f"mini={paths['mini']}", "--port", 0, BERTONNX_API_KEY="one, two", BERTONNX_MAX_QUEUE="7"
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line + process.stderr.read()
        url = line.split()[-1]
        assert httpx.get(f"{url}/info").status_code == 401
        headers = {"authorization": "Bearer two", "x-request-id": "mine"}
        assert httpx.get(f"{url}/info", headers=headers).json()["max_client_batch_size"] == 7
        httpx.post(f"{url}/embed", json={"inputs": "a secret text"}, headers=headers)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "")
    lines = [json.loads(one) for one in err.splitlines()]
    assert [(one["path"], one["status"]) for one in lines] == [
        ("/info", 401),
        ("/info", 200),
        ("/embed", 200),
    ]
    assert (lines[2]["id"], lines[2]["model"], lines[2]["texts"]) == ("mine", "mini", 1)
    assert "secret" not in err
    assert "two" not in err


def test_two_models_of_one_name_are_wrong_usage(paths: dict[str, Path]) -> None:
    process = started(f"a={paths['mini']}", f"a={paths['mood']}")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "two models are called a" in err


def test_names_of_models() -> None:
    assert list(named_paths(["a/b.onnx", "x=c/d.onnx", "e"])) == ["b", "x", "e"]
    assert list(named_paths({"org/name": "f.onnx"})) == ["org/name"]
    for wrong in (
        [],
        ["=a.onnx"],
        ["a?b=c"],
        ["..=a"],
        ["/a=b"],
        ["a\n=b"],
        ["x.onnx", "y/x.onnx"],
        ["a//b=c"],
    ):
        with pytest.raises(UsageError):
            named_paths(wrong)


def test_a_file_with_a_sign_in_its_name_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a=b.onnx").touch()
    monkeypatch.chdir(tmp_path)
    assert named_paths(["a=b.onnx"]) == {"a=b": Path("a=b.onnx")}


def test_what_cannot_be_served_is_said_before_anything_listens(
    tmp_path: Path, paths: dict[str, Path]
) -> None:
    with pytest.raises(ModelFileError):
        bertonnx.serve([tmp_path / "absent.onnx"], port=0)
    taken = socket.create_server(("127.0.0.1", 0))
    with contextlib.closing(taken), pytest.raises(ServerError, match="port"):
        bertonnx.serve([paths["mini"]], port=taken.getsockname()[1])
    for wrong in ({"port": -1}, {"port": 70_000}, {"max_queue": 0}, {"max_body": 0}, {"cors": [""]}):
        with pytest.raises(UsageError):
            bertonnx.serve([paths["mini"]], **wrong)
    with pytest.raises(ServerError):
        bertonnx.serve([paths["mini"]], host="no such host")


@pytest.mark.parametrize("given", [",", " ", " , ,"])
def test_a_variable_without_a_key_opens_no_server(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("BERTONNX_API_KEY", given)
    with pytest.raises(UsageError, match="BERTONNX_API_KEY holds no key"):
        bertonnx.serve([paths["mini"]], port=0)
    with pytest.raises(UsageError, match="one of api_keys is empty"):
        bertonnx.serve([paths["mini"]], port=0, api_keys=["one", ""])


def test_the_keys_of_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTONNX_API_KEY", "")
    assert keys_of_environment() == []
    monkeypatch.setenv("BERTONNX_API_KEY", " one,,two ")
    assert keys_of_environment() == ["one", "two"]


def test_options_show_no_keys() -> None:
    assert "hidden" not in repr(ServeOptions(api_keys=("hidden",)))


def test_a_second_signal_ends_it_at_once(paths: dict[str, Path]) -> None:
    code = (
        "import sys, time, threading\n"
        "from bertonnx.runtime.engine.running import Runner\n"
        "Runner._compute = lambda runner, batch: time.sleep(600)\n"
        "import bertonnx\n"
        f"bertonnx.serve([{str(paths['mini'])!r}], port=0, provider='cpu')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        port = int(process.stderr.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            body = b'{"inputs": "a"}'
            connection.sendall(
                b"POST /embed HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            running = b'bertonnx_running_batches{model="model"} 1.0'
            until(lambda: running in asked(port, b"/metrics"))
            process.send_signal(signal.SIGTERM)
            until(lambda: b" 503 " in asked(port, b"/ready")[:20])
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 128 + signal.SIGINT
    finally:
        process.kill()
        process.communicate()


def asked(port: int, path: bytes) -> bytes:
    from tests.serving import exchanged

    return exchanged(port, b"GET " + path + b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")


def test_a_loop_that_has_ended_is_no_fault_of_a_model() -> None:
    from bertonnx.runtime.serving.bell import Bell

    loop = asyncio.new_event_loop()
    bell, future = Bell(loop), loop.create_future()
    loop.close()
    bell.ring(future)
    assert not future.done()
