"""The servers that are compared: ours, infinity-emb, and Sentence-Transformers behind FastAPI."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common import minilm, say
from serve.load import Loaded, Plan

__all__ = ["PEERS", "Peer", "Server", "load", "serving", "serving_peer", "start_load"]

READY_SECONDS = 180.0

_LAST_SECONDS = 120.0
"""For a client to end, once its time is over."""

_HERE = Path(__file__).resolve().parent

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
}

_FASTAPI = """
# As tutorials and answers to "how do I serve an embedding model" have it.
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
model = SentenceTransformer(sys.argv[1], device="cpu")


class Request(BaseModel):
    input: str | list[str]


@app.get("/health")
def health():
    return {"status": "ok"}


@app.post("/embed")
def embed(request: Request):
    texts = [request.input] if isinstance(request.input, str) else request.input
    return {"embeddings": model.encode(texts).tolist()}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
"""


@dataclass(frozen=True)
class Peer:
    """Another server.

    Attributes:
        name: what the table calls it.
        packages: those of its environment, the first alone.
        command: `(python, port)`: what starts it.
        path: where it embeds texts.
        body: `(text)`: the body of a request.
    """

    name: str
    packages: tuple[str, ...]
    command: Callable[[Path, int], list[str]]
    path: str
    body: Callable[[str], str]


def _infinity(python: Path, port: int) -> list[str]:
    # Its other engine, of ONNX Runtime, opens no local folder.
    line = [str(python.with_name("infinity_emb")), "v2", "--model-id", str(minilm()), "--engine", "torch"]
    line += ["--device", "cpu", "--port", str(port), "--host", "127.0.0.1", "--url-prefix", "/v1"]
    # Its BetterTransformer is gone from newer versions of optimum, and is for GPUs.
    return [*line, "--no-bettertransformer", "--served-model-name", "minilm", "--log-level", "warning"]


def _openai(text: str) -> str:
    return json.dumps({"input": text, "model": "minilm", "encoding_format": "base64"})


_INFINITY = (
    "torch==2.13.0",
    "infinity-emb[torch,server,optimum]==0.0.78",
    "transformers<4.49",
    "optimum<1.26",
    "pyarrow<22",
)

PEERS = (
    Peer("infinity-emb", _INFINITY, _infinity, "/v1/embeddings", _openai),
    Peer(
        "Sentence-Transformers behind FastAPI",
        ("torch==2.13.0", "sentence-transformers==5.7.*", "fastapi", "uvicorn[standard]"),
        lambda python, port: [str(python), "-c", _FASTAPI, str(minilm()), str(port)],
        "/embed",
        lambda text: json.dumps({"input": text}),
    ),
)


@dataclass
class Server:
    """A server that runs.

    Attributes:
        process: its process.
        port: that it listens on.
        started: seconds until it was ready.
        said: what it wrote on standard error, of which the last lines are kept.
    """

    process: subprocess.Popen[bytes]
    port: int
    started: float
    said: list[str] = field(default_factory=list)

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the server is gone")

    def cpu(self) -> float:
        """Return the processor time that it has taken, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def asked(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        """Return status and body of one answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()


@contextlib.contextmanager
def serving(*arguments: str | Path, code: str = "") -> Iterator[Server]:
    """Serve models with `bertonnx serve` for the time of the block, its log written to nowhere.

    Args:
        arguments: of the command.
        code: Python that runs before it in its process.
    """
    run = f"import sys\n{code}\nfrom bertonnx.__main__ import main\nmain()"
    command = [sys.executable, "-c", run] if code else [sys.executable, "-m", "bertonnx"]
    command += ["serve", *map(str, arguments), "--port", "0", "--provider", "cpu"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, **_OFFLINE})
    try:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        if not line.startswith("listening on "):
            raise RuntimeError(line + process.stderr.read().decode())
        server = Server(process, int(line.rpartition(":")[2]), time.perf_counter() - began)
        reader = threading.Thread(target=_keep, args=(process, server.said), daemon=True)
        reader.start()
        yield server
    finally:
        _ended(process)


def _keep(process: subprocess.Popen[bytes], lines: list[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line.decode())
        del lines[:-200]


@contextlib.contextmanager
def serving_peer(peer: Peer) -> Iterator[Server]:
    """Serve MiniLM with a peer for the time of the block."""
    python = _environment(peer.packages)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            peer.command(python, port), stdout=said, stderr=said, env={**os.environ, **_OFFLINE}
        )
        try:
            while not _answers(port):
                if process.poll() is not None or time.perf_counter() - began > READY_SECONDS:
                    said.seek(0)
                    raise RuntimeError(f"{peer.name} did not start:\n{said.read().decode()[-3000:]}")
                time.sleep(0.2)
            yield Server(process, port, time.perf_counter() - began)
        finally:
            _ended(process)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False


def _ended(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(packages: Sequence[str]) -> Path:
    """Return the interpreter of an environment with packages, built once."""
    name = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:12]
    base = os.environ.get("BERTONNX_SERVE_PEERS") or Path.home() / ".cache" / "bertonnx-serve-peers"
    folder = Path(base, name).resolve()
    python, mark = folder / "bin" / "python", folder / "complete"
    if not mark.is_file():
        say(f"installing {', '.join(packages)} into {folder}")
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        # torch first and alone: in one go pip may choose builds for GPUs, several gigabytes.
        subprocess.run([*pip, packages[0]], check=True)
        subprocess.run([*pip, *packages], check=True)
        mark.touch()
    return python


def load(server: Server, path: str, bodies: Sequence[str], **how: float) -> Loaded:
    """Load a server with the client of `load.py`, in a process of its own.

    Args:
        server: the server.
        path: of the requests.
        bodies: of them.
        how: fields of `Plan`.
    """
    longest = how.get("seconds", 4) + how.get("warm_up", 1) + _LAST_SECONDS
    with start_load(server, path, bodies, **how) as client:
        out, err = client.communicate(timeout=longest)
    if client.returncode:
        raise RuntimeError(f"the client failed:\n{err.decode()[-2000:]}")
    return Loaded.read(out.decode())


@contextlib.contextmanager
def start_load(
    server: Server, path: str, bodies: Sequence[str], **how: float
) -> Iterator[subprocess.Popen[bytes]]:
    """As `load`, while the block does something else."""
    plan = Plan(server.port, path, tuple(bodies), **how)  # type: ignore[arg-type]  # of JSON soon
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(asdict(plan), file)
        file.flush()
        client = subprocess.Popen(
            [sys.executable, str(_HERE / "load.py"), file.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield client
        finally:
            if client.poll() is None:
                client.kill()
                client.communicate()
