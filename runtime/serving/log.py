"""Lines of JSON on standard error: a line for each request, with no text and no key in it."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from bertonnx.runtime.serving.call import Call

__all__ = ["Log"]

_MOST = 20_000
"""Lines that may wait to be written. Who does not read them must not hold the server up."""

_SECONDS = 0.1


class Log:
    """Writes lines in a thread of its own, a tenth of a second later at most."""

    def __init__(self) -> None:
        self._lines: deque[dict[str, Any]] = deque(maxlen=_MOST)
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def request(
        self,
        scope: Mapping[str, Any],
        number: bytes,
        label: str,
        status: int,
        seconds: float,
        call: Call | None,
    ) -> None:
        """Note a request.

        Args:
            scope: of ASGI.
            number: its id.
            label: the path as it is known here: what a client wrote may hold a text.
            status: of the response; 499 where the client left before.
            seconds: how long it took.
            call: what the handler was given, if it came so far.
        """
        # Neither the path nor the query as they were sent: texts stand there by mistake.
        line: dict[str, Any] = {
            "time": time.time(),
            "id": number.decode("ascii"),
            "method": scope["method"],
            "path": label,
            "status": status,
            "ms": round(1000 * seconds, 2),
            "client": (scope.get("client") or ("",))[0],
        }
        if call is not None and call.served is not None:
            line["model"] = call.served.name
            line["texts"], line["tokens"] = call.took.texts, call.took.tokens
        self._put(line)

    def fault(self, error: BaseException, number: bytes) -> None:
        """Note a fault of the server: what it is and where, and not what it says."""
        places = []
        trace = error.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        self._put(
            {
                "time": time.time(),
                "id": number.decode("ascii"),
                "fault": type(error).__name__,
                "places": places[-8:],
            }
        )

    def say(self, text: str) -> None:
        """Write a line for people, at once."""
        _print(f"{text}\n".encode())

    def close(self, seconds: float = 1.0) -> None:
        """Write what waits, for so many seconds at most."""
        self._wanted.set()
        if self._thread is not None:
            self._lines.append({})
            self._thread.join(seconds)
            self._thread = None

    def _put(self, line: dict[str, Any]) -> None:
        self._lines.append(line)
        if self._thread is None:
            # A daemon, since it may be blocked by who does not read.
            self._thread = threading.Thread(target=self._write, name="bertonnx-log", daemon=True)
            self._thread.start()

    def _write(self) -> None:
        ended = False
        while not ended:
            self._wanted.wait(_SECONDS)
            lines = []
            while self._lines:
                line = self._lines.popleft()
                ended = ended or not line
                if line:
                    lines.append(orjson.dumps(_timed(line)))
            if lines:
                _print(b"\n".join(lines) + b"\n")


def _timed(line: dict[str, Any]) -> dict[str, Any]:
    moment = line["time"]
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
    return {**line, "time": f"{second}.{int(1000 * (moment % 1)):03d}Z"}


def _print(lines: bytes) -> None:
    try:
        sys.stderr.buffer.write(lines)
        sys.stderr.buffer.flush()
    except (AttributeError, OSError, ValueError):
        # It is closed, or no real stream: there is nobody to tell.
        return
