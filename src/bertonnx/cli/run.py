"""`bertonnx run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertonnx.cli.options import (
    ColumnOption,
    CsvSafeOption,
    DimensionsOption,
    EncodingOption,
    GpuMemoryOption,
    LongTextOption,
    ManifestOption,
    ModelPath,
    NormalizeOption,
    OnErrorOption,
    PairColumnOption,
    ProviderOption,
    Tf32Option,
)
from bertonnx.prediction import run_file
from bertonnx.runtime.options import (
    AGGREGATIONS,
    ENCODINGS,
    LONG_TEXT,
    ON_ERROR,
    TEMPLATE,
    DecodeOptions,
    LoadOptions,
    RunOptions,
    chosen,
)

__all__ = ["run"]


def run(
    model: ModelPath,
    input: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A .txt, .csv, .tsv, .jsonl, .parquet or .arrow file, or - for standard input.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="A .jsonl, .csv, .tsv, .parquet, .arrow or .npy file. Default: JSON "
            "Lines on standard output.",
        ),
    ] = None,
    column: ColumnOption = None,
    pair_column: PairColumnOption = None,
    provider: ProviderOption = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="How many threads to use. Default: as many as available cores.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="How many of the best labels, answers or tokens to list.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Longest input in tokens; at most what the model takes.")
    ] = None,
    long_text: LongTextOption = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Prompt of the model to put before each text, such as query or document. Default: the "
            'model\'s own default; "" for none.',
        ),
    ] = None,
    aggregation: Annotated[
        str,
        typer.Option(
            metavar="|".join(AGGREGATIONS), help="How tokens become entities, as in Hugging Face's pipeline."
        ),
    ] = "simple",
    no_answer: Annotated[
        bool, typer.Option("--no-answer", help="Allow that a question has no answer: it is then empty.")
    ] = False,
    raw_scores: Annotated[
        bool,
        typer.Option("--raw-scores", help="Give logits as scores of labels and answers, not probabilities."),
    ] = False,
    query: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Score each text as a document for this query; --column then names the documents.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of a file that serves several tasks (bertonnx info lists them), the one to answer.",
        ),
    ] = None,
    dimensions: DimensionsOption = None,
    normalize: NormalizeOption = None,
    encoding: EncodingOption = "float32",
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="Zero-shot: a label that a text may have, by a classifier of inference (NLI). Repeat it.",
        ),
    ] = None,
    template: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Zero-shot: what makes a sentence of a label, which stands in place of {}."
        ),
    ] = TEMPLATE,
    multi_label: Annotated[
        bool,
        typer.Option("--multi-label", help="Zero-shot: judge each label by itself; several may be true."),
    ] = False,
    entailment: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL", help="Zero-shot: the model's own label that means entailment, such as LABEL_2."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE", help="Of several labels, choose those with a score above this. Default: 0.5."
        ),
    ] = None,
    chunks: Annotated[
        bool,
        typer.Option(
            "--chunks",
            help="Embeddings: one row for each window of a long text, with its place; implies --long-text "
            "stride.",
        ),
    ] = False,
    on_error: OnErrorOption = "record",
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    csv_safe: CsvSafeOption = False,
    manifest: ManifestOption = None,
    tf32: Tf32Option = False,
    gpu_memory: GpuMemoryOption = None,
) -> None:
    """Run a model on every row of a file, one result per row."""
    load = LoadOptions(
        provider=provider,
        threads=threads,
        max_length=max_length,
        # None asks for the task's own default, which is not the same for all.
        long_text=None if long_text is None else chosen("long_text", long_text, LONG_TEXT),
        tf32=tf32,
        gpu_memory=gpu_memory,
    )
    run = RunOptions(
        column=column,
        pair_column=pair_column,
        on_error=chosen("on_error", on_error, ON_ERROR),
        resume=resume,
        csv_safe=csv_safe,
        manifest=manifest,
    )
    decode = DecodeOptions(
        top_k=top_k,
        aggregation=chosen("aggregation", aggregation, AGGREGATIONS),
        prompt=prompt,
        no_answer=no_answer,
        raw_scores=raw_scores,
        query=query,
        task=task,
        dimensions=dimensions,
        normalize=normalize,
        encoding=chosen("encoding", encoding, ENCODINGS),
        labels=tuple(label or ()),
        template=template,
        multi_label=multi_label,
        entailment=entailment,
        threshold=threshold,
        chunks=chunks,
    )
    code = run_file(model, input, output, load=load, decode=decode, run=run)
    if code:
        raise typer.Exit(code)
