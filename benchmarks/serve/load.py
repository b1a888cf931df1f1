"""A lean client that loads a server, in a process of its own; `benchmarks/serve` runs it for every server.

    python benchmarks/serve/load.py PLAN.json

Requests are made before the time begins and answers are not read beyond their status, so that on a machine
of few cores the client takes little of what the server has (its own processor time is in the result). It
closes the loop (a connection asks again when it is answered) or leaves it open: requests come at times that
do not depend on answers, and each is timed from when it should have come.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Loaded", "Plan", "Timed"]

_END = b"\r\n\r\n"

_LAST_SECONDS = 20.0
"""For answers that are still to come when the time is over."""

_OPENED = 256
"""Connections of an open loop that are there from its beginning."""

_MOST = 8_000


@dataclass(frozen=True)
class Plan:
    """What is asked, and how.

    Attributes:
        port: of the server.
        path: of the requests.
        bodies: of them; each request takes one by chance.
        connections: of a closed loop.
        seconds: that count.
        warm_up: seconds before, that do not.
        rate: requests a second of an open loop; 0 closes it.
        count: requests after which a closed loop ends, whatever the time; 0 for no such end.
        seed: of the dice.
    """

    port: int
    path: str
    bodies: tuple[str, ...]
    connections: int = 1
    seconds: float = 4.0
    warm_up: float = 1.0
    rate: float = 0.0
    count: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Timed:
    """Answers of one status.

    Attributes:
        count: how many.
        p50: half of them took at most so many milliseconds.
        p99: as many as that of a hundred.
        most: all of them.
    """

    count: int
    p50: float
    p99: float
    most: float


@dataclass
class Loaded:
    """What became of the requests.

    Attributes:
        a_second: answers with status 200, a second.
        by_status: all answers by status.
        lost: requests without an answer, whose connection ended.
        offered: requests a second.
        cpu: share of one core that this client took.
    """

    a_second: float = 0.0
    by_status: dict[str, Timed] = field(default_factory=dict)
    lost: int = 0
    offered: float = 0.0
    cpu: float = 0.0

    @classmethod
    def read(cls, text: str) -> Loaded:
        """Return what this client wrote."""
        fields = json.loads(text)
        timed = {status: Timed(**values) for status, values in fields.pop("by_status").items()}
        return cls(by_status=timed, **fields)

    @property
    def good(self) -> Timed:
        """Answers with status 200."""
        return self.by_status.get("200", Timed(0, 0.0, 0.0, 0.0))


class _Connection(asyncio.Protocol):
    """One connection, with one request under way at a time."""

    def __init__(self, ended: Callable[[_Connection, str], None]) -> None:
        self.began = 0.0
        self.busy = self.last = False
        self._ended = ended
        self._left = -1
        self._head = b""
        self._status = ""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, request: bytes, began: float) -> None:
        """Send a request."""
        self.busy, self.began = True, began
        self._transport.write(request)

    def close(self) -> None:
        """End it."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            head, mark, data = (self._head + data).partition(_END)
            if not mark:
                self._head = head
                return
            self._head, self._status = b"", head[9:12].decode()
            lower = head.lower()
            # The server is about to close: who asks once more on it may get no answer.
            self.last = b"\r\nconnection: close" in lower
            length = lower.partition(b"content-length:")[2]
            self._left = int(length.partition(b"\r\n")[0])
        self._left -= len(data)
        if self._left == 0:
            self._left, self.busy = -1, False
            self._ended(self, self._status)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.busy:
            self.busy = False
            self._ended(self, "lost")


