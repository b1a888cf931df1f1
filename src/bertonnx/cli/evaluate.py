"""`bertonnx evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertonnx.cli.app import echo
from bertonnx.cli.options import (
    ColumnOption,
    LabelColumnOption,
    LongTextOption,
    ModelPath,
    PairColumnOption,
    ProviderOption,
)
from bertonnx.display import say
from bertonnx.runtime.options import LONG_TEXT, chosen
from bertonnx.wording import Message, Option

__all__ = ["evaluate"]


def evaluate(
    model: ModelPath,
    data: Annotated[
        str,
        typer.Argument(
            metavar="LABELLED",
            help="A .csv, .tsv, .jsonl, .parquet or .arrow file with texts and labels, or a CoNLL file.",
        ),
    ],
    column: ColumnOption = None,
    pair_column: PairColumnOption = None,
    label_column: LabelColumnOption = None,
    min_f1: Annotated[
        float | None,
        typer.Option(
            "--min-f1",
            help="Exit with code 1 if macro F1 is lower (of a regression: Pearson correlation).",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write all figures, pictures and the worst mistakes to a .html or .json file.",
        ),
    ] = None,
    provider: ProviderOption = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="How many threads to use. Default: as many as available cores.")
    ] = None,
    long_text: LongTextOption = None,
) -> None:
    """Measure how good a model is on labelled texts."""
    from bertonnx.runtime.evaluation.evaluate import evaluate as measure
    from bertonnx.runtime.evaluation.report import lines, name_of

    result = measure(
        model,
        data,
        column=column,
        pair_column=pair_column,
        label_column=label_column,
        min_f1=min_f1,
        report=report,
        provider=provider,
        threads=threads,
        long_text=None if long_text is None else chosen("long_text", long_text, LONG_TEXT),
    )
    for line in lines(result):
        echo(line)
    for message in result.messages:
        echo(Message("note: {note}", note=message))
    if report is not None:
        echo(f"wrote {report}")
    if not result.enough:
        say(
            Message(
                "{name} is {figure:.4f}, less than {asked}",
                name=name_of(result.judged),
                figure=result.scores[result.judged],
                asked=Option("min_f1", min_f1),
            )
        )
        raise typer.Exit(1)
