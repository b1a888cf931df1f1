"""Spans of OpenTelemetry, where its SDK is installed. Where they go is what its own variables say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertonnx.runtime.serving.call import Call

__all__ = ["Tracing"]


class Tracing:
    """Makes a span for each request that has a handler."""

    def __init__(self) -> None:
        self._tracer: Any = None
        self._extract: Any = None
        # The interface alone, which other packages bring along, makes no spans.
        if _installed("opentelemetry.sdk"):
            from opentelemetry import propagate, trace

            self._tracer, self._extract = trace.get_tracer("bertonnx"), propagate.extract

    @contextmanager
    def span(self, headers: Mapping[bytes, bytes], label: str, call: Call) -> Iterator[None]:
        """Let what the block does be a span; with no SDK, nothing.

        Args:
            headers: of the request, which may say whose span this one is in.
            label: its name.
            call: what it took is noted at its end; no text is.
        """
        if self._tracer is None:
            yield
            return
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
        with self._tracer.start_as_current_span(
            label, context=self._extract(carrier), record_exception=False
        ) as span:
            try:
                yield
            finally:
                took = call.took
                span.set_attributes(
                    {
                        "bertonnx.model": call.served.name if call.served is not None else "",
                        "bertonnx.texts": took.texts,
                        "bertonnx.tokens": took.tokens,
                        "bertonnx.truncated": took.truncated,
                        "bertonnx.tokenizing_seconds": took.tokenizing,
                        "bertonnx.queue_seconds": took.queued,
                        "bertonnx.model_seconds": took.computing,
                    }
                )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
