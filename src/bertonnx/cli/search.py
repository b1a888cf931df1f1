"""`bertonnx search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertonnx.cli.options import NormalizeOption, ProviderOption
from bertonnx.errors import UsageError
from bertonnx.runtime.options import ENCODINGS, LoadOptions, chosen
from bertonnx.wording import Option

__all__ = ["search"]


def search(
    vectors: Annotated[
        Path,
        typer.Argument(
            metavar="VECTORS", help="A .npy, .parquet or .arrow file, as `bertonnx run` writes it."
        ),
    ],
    queries: Annotated[
        str,
        typer.Argument(
            metavar="QUERIES", help="The same of vectors; with --model, texts as `run` reads them."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A .jsonl file. Default: JSON Lines on standard output."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL", help="The model file that made VECTORS; it embeds the texts of QUERIES."
        ),
    ] = None,
    ranges: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL", help="The model file that made int8 or uint8 VECTORS, where QUERIES are vectors."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many of the nearest vectors to list.")] = 10,
    similarity: Annotated[
        str | None,
        typer.Option(
            metavar="cosine|dot|euclidean|manhattan", help="Default: the model's own, and cosine without one."
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(ENCODINGS), help="How VECTORS were encoded, where their type does not say it."
        ),
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of VECTORS that holds the vectors.")] = None,
    query_column: Annotated[
        str | None, typer.Option(help="Column of QUERIES that holds the vectors or texts.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help='Prompt to put before each text of QUERIES; "" for none. Default: query.'
        ),
    ] = None,
    normalize: NormalizeOption = None,
    provider: ProviderOption = "auto",
) -> None:
    """Find the nearest of stored vectors for each query. Exact: every vector is compared."""
    from bertonnx.runtime.search import OfModel, SearchOptions, search_files

    options = SearchOptions(
        top_k=top_k,
        similarity=similarity,
        encoding=None if encoding is None else chosen("encoding", encoding, ENCODINGS),
        column=column,
        query_column=query_column,
    )
    load = LoadOptions(provider=provider)
    if model is None:
        _require_use("is for texts, which --model embeds", prompt=prompt, normalize=normalize)
    else:
        _require_use("is for vectors without --model, which has its own ranges", ranges=ranges)
    made_by, texts = (model, True) if model is not None else (ranges, False)
    of_model = None
    if made_by is not None:
        of_model = OfModel(made_by, texts, load, prompt=prompt, normalize=normalize)
    if search_files(vectors, queries, output, options, of_model):
        raise typer.Exit(3)


def _require_use(why: str, **given: object) -> None:
    """Refuse an option that would change nothing."""
    for name, value in given.items():
        if value is not None:
            raise UsageError("{option} " + why + "; leave it out", option=Option(name, value))