class _Client:
    """All connections, and what they were answered."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._dice = random.Random(plan.seed)
        head = (
            f"POST {plan.path} HTTP/1.1\r\nhost: 127.0.0.1:{plan.port}\r\ncontent-type: application/json\r\n"
        )
        bodies = [body.encode() for body in plan.bodies]
        self._requests = [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._took: dict[str, list[float]] = {}
        self._asked = self._under_way = self._offered = 0
        self._from = self._until = 0.0
        self._idle: deque[_Connection] = deque()
        self._late: deque[float] = deque()
        self._connecting: set[asyncio.Task[None]] = set()

    async def run(self) -> Loaded:
        loop = asyncio.get_running_loop()
        plan = self._plan
        wanted = _OPENED if plan.rate else plan.connections
        for _ in range(wanted):
            await self._connect(loop)
        began = time.perf_counter()
        self._from, self._until = began + plan.warm_up, began + plan.warm_up + plan.seconds
        cpu = time.process_time()
        if plan.rate:
            await self._open_loop(loop)
        else:
            while self._idle:
                self._next(self._idle.popleft())
            while self._under_way or self._connecting:
                await asyncio.sleep(0.05)
                if time.perf_counter() > self._until + _LAST_SECONDS:
                    break
        cpu, wall = time.process_time() - cpu, time.perf_counter() - began
        return self._result(cpu / wall, wall)

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        _, connection = await loop.create_connection(
            lambda: _Connection(self._ended), "127.0.0.1", self._plan.port
        )
        self._idle.append(connection)

    def _is_over(self) -> bool:
        count = self._plan.count
        return time.perf_counter() >= self._until or bool(count and self._asked >= count)

    def _next(self, connection: _Connection, began: float | None = None) -> None:
        self._asked += 1
        self._under_way += 1
        connection.ask(self._dice.choice(self._requests), time.perf_counter() if began is None else began)

    def _ended(self, connection: _Connection, status: str) -> None:
        now = time.perf_counter()
        self._under_way -= 1
        # By when it was asked in an open loop, by when it was answered in a closed one.
        if self._from <= (connection.began if self._plan.rate else now) < self._until:
            self._took.setdefault(status, []).append(now - connection.began)
        if status == "lost" or connection.last:
            connection.close()
            self._again(status)
        elif self._plan.rate:
            if self._late:
                self._next(connection, self._late.popleft())
            else:
                self._idle.append(connection)
        elif not self._is_over():
            self._next(connection)

    def _again(self, status: str) -> None:
        """Connect anew, as clients do whose connection was closed; who is told that the server ends goes."""
        if status not in ("lost", "503") and not self._plan.rate and not self._is_over():
            task = asyncio.get_running_loop().create_task(self._connected())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connected(self) -> None:
        # Refused: the server has ended, and so has this client.
        with contextlib.suppress(OSError):
            await self._connect(asyncio.get_running_loop())
            self._next(self._idle.pop())

    async def _open_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        # Timers of event loops round to milliseconds, which is as long as a short text takes.
        clock = threading.Thread(target=self._call, args=(loop,), daemon=True)
        clock.start()
        last = self._until + _LAST_SECONDS
        while clock.is_alive() or ((self._under_way or self._late) and time.perf_counter() < last):
            while self._late and self._idle:
                self._next(self._idle.pop(), self._late.popleft())
            await asyncio.sleep(0.02)

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: let requests be sent when they are due."""
        due = time.perf_counter()
        while due < self._until:
            wait = due - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            loop.call_soon_threadsafe(self._send, loop, due)
            due += self._dice.expovariate(self._plan.rate)

    def _send(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if not self._idle and len(self._late) < _MOST:
            loop.create_task(self._connect(loop))  # kept by the loop while it connects
        if self._idle:
            # The newest, so that as few connections as possible are used.
            self._next(self._idle.pop(), due)
        else:
            self._late.append(due)
        self._offered += due >= self._from

    def _result(self, cpu: float, wall: float) -> Loaded:
        lost = len(self._took.pop("lost", ())) + self._under_way + len(self._late)
        timed = {status: _timed(took) for status, took in sorted(self._took.items())}
        seconds = self._plan.seconds if not self._plan.count else wall
        good = timed.get("200")
        return Loaded(
            a_second=good.count / seconds if good else 0.0,
            by_status=timed,
            lost=lost,
            offered=self._offered / seconds,
            cpu=cpu,
        )


def _timed(took: list[float]) -> Timed:
    took.sort()
    count = len(took)
    p50, p99 = (1000 * took[min(count - 1, count * share // 100)] for share in (50, 99))
    return Timed(count, p50, p99, 1000 * took[-1])


def main() -> None:
    fields = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    plan = Plan(**{**fields, "bodies": tuple(fields["bodies"])})
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(asdict(runner.run(_Client(plan).run()))))


if __name__ == "__main__":
    main()
