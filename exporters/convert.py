"""The main flow: checkpoint, graph, parity, file."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from bertonnx.errors import FusionError, UsageError
from bertonnx.exporters.attention import fuse_attention
from bertonnx.exporters.calibration import calibration_pieces, calibration_rows
from bertonnx.exporters.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint import load as load_checkpoint
from bertonnx.exporters.first_token import keep_first_token
from bertonnx.exporters.half import to_half
from bertonnx.exporters.heads import add_heads
from bertonnx.exporters.ort_steps import clean, fuse_elementwise
from bertonnx.exporters.parity import TOLERANCE, Batch, Parity, batches, compare
from bertonnx.exporters.quantize import (
    Int8Options,
    judge,
    quantize_model,
    require_quantizable,
    require_unquantized,
)
from bertonnx.exporters.samples import sample_rows
from bertonnx.exporters.seal import Staged, require_free, stage
from bertonnx.exporters.sources import model_folder, read_json, resolve
from bertonnx.exporters.trace import trace
from bertonnx.exporters.unmasked import unmask_attention
from bertonnx.models.card import Card
from bertonnx.models.families import family as family_named
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.golden import CheckReport, check, examples_of, sha256_text
from bertonnx.runtime.modelfile import read_model_file, weights_sha256
from bertonnx.runtime.rows import Row
from bertonnx.runtime.session import Session, open_session
from bertonnx.runtime.tokenization import TextTokenizer

__all__ = ["OPTIMIZE", "PRECISIONS", "ExportReport", "export"]

OPTIMIZE = ("none", "basic", "full")
PRECISIONS = ("fp32", "fp16")

_MIN_AGREEMENT = 0.99

Fusions = dict[str, dict[str, int]]


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: the file.
        sidecar: the file of weights beside it, where they exceed 2 GB.
        bytes: size of both.
        card: what the file says of itself.
        notes: what was chosen for the user, a sentence each.
        golden: the replay of the golden examples from the finished file.
    """

    path: Path
    sidecar: Path | None
    bytes: int
    card: Card
    notes: tuple[str, ...]
    golden: CheckReport


@dataclass
class _Draft:
    """The only reference to the graph: gigabytes go as soon as the next step has made its own."""

    model: onnx.ModelProto


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
        quantize: make it INT8 (`exporters.rowwise`), after the fp32 graph passed.
        calibration: of INT8: a file of texts like those that the model will read; default our own.
        min_agreement: of INT8: least agreement with fp32, from 0 to 1 (`exporters.gate`); default 0.99.
        target: of INT8: the machine that it is for, "avx2", "vnni" or "arm64"; default "auto", right on all.
        progress: is told what begins, in a few words.

    Raises:
        UsageError: arguments that are wrong in themselves.
        SourceError: the checkpoint cannot be had.
        CheckpointError: the checkpoint is incomplete or broken.
        UnsupportedError: the family or task cannot be exported.
        FusionError: attention was not found in every layer that should have it.
        ParityError: PyTorch and ONNX Runtime disagree.
        QuantizationError: INT8 agrees less with fp32 than was asked.
        InputError: the calibration file cannot be read, or holds too few texts.
        OutputError: the output exists or cannot be written.
    """
    _check_choices(precision=precision, optimize=optimize)
    int8 = _int8_options(quantize, calibration, min_agreement, target)
    if int8 is not None:
        require_quantizable(int8, precision=precision, optimize=optimize)
    path = require_free(output, force=force)

    progress("reading the checkpoint")
    origin = resolve(
        source, revision=revision, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
    )
    if int8 is not None:
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

    progress("tracing the graph")
    draft = _Draft(_with_heads(trace(checkpoint), checkpoint))
    card = _card(checkpoint, draft.model, precision=precision, optimize=optimize)
    tokenizer = TextTokenizer(checkpoint.tokenizer_text, card)
    rows = _samples(checkpoint)
    inputs = batches(rows, tokenizer, inputs=card.inputs, pad_token_id=card.pad_token_id)
    texts = [] if int8 is None else _calibration(checkpoint, int8)

    progress("optimising the graph")
    fusions = _optimize(draft, checkpoint, inputs[0], optimize, precision)
    if precision == "fp16":
        draft.model = to_half(draft.model)

    with stage(_stamped(draft.model), path) as staged:
        progress("comparing with PyTorch")
        session = open_session(staged.path, provider="cpu", optimized=optimize == "full")
        parity = compare(checkpoint, session, inputs, precision=precision)
        card = replace(card, fusions=fusions, parity=_parity(parity, precision))
        if int8 is not None:
            return _quantized(
                draft.model,
                session,
                texts,
                int8,
                path,
                card,
                checkpoint,
                rows=rows,
                tokenizer=tokenizer,
                progress=progress,
            )
        progress("writing the file")
        return _finished(staged, card, checkpoint, rows=rows, tokenizer=tokenizer, session=session)


def _quantized(
    model: onnx.ModelProto,
    reference: Session,
    texts: list[Row],
    options: Int8Options,
    path: Path,
    card: Card,
    checkpoint: Checkpoint,
    *,
    rows: list[Row],
    tokenizer: TextTokenizer,
    progress: Callable[[str], None],
) -> ExportReport:
    """Quantise a graph that passed, judge it against fp32, and write it in the fp32 file's stead."""
    progress("quantising to INT8")
    made = quantize_model(model, calibration_pieces(texts, tokenizer), target=options.target)
    with stage(_stamped(made.model), path) as staged:
        progress("comparing INT8 with fp32")
        session = open_session(staged.path, provider="cpu")
        judged = judge(
            reference,
            session,
            texts,
            options,
            card=card,
            tokenizer=tokenizer,
            tokenizer_text=checkpoint.tokenizer_text,
        )
        card = replace(card, precision="int8", quantization={**made.facts, **judged})
        progress("writing the file")
        return _finished(staged, card, checkpoint, rows=rows, tokenizer=tokenizer, session=session)


