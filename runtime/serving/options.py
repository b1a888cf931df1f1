"""What a user may choose when models are served."""

from __future__ import annotations

from dataclasses import dataclass

from bertonnx.errors import UsageError
from bertonnx.runtime.options import require_at_least
from bertonnx.wording import Option

__all__ = ["MAX_BODY", "MAX_QUEUE", "ServeOptions"]

MAX_QUEUE = 4096
MAX_BODY = 2_000_000

_PORTS = 65_536


@dataclass(frozen=True)
class ServeOptions:
    """How models are served.

    Attributes:
        host: the address that is listened on.
        port: its port; 0 for one that is free.
        max_queue: texts that may wait for one model.
        max_body: bytes of a request's body, also of one that was compressed.
        cors: origins whose pages may call the server; "*" for all.
        auto_truncate: whether long texts are cut where a request does not say.
        access_log: whether a line is logged for each request.
        api_keys: a request must have one of these; none for no such check.

    Raises:
        UsageError: a number is out of range, or a key or origin is empty.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    max_queue: int = MAX_QUEUE
    max_body: int = MAX_BODY
    cors: tuple[str, ...] = ()
    auto_truncate: bool = False
    access_log: bool = True
    api_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_at_least("port", self.port, 0)
        if self.port >= _PORTS:
            raise UsageError(
                "{asked} is too large; give a number under {most}",
                asked=Option("port", self.port),
                most=_PORTS,
            )
        if not all(key.strip() for key in self.api_keys):
            raise UsageError("one of api_keys is empty, and everybody knows that one; leave it out")
        require_at_least("max_queue", self.max_queue)
        require_at_least("max_body", self.max_body)
        if not all(origin.strip() for origin in self.cors):
            raise UsageError(
                "{option} is empty; give an origin as {example}, or leave it out",
                option=Option("cors"),
                example="https://example.org",
            )

    def __repr__(self) -> str:
        # Keys are secrets, and options are shown where something failed.
        return f"ServeOptions(host={self.host!r}, port={self.port}, keys={len(self.api_keys)})"
