"""uvicorn, as this server runs it: no signals or log of its own, bounds on what a head may hold."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bertonnx.runtime.serving.app import LEFT, Application
from bertonnx.runtime.serving.ending import Ending
from bertonnx.runtime.serving.options import ServeOptions

__all__ = ["listen"]

_HEAD_BYTES = 65_536
"""Of the first line and all headers of a request."""

_HEAD_SECONDS = 30.0
"""Until they must be there."""

_IDLE_SECONDS = 75
"""For which a connection is kept open; clients that keep some for a minute close them first."""

_STUCK_SECONDS = 30.0
"""For which a client may take nothing of its answer: answers that nobody reads would fill the memory."""

_GO_ON = b"HTTP/1.1 100 "
"""What a client may wait for before it sends a body: no head of a response."""

_LAST_SECONDS = 20
"""For slow readers of their answers, once the server ends."""


async def listen(
    application: Application,
    options: ServeOptions,
    listening: socket.socket,
    started: Callable[[], None],
    ending: Ending,
) -> None:
    """Serve on a socket until the ending is over.

    Args:
        application: what answers.
        options: how it is served.
        listening: the socket, bound.
        started: called when connections are taken.
        ending: says when to stop.
    """
    config = uvicorn.Config(
        _with_cors(application, options),
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    await _Server(config, started, ending).serve(sockets=[listening])


def _with_cors(application: Application, options: ServeOptions) -> Any:
    if not options.cors:
        return application
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        application,
        allow_origins=options.cors,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "x-request-id"],
        expose_headers=["x-request-id", "x-truncated", "retry-after"],
    )


class _Server(uvicorn.Server):  # type: ignore[misc, unused-ignore]  # where it is not installed
    def __init__(self, config: uvicorn.Config, started: Callable[[], None], ending: Ending) -> None:
        super().__init__(config)
        self._told = started
        self._ending = ending

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # They are `Ending`'s; uvicorn would raise them again at the end, and the exit code be another.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._told()

    async def main_loop(self) -> None:
        over = asyncio.get_running_loop().create_task(self._ending.over.wait())
        tick = 0
        while not over.done():
            # Once a second: it writes the date that responses have.
            await self.on_tick(tick)
            await asyncio.wait((over,), timeout=1.0)
            tick += 10


class _HeadAndBody:
    """Writes the head of a response together with its body: one system call and one packet for both.

    Args:
        transport: of the connection.
    """

    __slots__ = ("_begun", "_head", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head = b""
        self._begun = False

    def write(self, data: bytes) -> None:
        """Write what follows the head with it; keep the head until then."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif self._begun or data.startswith(_GO_ON):
            self._transport.write(data)
        else:
            self._begun, self._head = True, data

    def close(self) -> None:
        """Write what is left, and end the connection."""
        if self._head:
            self._transport.write(self._head)
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection ends or has ended."""
        closing: bool = self._transport.is_closing()
        return closing


class _Protocol(HttpToolsProtocol):  # type: ignore[misc, unused-ignore]
    """HTTP/1.1, where a head that is endless in bytes or in time ends the connection."""

    _head = 0
    _in_head = False
    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # From now on, not from its first byte: who sends nothing at all holds a connection too.
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        self._reads_again()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Called once a client reads more slowly than it is answered."""
        super().pause_writing()
        self._look_later(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Called once it has read nearly all."""
        self._reads_again()
        super().resume_writing()

    def _look_later(self, left: int) -> None:
        self._stuck = self.loop.call_later(_STUCK_SECONDS, self._look, left)

    def _look(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left < before:
            self._look_later(left)
        else:
            self.transport.abort()

    def _reads_again(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        # A body behind the head counts too where both come together; then the head is no longer waited for.
        if self._in_head and self._head > _HEAD_BYTES and not self.transport.is_closing():
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_is_there()
        super().on_headers_complete()
        # Of the request that has just begun: who answers it can ask whether its client is still there.
        scope: Any = self.scope
        if scope is not None:
            scope[LEFT] = self.transport.is_closing
            if scope["method"] != "HEAD":
                cycle: Any = self.cycle
                cycle.transport = _HeadAndBody(self.transport)

    def _expect_head(self) -> None:
        self._in_head = True
        self._head = 0
        if self._late is None:
            self._late = self.loop.call_later(_HEAD_SECONDS, self._too_late)

    def _head_is_there(self) -> None:
        self._in_head = False
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        if not self.transport.is_closing():
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        body = b'{"error":{"message":"' + status[4:] + b'","type":"invalid_request_error"}}'
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(
            body
        )
        self.transport.write(b"HTTP/1.1 " + status + b"\r\n" + head + body)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        self._refuse(b"400 Invalid HTTP request")
