"""Puts a server together: models side by side on one pool of cores, and the application over them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bertonnx.runtime.engine.cores import Cores
from bertonnx.runtime.model import Model
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.serving.options import ServeOptions
from bertonnx.runtime.session.cores import allowed_cores

if TYPE_CHECKING:
    from bertonnx.runtime.serving.app import Application
    from bertonnx.runtime.serving.log import Log

__all__ = ["built"]

_CHARACTERS = 32
"""Characters that may wait for one model, in bodies of the largest size: texts are counted, and long ones
would take all memory."""


@contextmanager
def built(
    paths: Mapping[str, Path], load: LoadOptions, options: ServeOptions
) -> Iterator[tuple[Application, Log]]:
    """Yield the application for the event loop that runs, and its log; both end with the block.

    Raises:
        BertonnxError: a model cannot be opened.
    """
    # A lone model has all threads to itself, and asks nobody.
    cores = Cores(load.threads or allowed_cores()) if len(paths) > 1 else None
    with ExitStack() as stack:
        with ThreadPoolExecutor(len(paths)) as beside:
            opening = [beside.submit(Model, path, load, cores=cores) for path in paths.values()]
            # Meanwhile: the server's packages take half as long as a model.
            from bertonnx.runtime.serving import listening  # noqa: F401
            from bertonnx.runtime.serving.app import Application
            from bertonnx.runtime.serving.bell import Bell
            from bertonnx.runtime.serving.call import State
            from bertonnx.runtime.serving.fleet import Fleet
            from bertonnx.runtime.serving.log import Log
            from bertonnx.runtime.serving.served import Served, Workers

            failed = None
            for future in opening:
                # All are waited for, so that none stays open where one fails.
                if (error := future.exception()) is not None:
                    failed = failed or error
                else:
                    stack.enter_context(future.result())
        if failed is not None:
            raise failed
        log = Log()
        stack.callback(log.close)
        workers = Workers(Bell(asyncio.get_running_loop()))
        stack.callback(workers.pool.shutdown, wait=True, cancel_futures=True)
        fleet = Fleet(
            [
                Served(
                    name,
                    future.result(),
                    workers,
                    max_queue=options.max_queue,
                    characters=_CHARACTERS * options.max_body,
                )
                for name, future in zip(paths, opening, strict=True)
            ],
            workers,
        )
        for served in fleet:
            for note in served.model.notes:
                log.say(f"note: {served.name}: {note}")
        yield Application(State(fleet, options), log), log
