"""What operators and browsers ask for: health, metrics, the page, the description of the interface."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from bertonnx.runtime.serving.call import Call
from bertonnx.runtime.serving.errors import RefusedError
from bertonnx.runtime.serving.http import Response, as_json
from bertonnx.runtime.serving.openapi import description

if TYPE_CHECKING:
    from bertonnx.runtime.serving.metrics import Metrics

__all__ = ["health", "metrics", "openapi", "page", "ready"]

_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""The page's own script and style, by their digests, and this server: nothing else is run, shown or asked."""


async def health(call: Call) -> Response:  # noqa: ARG001
    """`GET /health`: the process answers."""
    return as_json({"status": "ok"})


async def ready(call: Call) -> Response:
    """`GET /ready`: it takes requests; 503 once it is about to end."""
    if call.state.draining:
        raise RefusedError("unhealthy", "the server is about to end")
    return as_json({"status": "ready"})


async def metrics(counted: Metrics, call: Call) -> Response:
    """`GET /metrics`, in Prometheus' text format."""
    # The first who asks waits for the import of what writes it, and nobody else does.
    return Response(await call.apart(counted.text), kind=b"text/plain; version=0.0.4; charset=utf-8")


async def openapi(call: Call) -> Response:
    """`GET /openapi.json`."""
    return as_json(description([served.name for served in call.fleet]))


async def page(call: Call) -> Response:  # noqa: ARG001
    """`GET /`: the page for people."""
    content, policy = _page()
    return Response(
        content,
        kind=b"text/html; charset=utf-8",
        headers=[
            (b"content-security-policy", policy),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cache-control", b"no-cache"),
        ],
    )


@cache
def _page() -> tuple[bytes, bytes]:
    """Return the page, and what a browser may do with it."""
    content = resources.files("bertonnx.runtime.serving").joinpath("page.html").read_bytes()
    return content, _POLICY.format(
        script=_digest(content, b"script"), style=_digest(content, b"style")
    ).encode()


def _digest(content: bytes, tag: bytes) -> str:
    """Return what a policy calls the one inline script or style of a page."""
    inner = content.partition(b"<%s>" % tag)[2].partition(b"</%s>" % tag)[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(inner).digest()).decode()}'"
