"""From file to file: what `bertonnx.run` does, and `bertonnx run` behind its progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from glob import escape
from pathlib import Path
from typing import Any

from bertonnx.errors import ModelFileError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.decoders import require_options
from bertonnx.runtime.io.apart import require_apart
from bertonnx.runtime.io.job import Job, JobProgress, JobReport
from bertonnx.runtime.io.manifest import check_manifest, sha256_of, write_manifest
from bertonnx.runtime.io.resume import Setting
from bertonnx.runtime.io.writers import Target, check_output
from bertonnx.runtime.model import Model
from bertonnx.runtime.opening import loading
from bertonnx.runtime.options import (
    TEMPLATE,
    Aggregation,
    DecodeOptions,
    Encoding,
    LoadOptions,
    LongText,
    OnError,
    RunOptions,
)
from bertonnx.runtime.places import require_name
from bertonnx.wording import PYTHON, Face, Option

__all__ = ["checked_target", "run", "run_job"]

FORMAT = 1
"""Of a manifest; raised when a reader of an older one would misread it."""


def run(
    model: str | Path | Model,
    input: str | Path,
    output: str | Path,
    *,
    column: str | None = None,
    pair_column: str | None = None,
    on_error: OnError = "record",
    resume: bool = False,
    csv_safe: bool = False,
    manifest: str | Path | None = None,
    top_k: int | None = None,
    aggregation: Aggregation = "simple",
    prompt: str | None = None,
    no_answer: bool = False,
    raw_scores: bool = False,
    query: str | None = None,
    task: str | None = None,
    dimensions: int | None = None,
    normalize: bool | None = None,
    encoding: Encoding = "float32",
    labels: Sequence[str] = (),
    template: str = TEMPLATE,
    multi_label: bool = False,
    entailment: str | None = None,
    threshold: float | None = None,
    chunks: bool = False,
    provider: str = "auto",
    threads: int | None = None,
    max_length: int | None = None,
    long_text: LongText | None = None,
    tf32: bool = False,
    gpu_memory: float | None = None,
    progress: Callable[[JobProgress], None] | None = None,
) -> JobReport:
    """Run a model on every row of a file, one result per row, as the command `bertonnx run` does.

    Args:
        model: a model file, a folder or file that optimum-cli made, or an open model.
        input: a `.txt`, `.csv`, `.tsv`, `.jsonl`, `.parquet` or `.arrow` file, or "-" for standard input.
        output: a `.jsonl`, `.csv`, `.tsv`, `.parquet`, `.arrow` or `.npy` file; an existing one is replaced.
        column: the column, or JSON field, that holds the text.
        pair_column: the one that holds the second text of a pair.
        on_error: "record" writes the error in place of a failed row's result, "fail" raises it.
        resume: go on with an output that an earlier run did not finish.
        csv_safe: in `.csv` and `.tsv`, write texts so that a spreadsheet takes none for a formula.
        manifest: a file for what was read, with what, and what was written (docs/runs.md).
        top_k: how many candidates a result lists.
        aggregation: how tokens become entities.
        prompt: name of the prompt that is put before each text; "" for none.
        no_answer: whether a question may be left without an answer.
        raw_scores: whether scores are logits.
        query: of ranking: what each text is scored for; `column` then names the documents.
        task: of a file that serves several tasks, the one to answer.
        dimensions: as `Model.embed`.
        normalize: as `Model.embed`.
        encoding: as `Model.embed`.
        labels: of zero-shot classification, as `Model.zero_shot`.
        template: as `Model.zero_shot`.
        multi_label: as `Model.zero_shot`.
        entailment: as `Model.zero_shot`.
        threshold: of several labels, those with a score above it are chosen; default 0.5.
        chunks: of embeddings: give one row for each window of a long text, with the window's place;
            `long_text` is then "stride" by default.
        provider: as `load`.
        threads: as `load`.
        max_length: as `load`.
        long_text: as `load`.
        tf32: as `load`.
        gpu_memory: as `load`.
        progress: called after every row.

    Raises:
        UsageError: an argument is out of range, or says how to open a model that is open already.
        InputError: the input cannot be read, or changed while it was read.
        OutputError: the output cannot be written, another run writes it, or somebody took it away.
        BertonnxError: the model cannot be used.
    """
    load = LoadOptions(
        provider=provider,
        threads=threads,
        max_length=max_length,
        long_text=long_text,
        tf32=tf32,
        gpu_memory=gpu_memory,
    )
    decode = DecodeOptions(
        top_k=top_k,
        aggregation=aggregation,
        prompt=prompt,
        no_answer=no_answer,
        raw_scores=raw_scores,
        query=query,
        task=task,
        dimensions=dimensions,
        normalize=normalize,
        encoding=encoding,
        labels=tuple(labels),
        template=template,
        multi_label=multi_label,
        entailment=entailment,
        threshold=threshold,
        chunks=chunks,
    )
    options = RunOptions(
        column=column,
        pair_column=pair_column,
        on_error=on_error,
        resume=resume,
        csv_safe=csv_safe,
        manifest=manifest,
    )
    if isinstance(model, Model) and load != LoadOptions():
        raise UsageError("the model is open already, and these say how to open one; give its path instead")
    path = model.path if isinstance(model, Model) else model
    target = checked_target(path, input, output, options)
    with target.lock if target is not None else nullcontext():
        opened = nullcontext(model) if isinstance(model, Model) else Model(path, loading(load, decode))
        with opened as open_model:
            return run_job(open_model, input, target, decode=decode, options=options, progress=progress)


def checked_target(
    model: str | Path, input: str | Path, output: str | Path | None, options: RunOptions
) -> Target | None:
    """Check what a run shall write before its model is opened, which can take long.

    Raises:
        OutputError: a file cannot be written.
        UsageError: the output or the manifest is another file of the run, or names no format.
    """
    require_name(model, ModelFileError)
    if options.manifest is not None:
        check_manifest(options.manifest)
    target = None
    if output is not None:
        target = check_output(output, input=input, csv_safe=options.csv_safe)
    elif options.csv_safe:
        raise UsageError(
            "{option} is for .csv and .tsv files; name one with {output}",
            option=Option("csv_safe", True),
            output=Option("output", "FILE"),
        )
    reads = {"model": _read_of(Path(model)), "input": [] if str(input) == "-" else [Path(input)]}
    require_apart({"output": output, "manifest": options.manifest}, reads)
    return target


def run_job(
    model: Model,
    input: str | Path,
    target: Target | None,
    *,
    decode: DecodeOptions,
    options: RunOptions,
    face: Face = PYTHON,
    progress: Callable[[JobProgress], None] | None = None,
) -> JobReport:
    """Run an open model on a file, and write the manifest if one was asked for.

    Raises:
        BertonnxError: as `run`.
    """
    require_options(model.card, decode)
    began = time.time()
    files = None if options.manifest is None else _model_files(model.path)
    # What holds, not what was given: to leave out the default is to ask for it.
    settings: dict[str, Setting] = {
        "max_length": model.max_length,
        "long_text": model.tokenizer.long_text,
        "prompt": _prompt(decode, model.card),
    }
    job = Job(
        model, input, target, decode=decode, options=options, settings=settings, face=face, progress=progress
    )
    report = job.run()
    if options.manifest is not None:
        facts = {
            "format": FORMAT,
            "began": _moment(began),
            "ended": _moment(time.time()),
            "model": {
                "path": str(model.path),
                "files_sha256": files,
                "identity": model.identity,
                "task": model.card.task,
                "source": model.card.source,
            },
            "input": report.input,
            "output": None if target is None else _file(target.path),
            "provider": model.provider,
            "options": {**asdict(decode), **_without_manifest(options), **settings},
            **_counts(report),
            "machine": _machine(),
        }
        write_manifest(options.manifest, facts)
    return report


def _prompt(decode: DecodeOptions, card: Card) -> str | None:
    """Return the name of the prompt that holds; None for no prompt."""
    return card.default_prompt if decode.prompt is None else decode.prompt or None


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _model_files(path: Path) -> dict[str, str]:
    """Return the SHA-256 of what a model consists of, by the names of its files."""
    root = path if path.is_dir() else path.parent
    return {str(file.relative_to(root)): sha256_of(file) for file in _files_of(path)}


_PARTS = ("*.onnx*", "*config*.json", "tokenizer*", "special_tokens_map.json", "vocab*", "modules.json")


def _read_of(path: Path) -> list[Path]:
    """Return the files that a model is read from; results can lie in a folder too."""
    return [file for pattern in _PARTS for file in path.rglob(pattern)] if path.is_dir() else _files_of(path)


def _files_of(path: Path) -> list[Path]:
    """Return the files that a model consists of."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    # External data lies beside the file, under a name that begins with its own.
    return [path, *sorted(path.parent.glob(f"{escape(path.name)}?data"))]


def _file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"path": str(path), "size": None, "sha256": None}  # a pipe or a device
    return {"path": str(path), "size": path.stat().st_size, "sha256": sha256_of(path)}


def _without_manifest(options: RunOptions) -> dict[str, Any]:
    given = asdict(options)
    del given["manifest"]
    return given


def _counts(report: JobReport) -> dict[str, Any]:
    return {
        "rows": report.rows,
        "errors": report.errors,
        "truncated": report.truncated,
        # Of an earlier run: with the same model, options and input, as its note said.
        "resumed_rows": report.resumed_rows,
        # Nothing beside a complete output says what made it.
        "complete_before": report.complete_before,
        "notes": [str(note) for note in report.notes],
    }


def _machine() -> dict[str, Any]:
    from bertonnx.runtime.bench.machine import machine

    facts = machine()
    # What changes from minute to minute says nothing of the results.
    return {name: value for name, value in facts.items() if name not in ("date", "load_average")}