def _int8_options(
    quantize: bool, calibration: str | Path | None, min_agreement: float | None, target: str | None
) -> Int8Options | None:
    if quantize:
        least = _MIN_AGREEMENT if min_agreement is None else min_agreement
        return Int8Options(None if calibration is None else Path(calibration), least, target or "auto")
    options = {"--calibration": calibration, "--min-agreement": min_agreement, "--target": target}
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{given[0]} is for INT8, and --quantize was not given; add --quantize")
    return None


def _widened(checkpoint: Checkpoint, precision: str) -> tuple[str, ...]:
    """Return a note where the checkpoint's own numbers are half as wide as the file's."""
    config = read_json(model_folder(checkpoint.source.folder) / "config.json")
    own = str(config.get("dtype") or config.get("torch_dtype") or "")
    if precision != "fp32" or own not in ("float16", "bfloat16"):
        return ()
    return (f"the checkpoint's weights are {own}, and the file's are fp32; --precision fp16 keeps them half",)


def _calibration(checkpoint: Checkpoint, options: Int8Options) -> list[Row]:
    return calibration_rows(
        options.calibration,
        pairs=bool(checkpoint.pairs) or checkpoint.task == "question-answering",
        mask_token=checkpoint.mask_token,
    )


def _finished(
    staged: Staged,
    card: Card,
    checkpoint: Checkpoint,
    *,
    rows: list[Row],
    tokenizer: TextTokenizer,
    session: Session,
) -> ExportReport:
    card = replace(
        card,
        weights_sha256=weights_sha256(staged.path),
        tokenizer_sha256=sha256_text(checkpoint.tokenizer_text),
    )
    golden = examples_of(rows, tokenizer, session, card)
    staged.write_metadata(card, checkpoint.tokenizer_text, golden)
    replay = check(staged.path, "cpu")
    staged.publish()
    file = read_model_file(staged.target)
    sidecar = file.sidecars[0] if file.sidecars else None
    notes = (*checkpoint.notes, *_widened(checkpoint, card.precision))
    return ExportReport(staged.target, sidecar, file.bytes, card, notes, replay)


def _check_choices(*, precision: str, optimize: str) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is unknown; it can be {', '.join(PRECISIONS)}")
    if optimize not in OPTIMIZE:
        raise UsageError(f"--optimize {optimize} is unknown; it can be {', '.join(OPTIMIZE)}")


