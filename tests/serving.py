"""A server in a thread, over real sockets, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.serving.options import ServeOptions
from bertonnx.runtime.serving.server import served

__all__ = ["PATIENCE", "Running", "exchanged", "serving"]

PATIENCE = 180.0
"""Seconds until a test that waits for an answer has failed."""


class Running:
    """A server that runs.

    Attributes:
        url: its address.
        port: of it.
        signalled: ends it as a signal of that number would.
        ended: set when it has ended.
    """

    def __init__(self, port: int, signalled: Callable[[int], None], ended: Future[None]) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.signalled = signalled
        self.ended = ended


@contextlib.contextmanager
def serving(paths: Mapping[str, Path], *, threads: int = 2, **options: Any) -> Iterator[Running]:
    """Serve models in a thread for the time of the block."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    ready: Future[Callable[[int], None]] = Future()
    ended: Future[None] = Future()

    def run() -> None:
        try:
            load = LoadOptions(provider="cpu", threads=threads)
            chosen = ServeOptions(**{"access_log": False, **options})
            asyncio.run(served(paths, load, chosen, listening, ready.set_result))
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            ended.set_exception(error)
        else:
            ended.set_result(None)

    threading.Thread(target=run, name="server", daemon=True).start()
    try:
        running = Running(port, ready.result(PATIENCE), ended)
        yield running
        if not ended.done():
            with contextlib.suppress(RuntimeError):
                running.signalled(signal.SIGTERM)
        ended.result(PATIENCE)
    finally:
        listening.close()


def exchanged(port: int, sent: bytes, *, close: bool = False) -> bytes:
    """Send bytes as they are, and return all that comes back until the server closes the connection.

    Args:
        port: of the server.
        sent: the bytes; with `connection: close` in their head, the server closes.
        close: whether nothing more is sent from this side, which the server then knows.
    """
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(sent)
        if close:
            connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(65_536):
            parts.append(part)
        return b"".join(parts)
