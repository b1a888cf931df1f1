"""What is counted, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bertonnx.runtime.serving.served import Served

if TYPE_CHECKING:
    from bertonnx.runtime.serving.call import Call

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one server; several servers in a process have their own.

    Args:
        models: the models.
    """

    def __init__(self, models: Iterable[Served]) -> None:
        self._registry = CollectorRegistry()
        by = ("model", "endpoint")
        self._requests = Counter(
            "bertonnx_requests", "Requests that were answered.", (*by, "status"), registry=self._registry
        )
        self._failures = Counter(
            "bertonnx_failures", "Requests that were refused.", (*by, "problem"), registry=self._registry
        )
        self._texts = Counter("bertonnx_texts", "Texts that were answered.", by, registry=self._registry)
        self._tokens = Counter("bertonnx_tokens", "Tokens of these texts.", by, registry=self._registry)
        self._truncated = Counter("bertonnx_truncated", "Texts that were cut.", by, registry=self._registry)
        self._seconds = {
            name: Histogram(f"bertonnx_{name}_seconds", says, by, registry=self._registry, buckets=_SECONDS)
            for name, says in (
                ("request", "From the request to its answer."),
                ("tokenizing", "Making tokens of texts."),
                ("queue", "Until the first of a request's texts was computed."),
                ("model", "From then until all of them were."),
            )
        }
        self._registry.register(_Engines(list(models)))
        # `labels` takes a lock and builds a key, for each of eight counters of each request.
        self._of_request = lru_cache(maxsize=256)(self._make)

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
        counted = self._of_request(model, label, status)
        counted["requests"].inc()
        counted["request"].observe(seconds)
        if problem:
            self._failures.labels(model, label, problem).inc()
        if call is None or not call.took.texts:
            return
        took = call.took
        counted["texts"].inc(took.texts)
        counted["tokens"].inc(took.tokens)
        counted["truncated"].inc(took.truncated)
        counted["tokenizing"].observe(took.tokenizing)
        counted["queue"].observe(took.queued)
        counted["model"].observe(took.computing)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        text: bytes = generate_latest(self._registry)
        return text

    def _make(self, model: str, label: str, status: int) -> dict[str, Any]:
        by = (model, label)
        return {
            "requests": self._requests.labels(*by, str(status)),
            "texts": self._texts.labels(*by),
            "tokens": self._tokens.labels(*by),
            "truncated": self._truncated.labels(*by),
            **{name: histogram.labels(*by) for name, histogram in self._seconds.items()},
        }


class _Engines(Collector):  # type: ignore[misc, unused-ignore]  # where it is not installed
    """What the engines count by themselves, read when somebody asks."""

    def __init__(self, models: list[Served]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Yield it."""
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
