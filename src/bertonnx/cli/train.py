"""`bertonnx train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bertonnx.cli.app import echo
from bertonnx.cli.options import ColumnOption, LabelColumnOption, PairColumnOption
from bertonnx.display import say, steps
from bertonnx.wording import Call, Message, Option

__all__ = ["train"]


def train(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE",
            help="A model file exported for feature extraction, to train a head on; or a Hub id or the "
            "folder of a checkpoint, to fine-tune it.",
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A .csv, .tsv, .jsonl, .parquet or .arrow file with texts and labels, or a CoNLL file.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")] = Path("model.onnx"),
    column: ColumnOption = None,
    pair_column: PairColumnOption = None,
    label_column: LabelColumnOption = None,
    group_column: Annotated[
        str | None,
        typer.Option(help="Column of what keeps rows together when they are split, such as a person."),
    ] = None,
    problem_type: Annotated[
        str | None,
        typer.Option(
            metavar="single_label_classification|multi_label_classification|regression",
            help="What kind of labels they are. Default: as they look.",
        ),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A labelled file to measure on.")
    ] = None,
    validation_share: Annotated[
        float, typer.Option(help="Share of the data to measure on, where no file is given.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Of all that is drawn by chance.")] = 0,
    class_weights: Annotated[
        str,
        typer.Option(metavar="none|balanced", help="balanced lets rare labels count as much as common ones."),
    ] = "none",
    epochs: Annotated[int, typer.Option(help="Fine-tuning: how often all rows are seen, at most.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Fine-tuning: rows of a step.")] = 16,
    accumulate: Annotated[
        int, typer.Option(help="Fine-tuning: steps whose gradients are added up before weights change.")
    ] = 1,
    learning_rate: Annotated[
        float | None, typer.Option(help="Fine-tuning: default 5e-5, and 3e-4 with --lora.")
    ] = None,
    patience: Annotated[
        int, typer.Option(help="Fine-tuning: epochs without a better figure after which it ends.")
    ] = 2,
    lora: Annotated[
        int | None,
        typer.Option(metavar="RANK", help="Fine-tuning: train adapters of this rank, and merge them."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Fine-tuning: go on with one that was stopped.")
    ] = False,
    max_length: Annotated[int | None, typer.Option(help="Longest input in tokens.")] = None,
    quantize: Annotated[bool, typer.Option("--quantize", help="Fine-tuning: write an INT8 file.")] = False,
    measure_int8: Annotated[
        bool,
        typer.Option(
            "--measure-int8/--no-measure-int8", help="Fine-tuning in fp32: measure what INT8 would cost."
        ),
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Allow running Python code that comes with the checkpoint."),
    ] = False,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Allow reading .bin weights, which can run code when loaded."),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write figures, pictures and the worst mistakes to a .html or .json file."
        ),
    ] = None,
) -> None:
    """Train a model on labelled texts, measure it, and write it as one file."""
    from bertonnx import train as train_model
    from bertonnx.runtime.evaluation.report import lines

    try:
        with steps() as step:
            made = train_model(
                base,
                data,
                output,
                column=column,
                pair_column=pair_column,
                label_column=label_column,
                group_column=group_column,
                problem_type=problem_type,
                validation=validation,
                validation_share=validation_share,
                seed=seed,
                class_weights=class_weights,
                epochs=epochs,
                batch_size=batch_size,
                accumulate=accumulate,
                learning_rate=learning_rate,
                patience=patience,
                lora=lora,
                resume=resume,
                max_length=max_length,
                quantize=quantize,
                measure_int8=measure_int8,
                force=force,
                revision=revision,
                trust_remote_code=trust_remote_code,
                allow_pickle=allow_pickle,
                report=report,
                progress=step,
            )
    except KeyboardInterrupt:
        _say_kept(output.with_name(f"{output.name}.training"))
        raise
    echo(f"wrote {made.path} ({made.bytes / 1e6:.1f} MB, {made.card.task})")
    for line in lines(made.evaluation):
        echo(line)
    for message in made.messages:
        echo(Message("note: {note}", note=message))
    echo(Message("next: {run}", run=Call("run", made.path, "input.txt")))


def _say_kept(work: Path) -> None:
    """Say what a fine-tuning that was interrupted leaves."""
    if any(work.glob("checkpoint-*")):
        say(
            Message(
                "interrupted; what was best so far is kept in {work}; repeat the command with {resume} to "
                "continue",
                work=work,
                resume=Option("resume"),
            )
        )
    else:
        say("interrupted; nothing was finished yet")
