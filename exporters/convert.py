"""The main flow: checkpoint, graph, parity, file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from bertonnx.errors import UsageError
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.checkpoint import load as load_checkpoint
from bertonnx.exporters.checkpoint.folder import model_folder, read_json, resolve
from bertonnx.exporters.describe import card_of, parity_figures
from bertonnx.exporters.fp16.half import ToHalf, round_to_half
from bertonnx.exporters.fp16.half_gate import HalfOptions, judge_half, require_halvable
from bertonnx.exporters.int8.calibration import CalibrationRows, calibration_pieces, calibration_rows
from bertonnx.exporters.int8.float_twin import float_twin
from bertonnx.exporters.int8.quantize import (
    Int8Options,
    judge,
    quantize_model,
    require_quantizable,
    require_unquantized,
    runs_here,
)
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.step import run
from bertonnx.exporters.staging import Staged, require_free, stage, stamped
from bertonnx.exporters.steps.heads import add_heads
from bertonnx.exporters.steps.pipeline import OPTIMIZE, fuse, specialize
from bertonnx.exporters.steps.trace import trace
from bertonnx.exporters.verify.parity import Batch, batches, compare
from bertonnx.exporters.verify.samples import sample_rows
from bertonnx.models.card import Card
from bertonnx.runtime.golden import CheckReport, check, examples_of, sha256_text
from bertonnx.runtime.modelfile.modelfile import read_model_file, weights_sha256
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.rows import Row
from bertonnx.runtime.session.session import Session, open_session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["OPTIMIZE", "PRECISIONS", "ExportReport", "export"]

PRECISIONS = ("fp32", "fp16")

_MIN_AGREEMENT = 0.99

Reduction = Int8Options | HalfOptions


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: the file.
        sidecar: the file of weights beside it, where they exceed 2 GB.
        bytes: size of both.
        card: what the file says of itself.
        notes: what was chosen for the user, a sentence each.
        golden: the replay of the golden examples from the finished file; None where this CPU cannot run it
            (`target`).
    """

    path: Path
    sidecar: Path | None
    bytes: int
    card: Card
    notes: tuple[str, ...]
    golden: CheckReport | None


