"""HTTP as the server needs it: a body within bounds, and a response."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bertonnx.runtime.serving.errors import RefusedError

__all__ = ["JSON", "Body", "Buffered", "GoneError", "Header", "Response", "as_json", "in_parts", "parsed"]

Header = tuple[bytes, bytes]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]

JSON = b"application/json"

_BODY_SECONDS = 30.0
"""Until a body must be there."""

_BODIES = 64
"""Bodies of the largest size that may be under way at a time."""

_PART = 64
"""Items of a long list that are written together."""

_GZIP = 31
"""`zlib.decompressobj`: with a gzip header, and no other."""


class GoneError(Exception):
    """The client has left; there is nobody to answer."""


@dataclass
class Response:
    """What is answered.

    Attributes:
        body: its bytes.
        status: of HTTP.
        kind: its media type.
        headers: besides length and type.
    """

    body: bytes
    status: int = 200
    kind: bytes = JSON
    headers: list[Header] = field(default_factory=list)


def as_json(value: object, status: int = 200, headers: Iterable[Header] = ()) -> Response:
    """Return a response of JSON; float32 of NumPy is written in its shortest form, NaN as null."""
    import orjson  # on use: tables name handlers, and whoever reads them does not pay for it

    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), status, headers=list(headers))


def in_parts(make: Callable[[int, int], list[Any]], count: int) -> Any:
    """Return a list of JSON for `as_json`, made of parts that `make(start, stop)` gives.

    What writes JSON lets no other thread run meanwhile, and a list of thousands of embeddings takes it long.
    """
    import orjson

    parts = [
        orjson.dumps(make(start, min(start + _PART, count)), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        for start in range(0, count, _PART)
    ]
    return orjson.Fragment(b"[" + b",".join(parts) + b"]")


def parsed(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """Return the JSON object that a body holds.

    Raises:
        RefusedError: it holds none.
    """
    import orjson

    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # Its own message tells the place, and never the text.
        raise RefusedError("malformed", f"the body is not valid JSON: {error.msg}") from error
    if not isinstance(value, dict):
        raise RefusedError("malformed", "the body must be a JSON object")
    return value


@dataclass
class Buffered:
    """How many bytes of bodies are under way, of all requests together."""

    bytes: int = 0


class Body:
    """Reads the body of one request.

    Args:
        headers: of the request.
        limit: bytes that it may have, before and after decompression.
        buffered: of all requests.
    """

    def __init__(self, headers: Mapping[bytes, bytes], limit: int, buffered: Buffered) -> None:
        self._limit = limit
        self._buffered = buffered
        self._length = _length(headers.get(b"content-length"))
        if self._length > limit:
            raise self._too_large()
        # Brotli and the like: their libraries bound no output.
        coding = headers.get(b"content-encoding", b"identity").strip().lower()
        if coding not in (b"identity", b"gzip", b"x-gzip", b""):
            raise RefusedError("media", "the content-encoding is not known here; send gzip, or none")
        self._gzip = coding.endswith(b"gzip")

    async def read(self, receive: Receive) -> bytes:
        """Return the whole body.

        Raises:
            GoneError: the client left.
            RefusedError: it is too large, too slow, or not what it says.
        """
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await self._whole(receive)
        except TimeoutError as error:
            raise RefusedError("slow", f"the body was not there after {_BODY_SECONDS:.0f} seconds") from error
        if len(body) > self._limit:
            raise self._too_large()
        return self._unzipped(body) if self._gzip else body

    async def _whole(self, receive: Receive) -> bytes:
        message = await receive()
        part = _part(message)
        if not message.get("more_body"):
            return part
        parts, size = [part], len(part)
        self._buffered.bytes += size
        # Counted while they are read: slow clients by the thousand would otherwise fill the memory.
        try:
            while message.get("more_body"):
                if size > self._limit:
                    raise self._too_large()
                if self._buffered.bytes > _BODIES * self._limit:
                    raise RefusedError("overloaded", "too many bodies are under way", headers=_IN_A_SECOND)
                message = await receive()
                part = _part(message)
                parts.append(part)
                size += len(part)
                self._buffered.bytes += len(part)
            return b"".join(parts)
        finally:
            self._buffered.bytes -= size

    def _unzipped(self, body: bytes) -> bytes:
        inflate = zlib.decompressobj(_GZIP)
        try:
            # One byte over the limit is enough to know, however much there is.
            plain = inflate.decompress(body, self._limit + 1)
        except zlib.error as error:
            raise RefusedError("malformed", "the body is not gzip, as its content-encoding says") from error
        if len(plain) > self._limit:
            raise self._too_large()
        if not inflate.eof or inflate.unused_data:
            raise RefusedError("malformed", "the gzip body is cut off, or has something behind it")
        return plain

    def _too_large(self) -> RefusedError:
        return RefusedError(
            "too_large",
            f"the body is larger than {self._limit} bytes",
            headers=((b"connection", b"close"),),
        )


_IN_A_SECOND: tuple[Header, ...] = ((b"retry-after", b"1"), (b"retry-after-ms", b"1000"))


def _part(message: Mapping[str, Any]) -> bytes:
    if message["type"] != "http.request":
        raise GoneError
    part: bytes = message.get("body", b"")
    return part


def _length(text: bytes | None) -> int:
    # A body in chunks does not say how long it is.
    if text is None:
        return 1
    try:
        return int(text)
    except ValueError as error:
        raise RefusedError("malformed", "the content-length is no number") from error
