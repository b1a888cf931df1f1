"""Which handler a path has. A table of exact paths, since to try forty patterns costs more than an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from bertonnx.runtime.serving import hugging_face, kserve, openai, operations, rerank, tei, wire
from bertonnx.runtime.serving.call import Call
from bertonnx.runtime.serving.errors import RefusedError
from bertonnx.runtime.serving.fleet import Fleet
from bertonnx.runtime.serving.http import Response
from bertonnx.runtime.serving.metrics import Metrics
from bertonnx.runtime.serving.served import Served

__all__ = ["Found", "Handler", "Route", "Routes"]

Handler = Callable[[Call], Awaitable[Response]]

_PREFIX, _KSERVE = "/models/", "/v2/models/"


@dataclass(frozen=True)
class Route:
    """What answers a path.

    Attributes:
        path: the path; "{model}" in it is only a name for people.
        handlers: by the method of HTTP.
        dialect: how refusals are told.
        open: whether it can be had without a key.
    """

    path: str
    handlers: Mapping[str, Handler]
    dialect: str
    open: bool = False


@dataclass(frozen=True)
class Found:
    """What a request's path led to.

    Attributes:
        label: the path as it is known here.
        dialect: how refusals are told.
        handler: what answers; None where there is a refusal.
        named: the model that the path names.
        path: what follows it.
        open: whether it can be had without a key.
        reads: whether the request has a body.
        refusal: why nothing answers.
    """

    label: str
    dialect: str
    handler: Handler | None = None
    named: Served | None = None
    path: str = ""
    open: bool = False
    reads: bool = False
    refusal: RefusedError | None = None


class Routes:
    """All paths.

    Args:
        fleet: the models, which paths may name.
        metrics: for their page.
    """

    def __init__(self, fleet: Fleet, metrics: Metrics) -> None:
        self._fleet = fleet
        self._routes = {route.path: route for route in _table(metrics)}
        self._model = self._routes[f"{_KSERVE}{{model}}"]
        self._known: dict[str, Found] = {}

    def find(self, method: str, path: str) -> Found:
        """Return what answers a path, or why nothing does."""
        named: Served | None = None
        rest = path
        if path.startswith(_PREFIX):
            found = self._fleet.for_path(path[len(_PREFIX) :])
            if found is None:
                unknown = RefusedError("unknown_model", "there is no model of the name in this path", "model")
                return Found("unknown", _dialect(path), refusal=unknown)
            named, rest = found
        route = self._routes.get(rest)
        if route is not None:
            return _found(route, method, named, rest)
        if rest.startswith(_KSERVE):
            return self._of_kserve(method, rest)
        if rest.startswith("/v1/models/"):
            return _found(self._routes["/v1/models/{model}"], method, named, rest)
        return Found(
            "unknown", _dialect(rest), refusal=RefusedError("unknown_path", "there is no such path here")
        )

    def _of_kserve(self, method: str, path: str) -> Found:
        found = self._fleet.for_path(path[len(_KSERVE) :])
        if found is None:
            unknown = RefusedError("unknown_model", "there is no model of the name in this path", "model")
            return Found("unknown", "kserve", refusal=unknown)
        served, rest = found
        # There is one version of a model, and clients may name it.
        rest = rest.removeprefix("/versions/1") or "/"
        route = self._routes.get(f"{_KSERVE}{{model}}{'' if rest == '/' else rest}")
        if route is None:
            return Found(
                "unknown", "kserve", refusal=RefusedError("unknown_path", "there is no such path here")
            )
        return _found(route, method, served, rest)


def _found(route: Route, method: str, named: Served | None, path: str) -> Found:
    handler = route.handlers.get("GET" if method == "HEAD" else method)
    if handler is None:
        allowed = ", ".join(sorted({*route.handlers, *({"HEAD"} if "GET" in route.handlers else ())}))
        refusal = RefusedError(
            "method", f"this path takes {allowed}", headers=((b"allow", allowed.encode()),)
        )
        return Found(route.path, route.dialect, refusal=refusal)
    # Of `/`, people may see the page without a key, and nothing else.
    is_open = route.open and method in ("GET", "HEAD")
    return Found(route.path, route.dialect, handler, named, path, is_open, method == "POST")


def _dialect(path: str) -> str:
    return "kserve" if path.startswith("/v2/models") or path == "/v2" else "openai"


def _get(path: str, handler: Handler, dialect: str = "openai", *, open: bool = False) -> Route:
    return Route(path, {"GET": handler}, dialect, open)


def _post(path: str, handler: Handler, dialect: str) -> Route:
    return Route(path, {"POST": handler}, dialect)


def _table(metrics: Metrics) -> tuple[Route, ...]:
    return (
        Route("/", {"GET": operations.page, "POST": hugging_face.by_task}, "tei", open=True),
        _get("/health", operations.health, open=True),
        _get("/ready", operations.ready, open=True),
        _get("/metrics", partial(operations.metrics, metrics)),
        _get("/openapi.json", operations.openapi),
        _post("/v1/embeddings", openai.embeddings, "openai"),
        _get("/v1/models", openai.models),
        _get("/v1/models/{model}", openai.model),
        _post("/v1/predict", wire.predict, "own"),
        _post("/embed", tei.embed, "tei"),
        _post("/embed_all", tei.embed_all, "tei"),
        _post("/similarity", tei.similarity, "tei"),
        _post("/embed_sparse", tei.embed_sparse, "tei"),
        _post("/predict", tei.predict, "tei"),
        _post("/tokenize", tei.tokenize, "tei"),
        _post("/decode", tei.decode, "tei"),
        _get("/info", tei.info, "tei"),
        _post("/rerank", rerank.either, "tei"),
        _post("/v1/rerank", rerank.cohere, "cohere"),
        _post("/v2/rerank", rerank.cohere, "cohere"),
        _get("/v2", kserve.server, "kserve"),
        _get("/v2/health/live", kserve.live, "kserve", open=True),
        _get("/v2/health/ready", kserve.ready, "kserve", open=True),
        _get("/v2/models/{model}", kserve.metadata, "kserve"),
        _get("/v2/models/{model}/ready", kserve.model_ready, "kserve"),
        _post("/v2/models/{model}/infer", kserve.infer, "kserve"),
    )
