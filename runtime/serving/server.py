"""Runs the server: opens models, listens, and ends as signals say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from bertonnx.errors import MissingDependencyError, ServerError, UsageError
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.serving.options import MAX_BODY, MAX_QUEUE, ServeOptions
from bertonnx.wording import Install, Option, Options

__all__ = ["keys_of_environment", "run", "serve", "served"]

_PACKAGES = ("starlette", "uvicorn", "httptools", "orjson", "prometheus_client")

_TURN_SECONDS = 0.001
"""For which a thread may hold the others up in Python. The loop waits as long for threads that make thousands
of results, each time that it wants to go on; Python's own five milliseconds are as long as a short text."""


def serve(
    models: Sequence[str | Path] | Mapping[str, str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    provider: str = "auto",
    threads: int | None = None,
    max_queue: int = MAX_QUEUE,
    max_body: int = MAX_BODY,
    cors: Sequence[str] = (),
    auto_truncate: bool = False,
    access_log: bool = True,
    api_keys: Sequence[str] | None = None,
) -> None:
    """Serve models over HTTP until a signal or Ctrl-C ends it.

    Args:
        models: files, each by itself or as `NAME=FILE`; or files by their names.
        host: the address to listen on.
        port: its port; 0 for one that is free, which standard error then tells.
        provider: as `load`.
        threads: batches at a time, of all models together; default as `load`.
        max_queue: texts that may wait for one model; who comes when there are more is told to come again.
        max_body: bytes that the body of a request may have.
        cors: origins whose pages may call the server; "*" for all.
        auto_truncate: whether long texts are cut where a request does not say; else they are refused.
        access_log: whether a line of JSON is written to standard error for each request.
        api_keys: a request must have one of these as `Authorization: Bearer KEY`; default those of the
            variable BERTONNX_API_KEY, with commas between them.

    Raises:
        ModelFileError: a file is missing, broken or foreign.
        ProviderError: the provider cannot be used.
        ServerError: the address cannot be had.
        UsageError: an argument is out of range, or two models have one name.
        MissingDependencyError: what the server needs is not installed.
    """
    options = ServeOptions(
        host=host,
        port=port,
        max_queue=max_queue,
        max_body=max_body,
        cors=tuple(cors),
        auto_truncate=auto_truncate,
        access_log=access_log,
        api_keys=tuple(keys_of_environment() if api_keys is None else api_keys),
    )
    run(models, LoadOptions(provider=provider, threads=threads), options)


def keys_of_environment() -> list[str]:
    """Return the keys of the variable BERTONNX_API_KEY.

    Raises:
        UsageError: it is set, and holds none.
    """
    given = os.environ.get("BERTONNX_API_KEY", "")
    keys = [key.strip() for key in given.split(",") if key.strip()]
    if given and not keys:
        # Who sets it wants a server that is closed.
        raise UsageError(
            "the variable BERTONNX_API_KEY holds no key, but blanks and commas; write one into it"
        )
    return keys


def run(
    models: Sequence[str | Path] | Mapping[str, str | Path], load: LoadOptions, options: ServeOptions
) -> None:
    """As `serve`, with options objects."""
    _require_packages()
    from bertonnx.runtime.serving.fleet import named_paths

    paths = named_paths(models)
    with contextlib.closing(_bound(options)) as listening:
        _allow_connections()
        with _short_turns(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(served(paths, load, options, listening))


async def served(
    paths: Mapping[str, Path],
    load: LoadOptions,
    options: ServeOptions,
    listening: socket.socket,
    ready: Callable[[Callable[[int], None]], None] | None = None,
) -> None:
    """Serve models on a socket until a signal ends it.

    Args:
        paths: where models are, by their names.
        load: how they are opened.
        options: how they are served.
        listening: the socket, bound.
        ready: called once requests are taken, with what ends the server as a signal of that number would;
            default the address is said on standard error.
    """
    from bertonnx.runtime.serving.building import built

    host, port = listening.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    with built(paths, load, options) as (application, log):
        # Here, since they bring packages that are imported while models are opened.
        from bertonnx.runtime.serving.ending import Ending
        from bertonnx.runtime.serving.listening import listen

        ending = Ending(application)
        with ending.on_signals():

            def started() -> None:
                if ready is None:
                    log.say(f"listening on {address}")
                else:
                    ready(ending.signalled)

            await listen(application, options, listening, started, ending)


def _bound(options: ServeOptions) -> socket.socket:
    """Return a socket at the address, which takes no connections yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            # Else one that is started again at once finds its address in use.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except OSError:
            made.close()
            raise
    except (OSError, UnicodeError) as error:
        raise ServerError(
            "cannot listen on {host}, port {port}: {why}; give another {option}",
            host=options.host,
            port=options.port,
            why=getattr(error, "strerror", None) or str(error),
            option=Options([Option("port"), Option("host")]),
        ) from error
    return made


def _allow_connections() -> None:
    """Let the process have as many connections as the system allows it."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    # Linux gives 1,024 where nobody asks for more, and ten thousand may be idle at a time.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _short_turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    # It has no wheels for Windows.
    if find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _require_packages() -> None:
    absent = [name for name in _PACKAGES if find_spec(name) is None]
    if absent:
        raise MissingDependencyError(
            "the server needs {absent}; type: {install}", absent=", ".join(absent), install=Install("serve")
        )
