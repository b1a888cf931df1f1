"""What is counted, for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

    from bertonnx.runtime.serving.call import Call
    from bertonnx.runtime.serving.served import Served

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

_BY = ("model", "endpoint")


@dataclass
class _Times:
    """How often something took how long, by the least of `_SECONDS` that is not shorter."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_SECONDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """What Prometheus calls so: for each bound, how many were at most as long."""
        names = [*map(str, _SECONDS), "+Inf"]
        return [(name, float(count)) for name, count in zip(names, accumulate(self.counts), strict=True)]


@dataclass
class _Endpoint:
    """What is counted of one path of one model."""

    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    request: _Times = field(default_factory=_Times)
    tokenizing: _Times = field(default_factory=_Times)
    queue: _Times = field(default_factory=_Times)
    model: _Times = field(default_factory=_Times)


_COUNTERS: Mapping[str, tuple[str, Callable[[_Endpoint], int]]] = {
    "bertonnx_texts": ("Texts that were answered.", lambda one: one.texts),
    "bertonnx_tokens": ("Tokens of these texts.", lambda one: one.tokens),
    "bertonnx_truncated": ("Texts that were cut.", lambda one: one.truncated),
}

_TIMES: Mapping[str, tuple[str, Callable[[_Endpoint], _Times]]] = {
    "bertonnx_request_seconds": ("From the request to its answer.", lambda one: one.request),
    "bertonnx_tokenizing_seconds": ("Making tokens of texts.", lambda one: one.tokenizing),
    "bertonnx_queue_seconds": (
        "Until the first of a request's texts was computed.",
        lambda one: one.queue,
    ),
    "bertonnx_model_seconds": ("From then until all of them were.", lambda one: one.model),
}


class Metrics:
    """Counters of one server; several servers in a process have their own.

    They are plain numbers, which the event loop alone changes: those of prometheus_client take a lock each,
    for each request, and its import takes a tenth of the server's start. It writes them, when they are asked
    for.

    Args:
        models: the models.
    """

    def __init__(self, models: Iterable[Served]) -> None:
        self._models = list(models)
        self._requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._failures: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._endpoints: defaultdict[tuple[str, str], _Endpoint] = defaultdict(_Endpoint)

    def note(self, label: str, status: int, seconds: float, call: Call | None, problem: str) -> None:
        """Count a request.

        Args:
            label: its path, as it is known here.
            status: of the response; 499 where the client left before.
            seconds: how long it took.
            call: what the handler was given, if it came so far.
            problem: why it was refused; "" where it was not.
        """
        model = call.served.name if call is not None and call.served is not None else ""
        self._requests[model, label, status] += 1
        counted = self._endpoints[model, label]
        counted.request.add(seconds)
        if problem:
            self._failures[model, label, problem] += 1
        if call is None or not call.took.texts:
            return
        took = call.took
        counted.texts += took.texts
        counted.tokens += took.tokens
        counted.truncated += took.truncated
        counted.tokenizing.add(took.tokenizing)
        counted.queue.add(took.queued)
        counted.model.add(took.computing)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format; from any thread."""
        from prometheus_client import generate_latest

        # It asks for no more of a registry than this method.
        text: bytes = generate_latest(self)  # type: ignore[arg-type, unused-ignore]
        return text

    def collect(self) -> Iterator[Metric]:
        """Yield all of it in prometheus_client's terms."""
        yield from self._counters()
        yield from self._times()
        yield from self._engines()

    def _counters(self) -> Iterator[CounterMetricFamily]:
        from prometheus_client.core import CounterMetricFamily

        requests = CounterMetricFamily(
            "bertonnx_requests", "Requests that were answered.", labels=(*_BY, "status")
        )
        # Copies: the loop adds to them meanwhile.
        for (model, label, status), count in list(self._requests.items()):
            requests.add_metric((model, label, str(status)), count)
        failures = CounterMetricFamily(
            "bertonnx_failures", "Requests that were refused.", labels=(*_BY, "problem")
        )
        for by, count in list(self._failures.items()):
            failures.add_metric(by, count)
        yield from (requests, failures)
        for name, (says, of) in _COUNTERS.items():
            family = CounterMetricFamily(name, says, labels=_BY)
            for place, counted in list(self._endpoints.items()):
                family.add_metric(place, of(counted))
            yield family

    def _times(self) -> Iterator[HistogramMetricFamily]:
        from prometheus_client.core import HistogramMetricFamily

        for name, (says, of) in _TIMES.items():
            family = HistogramMetricFamily(name, says, labels=_BY)
            for place, counted in list(self._endpoints.items()):
                family.add_metric(place, of(counted).buckets, of(counted).total)
            yield family

    def _engines(self) -> Iterator[Metric]:
        """Yield what the engines count by themselves."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        waiting = GaugeMetricFamily("bertonnx_queue_texts", "Texts that wait or run.", labels=["model"])
        running = GaugeMetricFamily("bertonnx_running_batches", "Batches under way.", labels=["model"])
        sizes = HistogramMetricFamily("bertonnx_batch_size", "Texts in a batch.", labels=["model"])
        tokens = CounterMetricFamily("bertonnx_batch_tokens", "Tokens in all batches.", labels=["model"])
        for served in self._models:
            counters, by = served.model.engine.counters, [served.name]
            waiting.add_metric(by, served.admission.waiting)
            running.add_metric(by, counters.running)
            tokens.add_metric(by, counters.tokens)
            sizes.add_metric(by, _buckets(counters.sizes), counters.pieces)
        yield from (waiting, running, sizes, tokens)


def _buckets(sizes: tuple[int, ...]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for place, batches in enumerate(sizes[:-1]):
        total += batches
        buckets.append((f"{float(1 << place)}", float(total)))
    return [*buckets, ("+Inf", float(total + sizes[-1]))]