def _card(checkpoint: Checkpoint, model: onnx.ModelProto, *, precision: str, optimize: str) -> Card:
    return Card(
        task=checkpoint.task,
        family=checkpoint.family,
        max_length=checkpoint.max_length,
        labels=checkpoint.labels,
        problem_type=checkpoint.problem_type,
        pairs=checkpoint.pairs,
        pooling=checkpoint.pooling,
        normalize=checkpoint.normalize,
        width=checkpoint.width,
        prefix=checkpoint.prefix,
        mask_token=checkpoint.mask_token,
        mask_token_id=checkpoint.mask_token_id,
        pad_token_id=checkpoint.pad_token_id,
        padding_side=checkpoint.padding_side,
        truncation_side=checkpoint.truncation_side,
        clean_up_spaces=checkpoint.clean_up_spaces,
        activation=checkpoint.activation,
        inputs=tuple(value.name for value in model.graph.input),
        outputs=task_named(checkpoint.task).outputs,
        precision=precision,
        optimize=optimize,
        source={
            "id": checkpoint.source.id,
            "kind": checkpoint.source.kind,
            "revision": checkpoint.source.revision,
        },
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("bertonnx", "onnx", "onnxruntime", "onnxruntime-gpu", "optimum", "optimum-onnx"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    for package in ("tokenizers", "torch", "transformers"):
        versions[package] = importlib.metadata.version(package)
    return versions


def _samples(checkpoint: Checkpoint) -> list[Row]:
    return sample_rows(
        pairs=bool(checkpoint.pairs) or checkpoint.task == "question-answering",
        mask_token=checkpoint.mask_token,
        max_length=checkpoint.max_length,
    )


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


def _optimize(draft: _Draft, checkpoint: Checkpoint, sample: Batch, optimize: str, precision: str) -> Fusions:
    if optimize == "none":
        return {}
    draft.model = clean(draft.model)
    if optimize == "basic":
        return {}
    draft.model = fuse_elementwise(draft.model)
    attention = fuse_attention(draft.model, _small(sample))
    fusions = _fusions(draft.model, attention, checkpoint)
    draft.model = clean(draft.model)
    if precision != "fp16":  # its converter does not look into branches
        unmask_attention(draft.model, max_length=checkpoint.max_length)
    keep_first_token(draft.model, _small(sample))
    draft.model = clean(draft.model)
    return fusions


def _small(batch: Batch) -> dict[str, npt.NDArray[np.int64]]:
    """Return two short rows as if nothing were padded, enough to read shapes from."""
    small = {name: array[:2, :10] for name, array in batch.feeds.items()}
    return small | {"attention_mask": np.ones_like(small["attention_mask"])}


def _fusions(model: onnx.ModelProto, attention: int, checkpoint: Checkpoint) -> Fusions:
    """Return what was fused of what could be, after making sure of attention.

    Raises:
        FusionError: attention was not found in every layer of a family that should have it.
    """
    counts = Counter(node.op_type for node in model.graph.node)
    gelu = counts["Gelu"] + counts["FastGelu"]
    norms = counts["LayerNormalization"]
    fusions = {
        "gelu": {"found": gelu, "expected": gelu + counts["Erf"]},
        # Spelled out, a layer normalisation takes two means.
        "layer_norm": {"found": norms, "expected": norms + counts["ReduceMean"] // 2},
    }
    known = family_named(checkpoint.family)
    if known is None:
        return {"attention": {"found": attention}, **fusions}
    config = checkpoint.config
    expected = known.attention * config.num_hidden_layers * getattr(config, "inner_group_num", 1)
    if attention != expected:
        raise FusionError(
            f"attention was fused in {attention} of {expected} layers of this {checkpoint.family} model, so "
            "it would be slow; no file was written. Export with --optimize basic, and please report the model"
        )
    return {"attention": {"found": attention, "expected": expected}, **fusions}


def _parity(found: Mapping[str, Parity], precision: str) -> dict[str, object]:
    return {
        "tolerance": TOLERANCE[precision],
        "max_abs_difference": max(parity.max_abs_difference for parity in found.values()),
        "max_abs_reference": max(parity.max_abs_reference for parity in found.values()),
        "outputs": {
            name: {
                "max_abs_difference": parity.max_abs_difference,
                "max_abs_reference": parity.max_abs_reference,
            }
            for name, parity in found.items()
        },
    }


def _stamped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name the maker, and leave out what earlier makers noted of their own folders and modules."""
    model.producer_name = "bertonnx"
    model.producer_version = importlib.metadata.version("bertonnx")
    model.graph.name = "bertonnx"
    del model.metadata_props[:]
    used = _domains(model.graph)
    for entry in [entry for entry in model.opset_import if entry.domain not in used]:
        model.opset_import.remove(entry)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def _domains(graph: onnx.GraphProto) -> set[str]:
    """Return the operator sets that a graph and its branches use; each optimiser declares all it knows."""
    used = {""}
    for node in graph.node:
        used.add("" if node.domain == "ai.onnx" else node.domain)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                used |= _domains(attribute.g)
    return used
