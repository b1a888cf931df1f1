"""Parts of `benchmarks/serve` that are no load: bits, start, and memory over many requests."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import alternate, cache, compiled, measure, python
from serve.load import Loaded
from serve.peers import Server, load, serving

__all__ = ["at_best", "kept", "read_bits", "soak", "starts"]

LOAD = "import bertonnx, sys; bertonnx.load(sys.argv[1], 'cpu'); print('loaded', flush=True)"

FIRST = 5_000
"""Requests after which the memory of the soak is what the last is compared with."""

STEPS = 4
CLIENTS, LEAVING = 32, 200
LONGEST_WORDS = 4

_ARRIVALS = 100_000
"""That are computed: the p99 of so many does not change with their order."""

_SOAK_SECONDS = 240
"""For one step of the soak, whatever becomes of the server."""


def kept(name: str) -> Path:
    """Return where the figures of a part are kept, so that parts can run apart."""
    return cache() / f"serve-{name}.json"


def read_bits(server: Server, path: Path, texts: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return of how many texts base64 and float answers were compared with `embed`, and how many differ.

    Args:
        server: the server.
        path: of the model file.
        texts: by their kind.
    """
    import numpy as np

    import bertonnx

    chosen = [text for kind in texts.values() for text in kind[:8]]
    with bertonnx.load(path, "cpu", 1) as model:
        wanted = model.embed(chosen)
    other = 0
    for form in ("base64", "float"):
        body = json.dumps({"input": chosen, "encoding_format": form})
        data = json.loads(server.asked("POST", "/v1/embeddings", body)[1])["data"]
        for one, vector in zip(data, wanted, strict=True):
            sent = one["embedding"]
            found = (
                np.frombuffer(base64.b64decode(sent), "<f4")
                if form == "base64"
                else np.array(sent, np.float32)
            )
            other += not np.array_equal(found, vector)
    return {"texts": 2 * len(chosen), "other": other}


def at_best(path: Path, texts: Sequence[str], rate: float, cores: int) -> dict[str, float]:
    """Return how long texts would take on cores that do nothing else, a text on each and in order.

    No server is faster that gives texts a core each: those of different lengths share no batch. How long each
    takes is measured, and who waits for whom is computed, for arrivals by chance (Poisson).

    Args:
        path: of the model file.
        texts: the texts.
        rate: texts a second.
        cores: how many.

    Returns:
        "p50" and "p99" in milliseconds.
    """
    import numpy as np

    import bertonnx

    taken = []
    with bertonnx.load(path, "cpu", 1) as model:
        for text in (*texts, *texts):
            began = time.perf_counter()
            model.embed([text])
            taken.append(time.perf_counter() - began)
    # The first round opens what is opened once.
    dice, taken = random.Random(0), taken[len(texts) :]
    now, free, found = 0.0, [0.0] * cores, []
    for _ in range(_ARRIVALS):
        now += dice.expovariate(rate)
        core = min(range(cores), key=free.__getitem__)
        free[core] = max(now, free[core]) + dice.choice(taken)
        found.append(1000 * (free[core] - now))
    p50, p99 = np.percentile(found, [50, 99])
    return {"p50": float(p50), "p99": float(p99)}


def starts(path: Path, rounds: int) -> dict[str, list[float]]:
    """Return seconds from a process's start until it is ready: of the server, and of `bertonnx.load`."""

    def serve() -> float:
        with serving(path) as server:
            return server.started

    cases = {"serve": serve, "load": lambda: measure(python(LOAD, path)).first}
    with compiled():
        return alternate(cases, rounds=rounds)


def soak(path: Path, sentences: Sequence[str], count: int) -> dict[str, Any]:
    """Send so many requests, and return the server's memory on the way.

    Args:
        path: of the model file.
        sentences: what texts are cut from.
        count: of requests.
    """
    dice = random.Random(0)
    words = " ".join(sentences).split()
    # One in fifty is long: memory must not grow with the longest text that came.
    made = [" ".join(dice.sample(words, dice.randint(1, LONGEST_WORDS))) for _ in range(490)]
    made += [" ".join(dice.sample(words, 60)) for _ in range(10)]
    bodies = [
        json.dumps({"input": text, "encoding_format": dice.choice(("base64", "float"))}) for text in made
    ]
    memory: list[tuple[int, int]] = []
    found: list[Loaded] = []
    with serving(path) as server:
        began, done = time.perf_counter(), 0
        first = min(FIRST, count // 2)
        for wanted in (first, *(first + (count - first) * step // STEPS for step in range(1, STEPS + 1))):
            found.append(_asked(server, bodies, wanted - done))
            if (answered := _ended(found[-1])) < wanted - done:
                raise RuntimeError(f"{answered} of {wanted - done} requests in {_SOAK_SECONDS} s")
            leave(server, LEAVING)
            done = wanted
            memory.append((done, server.memory()))
        seconds = time.perf_counter() - began
    missing = sum(
        one.lost + sum(at.count for status, at in one.by_status.items() if status != "200") for one in found
    )
    return {"memory": memory, "a_second": count / seconds, "missing": missing}


def _ended(found: Loaded) -> int:
    return found.lost + sum(at.count for at in found.by_status.values())


def _asked(server: Server, bodies: Sequence[str], count: int) -> Loaded:
    return load(
        server,
        "/v1/embeddings",
        bodies,
        connections=CLIENTS,
        count=count,
        warm_up=0,
        seconds=_SOAK_SECONDS,
        seed=count,
    )


def leave(server: Server, count: int) -> None:
    """Let so many clients send a request and go before it is answered."""
    import socket

    body = json.dumps({"input": ["a text that nobody waits for"] * 4}).encode()
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
            connection.sendall(head + body)
