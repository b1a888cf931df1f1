"""`bertonnx serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from bertonnx.cli.options import PROVIDER_NAMES
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.serving.options import MAX_BODY, MAX_QUEUE, ServeOptions

__all__ = ["serve"]


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Model files, each by itself or as NAME=FILE, which clients then call it.",
        ),
    ],
    host: Annotated[
        str,
        typer.Option(envvar="BERTONNX_HOST", help="Address to listen on; 0.0.0.0 for all of the machine."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="BERTONNX_PORT", help="Port to listen on; 0 for one that is free.")
    ] = 8080,
    provider: Annotated[
        str,
        typer.Option(
            metavar=PROVIDER_NAMES,
            envvar="BERTONNX_PROVIDER",
            help="Where to run. cuda is an error if CUDA does not work; auto then uses the CPU.",
        ),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="BERTONNX_THREADS",
            help="Threads to use, all models together. Default: as many as available cores.",
        ),
    ] = None,
    max_queue: Annotated[
        int,
        typer.Option(
            metavar="N",
            envvar="BERTONNX_MAX_QUEUE",
            help="Texts that may wait for a model; more get status 429.",
        ),
    ] = MAX_QUEUE,
    max_body: Annotated[
        int,
        typer.Option(
            metavar="BYTES",
            envvar="BERTONNX_MAX_BODY",
            help="Size of a request, also once it is decompressed.",
        ),
    ] = MAX_BODY,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            envvar="BERTONNX_CORS",
            help="Origin whose pages may call the server, such as https://example.org; * for all. Can be "
            "given more than once.",
        ),
    ] = None,
    auto_truncate: Annotated[
        bool,
        typer.Option(
            "--auto-truncate",
            envvar="BERTONNX_AUTO_TRUNCATE",
            help="Cut long texts where a request does not say; without it they are errors then.",
        ),
    ] = False,
    access_log: Annotated[
        bool,
        typer.Option(
            envvar="BERTONNX_ACCESS_LOG", help="Write a line of JSON for each request; never its texts."
        ),
    ] = True,
) -> None:
    """Serve models over HTTP, for the clients of OpenAI, Hugging Face, Cohere and KServe.

    With the variable BERTONNX_API_KEY (keys with commas between them), requests need one of these keys.
    """
    from bertonnx.runtime.serving.server import keys_of_environment, run

    options = ServeOptions(
        host=host,
        port=port,
        max_queue=max_queue,
        max_body=max_body,
        cors=tuple(cors or ()),
        auto_truncate=auto_truncate,
        access_log=access_log,
        api_keys=tuple(keys_of_environment()),
    )
    run(models, LoadOptions(provider=provider, threads=threads), options)
