"""A stand-in for the Hugging Face Hub on localhost: enough of its HTTP API for huggingface_hub.

Used through HF_ENDPOINT, which huggingface_hub reads when it is imported; so the product runs in a
process of its own, with its own cache folder: see `run_against`.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["COMMIT", "FakeHub", "Repo", "environment_for", "files_of", "run_against", "serving"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """One model. `revisions` maps branch, tag or commit to a commit; `commits` a commit to its files."""

    commits: dict[str, dict[str, bytes]]
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    gated: bool = False
    private: bool = False


@dataclass
class FakeHub:
    """The models that are served, and every request that came in: (method, path, user agent)."""

    repos: dict[str, Repo]
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    endpoint: str = ""
    down: bool = False

    def downloads(self) -> list[str]:
        """Names of the files whose bytes were fetched."""
        fetched = [path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]
        return [path.split("/resolve/")[1].split("/", 1)[1] for path in fetched]


def files_of(folder: Path) -> dict[str, bytes]:
    """Return a folder's files as a commit's files."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def serving(repos: Mapping[str, Repo]) -> Iterator[FakeHub]:
    """Serve models on a free port of localhost while the block runs."""
    hub = FakeHub(dict(repos))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment_for(endpoint: str, home: Path) -> dict[str, str]:
    """Return the environment of a process that uses this Hub and this cache folder."""
    # Nor the name of the test, or no two environments would be equal.
    left = ("HF_", "HUGGING", "PYTEST_CURRENT_TEST")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(left)}
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    return {**clean, **settings}


def run_against(
    endpoint: str, home: Path, code: str, *, environment: Mapping[str, str] | None = None
) -> tuple[Any, str]:
    """Run Python code in a process of its own with this Hub and this cache.

    Such processes are forks of one that was started with the same environment, and has imported what takes
    longer than what they do: so ask for few Hubs and caches. HF_TOKEN, which is read at each use, may differ.

    Returns:
        What it printed as its last line, read as JSON, and its standard error.
    """
    variables = {**environment_for(endpoint, home), **(environment or {})}
    own = {name: variables.pop(name) for name in ("HF_TOKEN",) if name in variables}
    with tempfile.TemporaryDirectory() as place:
        out, err = (Path(place) / name for name in ("out", "err"))
        job = {"code": code, "environment": own, "files": [str(out), str(err)]}
        process = _forking(tuple(sorted(variables.items())))
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(job), file=process.stdin, flush=True)
        assert select.select([process.stdout], [], [], 300)[0], code
        assert process.stdout.readline() == "0\n", err.read_text(encoding="utf-8")
        said = err.read_text(encoding="utf-8")
        return json.loads(out.read_text(encoding="utf-8").splitlines()[-1]), said


_FORKING = """
import json, os, sys, traceback
import torch
assert "huggingface_hub" not in sys.modules
from bertonnx.exporters.checkpoint import hub, source
hub._huggingface_hub()
from transformers import AutoConfig
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        for number, file in enumerate(job["files"], 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        os.environ.update(job["environment"])
        status = 1
        try:
            exec(compile(job["code"], "<string>", "exec"), {"__name__": "__main__"})
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@cache
def _forking(environment: tuple[tuple[str, str], ...]) -> subprocess.Popen[str]:
    """Return a process that runs the code of each line that it is given in a fork of itself."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _FORKING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(environment),
    )
    atexit.register(process.communicate)
    return process


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing; the requests are recorded."""

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path).lstrip("/")
            hub.requests.append((self.command, path, self.headers.get("User-Agent", "")))
            status, headers, body = _respond(hub, path, self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    return Handler


_Response = tuple[int, dict[str, str], bytes]


def _respond(hub: FakeHub, path: str, authorization: str | None) -> _Response:
    if hub.down:
        return 503, {}, b"down for maintenance"
    if path.startswith("api/models/"):
        return _model_info(hub, path.removeprefix("api/models/"), authorization)
    if "/resolve/" in path:
        return _file(hub, path, authorization)
    return _failure(404, "EntryNotFound", "no such page")


def _model_info(hub: FakeHub, path: str, authorization: str | None) -> _Response:
    name, _, revision = path.partition("/tree/" if "/tree/" in path else "/revision/")
    repo = hub.repos.get(name)
    if repo is None or (repo.private and authorization is None):
        # The Hub does not tell a missing model from a private one.
        return _failure(401, "RepoNotFound", "Repository not found")
    commit = _commit(repo, revision or "main")
    if commit is None:
        return _failure(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    if "/tree/" in path:
        return 200, {"Content-Type": "application/json"}, json.dumps(_tree(repo.commits[commit])).encode()
    info = {
        "_id": "1",
        "id": name,
        "modelId": name,
        "sha": commit,
        "private": repo.private,
        "gated": "auto" if repo.gated else False,
        "tags": [],
        "siblings": [{"rfilename": file} for file in sorted(repo.commits[commit])],
    }
    return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()


def _tree(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
        for path, body in sorted(files.items())
    ]


def _file(hub: FakeHub, path: str, authorization: str | None) -> _Response:
    name, _, rest = path.partition("/resolve/")
    revision, _, file = rest.partition("/")
    repo = hub.repos.get(name)
    if repo is None:
        return _failure(401, "RepoNotFound", "Repository not found")
    if repo.gated and authorization is None:
        return _failure(401, "GatedRepo", f"Access to model {name} is restricted.")
    commit = _commit(repo, revision)
    if commit is None:
        return _failure(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    body = repo.commits[commit].get(file)
    if body is None:
        return _failure(404, "EntryNotFound", "Entry not found")
    etag = hashlib.sha1(body).hexdigest()
    return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "none"}, body


def _commit(repo: Repo, revision: str) -> str | None:
    return revision if revision in repo.commits else repo.revisions.get(revision)


def _failure(status: int, code: str, message: str) -> _Response:
    return status, {"X-Error-Code": code, "X-Error-Message": message}, b""
