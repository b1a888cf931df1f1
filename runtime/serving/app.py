"""The ASGI application: finds the handler of a request, lets it in, and words what goes wrong."""

from __future__ import annotations

import asyncio
import hmac
import random
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from bertonnx.errors import BertonnxError
from bertonnx.runtime.serving.call import Call, State
from bertonnx.runtime.serving.dialects import refused
from bertonnx.runtime.serving.errors import RefusedError, refusal_of
from bertonnx.runtime.serving.http import Body, Buffered, GoneError, Header, Response
from bertonnx.runtime.serving.log import Log
from bertonnx.runtime.serving.metrics import Metrics
from bertonnx.runtime.serving.routes import Found, Routes
from bertonnx.runtime.serving.tracing import Tracing

__all__ = ["LEFT", "Application"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_LOOKS_AFTER = 0.05
"""Seconds after which a request is watched for its client's leaving; to watch all would cost as much as to
answer a short one."""

LEFT = "bertonnx.left"
"""In a scope: says whether the client has closed the connection, where the server can tell."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")

_CLOSE: Header = (b"connection", b"close")


@dataclass
class _Exchange:
    """A request on its way, and who waits for it.

    Attributes:
        scope: of ASGI.
        receive: of ASGI.
        number: its request id.
        begun: when it came.
        headers: by their names in lower case; of those that came twice the last.
        found: the handler.
        call: what the handler is given, once the body is there.
        refusal: why it was refused.
        gone: whether the client left.
    """

    scope: Mapping[str, Any]
    receive: Receive
    number: bytes
    begun: float
    headers: Mapping[bytes, bytes]
    found: Found | None = None
    call: Call | None = None
    refusal: RefusedError | None = None
    gone: bool = False
    watching: list[asyncio.TimerHandle | asyncio.Task[None]] = field(default_factory=list)

    def watch(self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
        """Cancel a task where the client leaves before it ends."""

        async def wait() -> None:
            while (await self.receive())["type"] != "http.disconnect":
                pass
            if self.watching:
                self.gone = True
                task.cancel()

        self.watching.append(
            loop.call_later(_LOOKS_AFTER, lambda: self.watching.append(loop.create_task(wait())))
        )

    def look_away(self) -> None:
        """Watch no longer."""
        watching, self.watching = self.watching, []
        for one in watching:
            one.cancel()


class Application:
    """The server, for any program that runs ASGI.

    Attributes:
        state: what handlers know of it.
        metrics: what is counted.
        under_way: requests whose bodies are there and that are not answered yet.

    Args:
        state: its models and options.
        log: takes a line for each request.
    """

    def __init__(self, state: State, log: Log) -> None:
        self.state = state
        self.metrics = Metrics(state.fleet)
        self.under_way = 0
        self._log = log
        self._tracing = Tracing()
        self._routes = Routes(state.fleet, self.metrics)
        # As bytes: `compare_digest` takes no text that is not ASCII. A variable can hold what is no UTF-8.
        self._keys = [key.encode("utf-8", "surrogateescape") for key in state.options.api_keys]
        self._buffered = Buffered()
        self._reading: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            # uvicorn is told to have none; other servers may.
            await send({"type": "websocket.close", "code": 1000})
            return
        headers = dict(scope["headers"])
        exchange = _Exchange(scope, receive, _number(headers), perf_counter(), headers)
        try:
            response = await self._answered(exchange)
        except GoneError:
            self._note(exchange, 499)
            return
        except asyncio.CancelledError:
            if not exchange.gone:
                raise
            self._note(exchange, 499)
            return
        await self._send(exchange, response, send)
        self._note(exchange, response.status)

    def drain(self) -> None:
        """Take no new requests, and wait for no bodies any longer."""
        self.state.draining = True
        for task in self._reading:
            task.cancel()

    async def _answered(self, exchange: _Exchange) -> Response:
        try:
            return await self._handled(exchange)
        except RefusedError as refusal:
            return self._refused(exchange, refusal)
        except BertonnxError as error:
            return self._refused(exchange, refusal_of(error))
        except (GoneError, asyncio.CancelledError):
            raise
        except Exception as error:
            # What it says may hold a text: its kind and place are what is logged.
            self._log.fault(error, exchange.number)
            return self._refused(exchange, RefusedError("internal", "the server failed; its log says where"))

    async def _handled(self, exchange: _Exchange) -> Response:
        scope = exchange.scope
        exchange.found = found = self._routes.find(scope["method"], scope["path"])
        if self._keys and not found.open:
            self._require_key(exchange.headers)
        if found.refusal is not None:
            raise found.refusal
        if not found.reads:
            return await self._called(exchange, found, b"")
        if self.state.draining:
            raise _draining()
        # Before anything is read: what is too large by its own word is not waited for.
        body = Body(exchange.headers, self.state.options.max_body, self._buffered)
        task = asyncio.current_task()
        assert task is not None  # the server runs every request in one
        self._reading.add(task)
        try:
            read = await body.read(exchange.receive)
        except asyncio.CancelledError:
            # By `drain`: a body that is not there yet need not come any more.
            if self.state.draining:
                task.uncancel()
                raise _draining() from None
            raise
        finally:
            self._reading.discard(task)
        if self.under_way:
            # Where others are computed, who has left already need not be: one turn of the loop tells.
            await asyncio.sleep(0)
            if LEFT in scope and scope[LEFT]():
                raise GoneError
        self.under_way += 1
        exchange.watch(task, asyncio.get_running_loop())
        try:
            return await self._called(exchange, found, read)
        finally:
            exchange.look_away()
            self.under_way -= 1

    async def _called(self, exchange: _Exchange, found: Found, body: bytes) -> Response:
        call = Call(self.state, exchange.headers, found.path, found.named, body, exchange.begun)
        exchange.call = call
        assert found.handler is not None  # else there is a refusal
        with self._tracing.span(exchange.headers, found.label, call):
            response = await found.handler(call)
        # Last, so that the time is all that it took.
        response.headers += call.took_headers()
        return response

    def _refused(self, exchange: _Exchange, refusal: RefusedError) -> Response:
        exchange.refusal = refusal
        if exchange.call is not None:
            refusal.face = exchange.call.face
        found = exchange.found
        return refused(refusal, found.dialect if found is not None else "openai")

    def _require_key(self, headers: Mapping[bytes, bytes]) -> None:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        # All are compared, so that the time tells neither which one fits nor how much of it.
        fits = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        if scheme.lower() != b"bearer" or not any(fits):
            raise RefusedError(
                "unauthorized",
                "this server needs a key: send the header `Authorization: Bearer KEY`",
                headers=((b"www-authenticate", b"Bearer"),),
            )

    async def _send(self, exchange: _Exchange, response: Response, send: Send) -> None:
        headers = [
            (b"content-type", response.kind),
            (b"content-length", b"%d" % len(response.body)),
            (b"x-request-id", exchange.number),
            *response.headers,
        ]
        if self.state.draining and _CLOSE not in headers:
            headers.append(_CLOSE)
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    def _note(self, exchange: _Exchange, status: int) -> None:
        seconds = perf_counter() - exchange.begun
        found, call = exchange.found, exchange.call
        label = found.label if found is not None else "unknown"
        problem = exchange.refusal.problem if exchange.refusal is not None else ""
        self.metrics.note(label, status, seconds, call, problem)
        if self.state.options.access_log:
            self._log.request(exchange.scope, exchange.number, label, status, seconds, call)


def _draining() -> RefusedError:
    return RefusedError("unhealthy", "the server is about to end", headers=((b"retry-after", b"1"), _CLOSE))


def _number(headers: Mapping[bytes, bytes]) -> bytes:
    """Return a request's id: what the client calls it, if that can stand in a header and a log."""
    given = headers.get(b"x-request-id", b"")
    return given if _REQUEST_ID.fullmatch(given) else b"%016x" % random.getrandbits(64)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