def export(
    source: str | Path,
    output: str | Path = "model.onnx",
    *,
    task: str | None = None,
    revision: str | None = None,
    precision: str = "fp32",
    optimize: str = "full",
    max_length: int | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    quantize: bool = False,
    calibration: str | Path | None = None,
    min_agreement: float | None = None,
    target: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Export a checkpoint to one verified file.

    Args:
        source: a Hub id, a checkpoint folder, or a Sentence-Transformers folder.
        output: the file to write; it appears only when everything passed.
        task: default from the checkpoint's architecture.
        revision: branch, tag or commit of a Hub id.
        precision: "fp32", whatever the checkpoint's own, or "fp16", which is meant for CUDA.
        optimize: "none" (Optimum's graph), "basic" (folding), or "full" (attention and GELU fused).
        max_length: a shorter limit than the checkpoint's own, in tokens.
        pooling: of feature extraction: "mean", "cls", "max" or "last".
        normalize: of feature extraction: whether embeddings get length 1.
        force: replace an existing output.
        trust_remote_code: run the checkpoint's own Python code.
        allow_pickle: read `.bin` weights where there is no safetensors.
        quantize: make it INT8 (`exporters.int8.rowwise`), after the fp32 graph passed.
        calibration: of INT8 and fp16: a file of texts like those that the model will read; default our own.
        min_agreement: of INT8 and fp16: least agreement with fp32, from 0 to 1 (`exporters.verify.gate`);
            default 0.99.
        target: of INT8: the machine that it is for, "avx2", "vnni" or "arm64"; default "auto", right on all.
        progress: is told what begins, in a few words.

    Raises:
        UsageError: arguments that are wrong in themselves.
        SourceError: the checkpoint cannot be had.
        CheckpointError: the checkpoint is incomplete or broken.
        UnsupportedError: the family or task cannot be exported.
        FusionError: attention was not found in every layer that should have it.
        ParityError: PyTorch and ONNX Runtime disagree.
        QuantizationError: INT8 or fp16 agrees less with fp32 than was asked.
        InputError: the calibration file cannot be read, or holds too few texts.
        OutputError: the output exists or cannot be written.
    """
    _check_choices(precision=precision, optimize=optimize)
    reduction = _reduction(quantize, precision, optimize, calibration, min_agreement, target)
    path = require_free(output, force=force)

    progress("reading the checkpoint")
    origin = resolve(
        source, revision=revision, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
    )
    if isinstance(reduction, Int8Options):
        require_unquantized(read_json(model_folder(origin.folder) / "config.json"), origin.id)
    checkpoint = load_checkpoint(
        origin,
        task=task,
        max_length=max_length,
        pooling=pooling,
        normalize=normalize,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    texts = None if reduction is None else _texts(checkpoint, reduction.calibration)

    progress("tracing the graph")
    draft = Graph(_with_heads(trace(checkpoint), checkpoint))
    job = _job(checkpoint, card_of(checkpoint, draft.model, optimize=optimize), path, progress)

    progress("optimising the graph")
    card = replace(job.card, fusions=fuse(draft, checkpoint, job.inputs[0], optimize=optimize))
    if optimize == "full" and precision == "fp32":
        specialize(draft, checkpoint, job.inputs[0], precision="fp32")

    with stage(stamped(draft.model), path) as staged:
        progress("comparing with PyTorch")
        session, card = job.compared(staged, card)
        if isinstance(reduction, Int8Options) and texts is not None:
            return _quantized(draft, session, texts, reduction, card, job)
        if isinstance(reduction, HalfOptions) and texts is not None:
            return _halved(draft, session, texts, reduction, card, job)
        return _finished(staged, session, card, job)


@dataclass(frozen=True)
class _Job:
    """What every step of one export needs.

    Attributes:
        checkpoint: what is exported.
        card: as known before anything was measured.
        path: the file to write.
        tokenizer: the checkpoint's.
        samples: rows that are compared with PyTorch and become golden examples.
        inputs: the same, as batches.
        progress: is told what begins.
    """

    checkpoint: Checkpoint
    card: Card
    path: Path
    tokenizer: TextTokenizer
    samples: list[Row]
    inputs: list[Batch]
    progress: Callable[[str], None]

    def opened(self, staged: Staged) -> Session:
        """Open a staged graph as the runtime will."""
        return open_session(staged.path, self.card, LoadOptions(provider="cpu", threads=1))

    def compared(self, staged: Staged, card: Card) -> tuple[Session, Card]:
        """Open a staged graph, compare it with PyTorch, and note the outcome on the card."""
        session = self.opened(staged)
        found = compare(self.checkpoint, session, self.inputs, precision=card.precision)
        return session, replace(card, parity=parity_figures(found, card.precision))


def _job(checkpoint: Checkpoint, card: Card, path: Path, progress: Callable[[str], None]) -> _Job:
    tokenizer = TextTokenizer(checkpoint.tokenizer_text, card)
    samples = sample_rows(
        pairs=_reads_pairs(checkpoint), mask_token=checkpoint.mask_token, max_length=checkpoint.max_length
    )
    inputs = batches(samples, tokenizer, inputs=card.inputs, pad_token_id=card.pad_token_id)
    return _Job(checkpoint, card, path, tokenizer, samples, inputs, progress)


def _quantized(
    draft: Graph, reference: Session, texts: CalibrationRows, options: Int8Options, card: Card, job: _Job
) -> ExportReport:
    """Quantise a graph that passed, judge it against fp32, and write it in the fp32 file's stead."""
    job.progress("quantising to INT8")
    made = quantize_model(draft.model, calibration_pieces(texts.tune, job.tokenizer), target=options.target)
    with ExitStack() as stages:
        staged = stages.enter_context(stage(stamped(made.model), job.path))
        local = runs_here(options.target)
        judged_file = staged if local else stages.enter_context(stage(float_twin(made.model), job.path))
        job.progress("comparing INT8 with fp32")
        session = job.opened(judged_file)
        judged = judge(
            reference,
            session,
            texts.judge,
            options,
            card=card,
            tokenizer=job.tokenizer,
            tokenizer_text=job.checkpoint.tokenizer_text,
        )
        card = replace(card, precision="int8", quantization={**made.facts, **judged})
        return _finished(staged, session, card, job, local=local)


def _halved(
    draft: Graph, reference: Session, texts: CalibrationRows, options: HalfOptions, card: Card, job: _Job
) -> ExportReport:
    """Judge fp16 against a graph in fp32 that passed, and write it in the fp32 file's stead."""
    job.progress("comparing fp16 with fp32")
    with stage(stamped(round_to_half(draft.model)), job.path) as rounded:
        judged = judge_half(
            reference,
            job.opened(rounded),
            [*texts.tune, *texts.judge],
            options,
            card=card,
            tokenizer=job.tokenizer,
            tokenizer_text=job.checkpoint.tokenizer_text,
        )
    job.progress("converting to fp16")
    run([ToHalf()], draft)
    if card.optimize == "full":
        specialize(draft, job.checkpoint, job.inputs[0], precision="fp16")
    with stage(stamped(draft.model), job.path) as staged:
        job.progress("comparing fp16 with PyTorch")
        session, card = job.compared(staged, replace(card, precision="fp16", half=judged))
        return _finished(staged, session, card, job)


def _finished(staged: Staged, session: Session, card: Card, job: _Job, *, local: bool = True) -> ExportReport:
    """Write card, tokenizer and golden examples, replay these from the file, and put it in its place.

    Only where `local` is off, for a CPU unlike this one, is there nothing to replay the file with.
    """
    job.progress("writing the file")
    tokenizer_text = job.checkpoint.tokenizer_text
    card = replace(
        card,
        weights_sha256=weights_sha256(staged.path),
        tokenizer_sha256=sha256_text(tokenizer_text),
    )
    golden = examples_of(job.samples, job.tokenizer, session, card)
    staged.write_metadata(card, tokenizer_text, golden)
    replay = check(staged.path, "cpu") if local else None
    staged.publish()
    file = read_model_file(staged.target)
    sidecar = file.sidecars[0] if file.sidecars else None
    notes = [*job.checkpoint.notes, *_widened(job.checkpoint, card.precision)]
    if replay is None:
        notes.append(f"this CPU cannot run the file; where it can, type: bertonnx check {staged.target.name}")
    return ExportReport(staged.target, sidecar, file.bytes, card, tuple(notes), replay)


def _reduction(
    quantize: bool,
    precision: str,
    optimize: str,
    calibration: str | Path | None,
    min_agreement: float | None,
    target: str | None,
) -> Reduction | None:
    """Return what is to be made of fp32, after refusing options that contradict each other."""
    least = _MIN_AGREEMENT if min_agreement is None else min_agreement
    texts = None if calibration is None else Path(calibration)
    if quantize:
        int8 = Int8Options(texts, least, target or "auto")
        require_quantizable(int8, precision=precision, optimize=optimize)
        return int8
    if target is not None:
        raise UsageError("--target is for INT8, and --quantize was not given; add --quantize")
    if precision == "fp16":
        half = HalfOptions(texts, least)
        require_halvable(half)
        return half
    options = {"--calibration": calibration, "--min-agreement": min_agreement}
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise UsageError(
            f"{given[0]} is for INT8 and fp16, and neither was asked for; add --quantize or --precision fp16"
        )
    return None


def _widened(checkpoint: Checkpoint, precision: str) -> tuple[str, ...]:
    """Return a note where the checkpoint's own numbers are half as wide as the file's."""
    config = read_json(model_folder(checkpoint.source.folder) / "config.json")
    own = str(config.get("dtype") or config.get("torch_dtype") or "")
    if precision != "fp32" or own not in ("float16", "bfloat16"):
        return ()
    return (f"the checkpoint's weights are {own}, and the file's are fp32; --precision fp16 keeps them half",)


def _texts(checkpoint: Checkpoint, calibration: Path | None) -> CalibrationRows:
    return calibration_rows(calibration, pairs=_reads_pairs(checkpoint), mask_token=checkpoint.mask_token)


def _reads_pairs(checkpoint: Checkpoint) -> bool:
    return bool(checkpoint.pairs) or checkpoint.task == "question-answering"


def _check_choices(*, precision: str, optimize: str) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is unknown; it can be {', '.join(PRECISIONS)}")
    if optimize not in OPTIMIZE:
        raise UsageError(f"--optimize {optimize} is unknown; it can be {', '.join(OPTIMIZE)}")


def _with_heads(model: onnx.ModelProto, checkpoint: Checkpoint) -> onnx.ModelProto:
    add_heads(
        model,
        task=checkpoint.task,
        pooling=checkpoint.pooling,
        dense=checkpoint.dense,
        normalize=checkpoint.normalize,
        activation=checkpoint.activation,
        width=checkpoint.width,
        num_labels=len(checkpoint.labels) or None,
    )
    return model
