"""One server for the tests of this folder, with a tiny model of each task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import bertonnx

for _package in ("httpx", "uvicorn", "httptools", "orjson", "prometheus_client", "starlette"):
    pytest.importorskip(_package, reason="the server's packages are those of the extra `serve`")

if TYPE_CHECKING:
    import httpx

    from tests.serving import Running

NAMES = {
    "feature-extraction": "mini",
    "text-classification": "mood",
    "text-ranking": "ranker",
    "token-classification": "names",
    "question-answering": "reader",
    "fill-mask": "filler",
    "sparse-embedding": "sparse",
    "multi-vector": "late",
}


@pytest.fixture(scope="session")
def paths(exported: dict[str, Path]) -> dict[str, Path]:
    return {NAMES[task]: path for task, path in exported.items()}


@pytest.fixture(scope="session")
def server(paths: dict[str, Path]) -> Iterator[Running]:
    from tests.serving import serving

    with serving(paths) as running:
        yield running


@pytest.fixture(scope="session")
def local(paths: dict[str, Path]) -> Iterator[Mapping[str, bertonnx.Model]]:
    """The same models, in this process."""
    models = {name: bertonnx.load(path, "cpu", 1) for name, path in paths.items()}
    yield models
    for model in models.values():
        model.close()


@pytest.fixture(scope="session")
def http(server: Running) -> Iterator[httpx.Client]:
    import httpx

    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
def posted(http: httpx.Client) -> Any:
    """Return what posts JSON and returns status and answer."""

    def post(path: str, body: Any, **more: Any) -> tuple[int, Any]:
        answer = http.post(path, json=body, **more)
        return answer.status_code, answer.json()

    return post
