"""The command line: parses and prints. All work is done by functions that Python users call too."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bertonnx import __version__
from bertonnx.cli_options import (
    PROVIDER_NAMES,
    CsvSafeOption,
    GpuMemoryOption,
    LongTextOption,
    ManifestOption,
    ModelPath,
    ModelPaths,
    OnErrorOption,
    OwnModelPath,
    PasswordOption,
    PrivateKeyOption,
    ProviderOption,
    PublicKeyOption,
    ReportOption,
    SignatureFile,
    SignatureOutput,
    Tf32Option,
    VerifyingKeyOption,
    numbers,
)
from bertonnx.display import (
    bench_bar,
    card_lines,
    print_bench,
    provider_line,
    running_on,
    say,
    steps,
    summary,
)
from bertonnx.models.pooling import POOLINGS
from bertonnx.models.providers import PROVIDERS
from bertonnx.models.verifiers import VERIFIERS
from bertonnx.prediction import run_file
from bertonnx.runtime.options import (
    AGGREGATIONS,
    LONG_TEXT,
    ON_ERROR,
    DecodeOptions,
    LoadOptions,
    RunOptions,
    chosen,
)
from bertonnx.wording import Message, Option, command_face, printable, worded

__all__ = ["app"]


class _Commands(TyperGroup):
    """The commands, with the end that a shell expects when the reader has gone (`run ... | head`)."""

    def invoke(self, ctx: Any) -> Any:  # typer before 0.16 has click's context here
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # Python would complain again when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from error


app = typer.Typer(
    name="bertonnx",
    cls=_Commands,
    help="Export a fine-tuned BERT model to one ONNX file, and run it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _echo(line: str | Message) -> None:
    typer.echo(printable(worded(line, command_face())))


def _version(value: bool) -> None:
    if value:
        typer.echo(f"bertonnx {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A Hugging Face Hub id, or the folder of a checkpoint, a Sentence-Transformers model or a "
            "PEFT adapter.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")] = Path("model.onnx"),
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="What the model does, such as token-classification or ner. Default: what the checkpoint was "
            "trained for.",
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None,
    quantize: Annotated[
        bool,
        typer.Option(
            "--quantize",
            help="Write an INT8 file: smaller and faster. An error if its results differ too much from fp32.",
        ),
    ] = False,
    precision: Annotated[
        str, typer.Option(metavar="fp32|fp16", help="Number format of the file. fp16 is meant for CUDA.")
    ] = "fp32",
    optimize: Annotated[
        str,
        typer.Option(
            metavar="none|basic|full", help="How much to optimize the graph. full fuses attention and GELU."
        ),
    ] = "full",
    max_length: Annotated[
        int | None, typer.Option(help="Longest input in tokens; at most what the model takes.")
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(POOLINGS.names),
            help="How token vectors become one embedding; several with commas between them are joined.",
        ),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option("--normalize/--no-normalize", help="Scale embeddings to length 1, or do not."),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What makes scores of logits: sigmoid, softmax, tanh, none; default the checkpoint's own.",
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Texts like yours, to tune and measure --quantize or --precision fp16."
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="How well --quantize or --precision fp16 must agree with fp32; default 0.99."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="auto|avx2|vnni|arm64", help="CPU to target with --quantize."),
    ] = None,
    ignore_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Ignore a key of the checkpoint's files that nothing reads. Repeatable."
        ),
    ] = None,
    verify_with: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(VERIFIERS.names),
            help="Also compare with the answers of the library that made the checkpoint. Repeatable.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Allow running Python code that comes with the checkpoint."),
    ] = False,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Allow reading .bin weights, which can run code when loaded."),
    ] = False,
) -> None:
    """Export a checkpoint to one ONNX file and compare it with PyTorch."""
    # Each command imports its own needs: torch is not there for most who run a model.
    from bertonnx import export as export_checkpoint

    with steps() as step:
        report = export_checkpoint(
            source,
            output,
            task=task,
            revision=revision,
            quantize=quantize,
            calibration=calibration,
            min_agreement=min_agreement,
            target=target,
            ignore_keys=ignore_key or (),
            verify_with=verify_with or (),
            precision=precision,
            optimize=optimize,
            max_length=max_length,
            pooling=pooling,
            normalize=normalize,
            activation=activation,
            force=force,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
            progress=step,
        )
    for line in summary(report):
        _echo(line)


@app.command()
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
    column: Annotated[str | None, typer.Option(help="Column or JSON field that holds the text.")] = None,
    pair_column: Annotated[
        str | None, typer.Option(help="Column or JSON field that holds the second text, such as the context.")
    ] = None,
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
    )
    code = run_file(model, input, output, load=load, decode=decode, run=run)
    if code:
        raise typer.Exit(code)


@app.command()
def check(
    model: OwnModelPath,
    provider: ProviderOption = "auto",
    public_key: VerifyingKeyOption = None,
) -> None:
    """Check that a model file is unchanged and gives the right results here (exit code 1 if not)."""
    from bertonnx.runtime.golden import check as replay
    from bertonnx.runtime.signing import signature_path, signer_of, verify_signature

    # Before it runs: what somebody else signed, or changed, is not opened at all.
    signed = None if public_key is None else verify_signature(model, public_key)
    report = replay(model, provider)
    typer.echo(
        f"ok: {report.examples} golden examples on {report.provider}, largest difference "
        f"{report.max_abs_difference:.2g} (allowed {report.tolerance:.2g}); graph, weights and tokenizer "
        f"unchanged, {report.texts} texts tokenized alike"
    )
    if signed is not None:
        _echo(f"signed by the key {signed.key}")
    elif signature_path(model).is_file():
        _echo(
            Message(
                "signed, not verified: it names the key {key}; add {option} to verify it",
                key=signer_of(signature_path(model)) or "of nobody",
                option=Option("public_key", "FILE"),
            )
        )
    if report.placement is not None:
        _echo(str(report.placement))


@app.command()
def sign(
    model: OwnModelPath,
    private_key: PrivateKeyOption,
    output: SignatureOutput = None,
    password: PasswordOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing signature.")] = False,
) -> None:
    """Sign a model file with a private key."""
    from bertonnx.runtime.signing import sign as sign_file

    signed = sign_file(model, private_key, output=output, password=password, force=force)
    _echo(f"wrote {signed.path}, signed by the key {signed.key}")


@app.command()
def verify_signature(
    model: OwnModelPath,
    public_key: PublicKeyOption,
    signature: SignatureFile = None,
) -> None:
    """Verify who signed a model file, and that it is unchanged since (exit code 1 if not)."""
    from bertonnx.runtime.signing import verify_signature as verify

    signed = verify(model, public_key, signature=signature)
    _echo(f"ok: {model} is what the key {signed.key} signed (SHA-256 {signed.sha256})")


@app.command()
def info(
    model: OwnModelPath,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    provider: Annotated[
        str | None,
        typer.Option(
            metavar=PROVIDER_NAMES,
            help="Also open the model there, and print which parts of it the GPU runs.",
        ),
    ] = None,
) -> None:
    """Print what is in a model file: task, size, labels, accuracy."""
    # Before the file is read, which can be large: a wrong provider is said at once.
    options = None if provider is None else LoadOptions(provider=provider)
    from bertonnx.runtime.modelfile.modelfile import read_model_file

    file = read_model_file(model)
    session = None
    if options is not None:
        from bertonnx.runtime.session.session import open_session

        session = open_session(model, file.card, options)
    if as_json:
        running = {} if session is None else {"running": running_on(session)}
        typer.echo(printable(json.dumps({**file.card.as_dict(), **running}, indent=2, ensure_ascii=False)))
        return
    for line in card_lines(file.card, file.bytes):
        _echo(line)
    if session is not None:
        _echo(provider_line(session))


@app.command()
def doctor() -> None:
    """Report what is available on this machine, and the command that fixes what is not."""
    from bertonnx.runtime.doctor import examine

    findings = examine()
    for finding in findings:
        state = "ok     " if finding.ok else "problem"
        _echo(Message("{state}  {name}: {value}", state=state, name=finding.name, value=finding.value))
        if finding.remedy is not None:
            _echo(Message("         -> {remedy}", remedy=finding.remedy))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def bench(
    models: ModelPaths,
    provider: Annotated[
        str | None,
        typer.Option(
            metavar=",".join(PROVIDERS.names),
            help="Where to run, such as cpu,cuda. Default: all that this ONNX Runtime has.",
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(help="Lengths of the texts, in tokens. Default: 16,128,512; none with --text."),
    ] = None,
    batch_sizes: Annotated[str, typer.Option(help="How many texts are given at once.")] = "1,8,32",
    threads: Annotated[
        str | None, typer.Option(help="Numbers of threads, such as 1,2. Default: as many as available cores.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Measure a file of your own, from reading it to the results.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column or JSON field of --text that holds the text.")
    ] = None,
    pair_column: Annotated[
        str | None, typer.Option(help="Column or JSON field of --text that holds the second text.")
    ] = None,
    tf32: Tf32Option = False,
    gpu_memory: GpuMemoryOption = None,
    seconds: Annotated[float, typer.Option(help="How long to measure each combination.")] = 2.0,
    repeat: Annotated[
        int | None, typer.Option(help="How often to run each combination, instead of --seconds.")
    ] = None,
    output: ReportOption = None,
) -> None:
    """Measure latency and throughput of one or more models."""
    from bertonnx.runtime.bench.measure import bench as measure
    from bertonnx.runtime.bench.options import BenchOptions
    from bertonnx.runtime.bench.report import check_report_output, machine_lines, write_report

    # Before minutes of measuring: a name that cannot be written is said at once.
    outputs = [check_report_output(path) for path in output or ()]
    options = BenchOptions(
        providers=None if provider is None else [name.strip() for name in provider.split(",")],
        lengths=None if lengths is None else numbers("lengths", lengths),
        batch_sizes=numbers("batch_sizes", batch_sizes),
        threads=None if threads is None else numbers("threads", threads),
        text=text,
        column=column,
        pair_column=pair_column,
        tf32=tf32,
        gpu_memory=gpu_memory,
        seconds=seconds,
        repeat=repeat,
    )
    with bench_bar() as progress:
        report = measure(models, options, progress=progress)
    for line in machine_lines(report):
        _echo(line)
    print_bench(report)
    for path in outputs:
        write_report(report, path)
        say(f"wrote {path}")
    # The code that a run ends with where some rows failed.
    if any(row.problem for row in report.rows):
        raise typer.Exit(3)
