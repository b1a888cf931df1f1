"""The main flow: checkpoint, graph, parity, file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from bertonnx.errors import PrecisionError, SourceError
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.checkpoint import load as load_checkpoint
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.checkpoint.provenance import files_of
from bertonnx.exporters.checkpoint.source import Source, replicated, resolve
from bertonnx.exporters.describe import card_of
from bertonnx.exporters.fp16.half import ToHalf, round_to_half
from bertonnx.exporters.int8.calibration import CalibrationRows, calibration_pieces, calibration_rows
from bertonnx.exporters.int8.float_twin import float_twin
from bertonnx.exporters.int8.quantize import int8_figures, quantize_model, require_unquantized, runs_here
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.onnxgraph.step import run
from bertonnx.exporters.options import ExportOptions, Trust
from bertonnx.exporters.places import Named, named, places
from bertonnx.exporters.ranges import openings, ranges_of
from bertonnx.exporters.staging import Staged, require_free, seal, stage, stamped
from bertonnx.exporters.steps.biases import Moved
from bertonnx.exporters.steps.pipeline import fuse, specialize, traced
from bertonnx.exporters.temperature import Scored, calibrated
from bertonnx.exporters.verify.gate import FP16, INT8, judge
from bertonnx.exporters.verify.independent import Exported, require_installed, verify
from bertonnx.exporters.verify.latency import measure_latency
from bertonnx.exporters.verify.parity import (
    Reference,
    begun,
    compare,
    fed,
    segment_feeds,
    trial_feeds,
)
from bertonnx.exporters.verify.remembered import Remembered
from bertonnx.exporters.verify.samples import prompted_rows, sample_rows, sided_rows, with_tokens
from bertonnx.models.card import MOVED_KEY, PLACES_KEY, Card
from bertonnx.models.figures import HalfFigures
from bertonnx.models.ranges import Ranges
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.golden import CheckReport
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.modelfile.named_weights import as_text, moved_text
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.places import require_name
from bertonnx.runtime.rows import Row
from bertonnx.runtime.session.session import Feeds, Session, open_session
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Call, Message, Option

__all__ = ["ExportReport", "export", "exported"]

Noted = Callable[[Session, Card, TextTokenizer], Card]
Tried = Callable[[Session, Card, TextTokenizer], None]


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: the file.
        sidecar: the file of weights beside it, where they exceed 2 GB.
        bytes: size of both.
        card: what the file says of itself.
        messages: what was chosen for the user, a sentence each, for each face to word.
        golden: the replay of the golden examples from the finished file; None where this CPU cannot run it
            (`target`).
    """

    path: Path
    sidecar: Path | None
    bytes: int
    card: Card
    messages: tuple[Message, ...]
    golden: CheckReport | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen for the user, a sentence each, in Python's words."""
        return tuple(map(str, self.messages))


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
    activation: str | None = None,
    labels: str | Path | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    quantize: bool = False,
    calibration: str | Path | None = None,
    min_agreement: float | None = None,
    target: str | None = None,
    ignore_keys: Sequence[str] = (),
    verify_with: Sequence[str] = (),
    dimensions: int | Sequence[int] = (),
    hidden_states: Sequence[int] | str | None = None,
    calibrate_scores: str | Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Export a checkpoint to one verified file.

    Args:
        source: a Hub id, a checkpoint folder, a Sentence-Transformers folder, or a TensorFlow checkpoint
            (`bert_model.ckpt`, a SavedModel, `.h5`, `.keras`; a file or the folder of one).
        output: the file to write; it appears only when everything passed.
        task: a task, or an alias such as "ner"; default from the checkpoint's architecture.
        revision: branch, tag or commit of a Hub id.
        precision: "fp32", whatever the checkpoint's own, or "fp16", which is meant for CUDA.
        optimize: "none" (Optimum's graph), "basic" (folding), or "full" (attention and GELU fused).
        max_length: a shorter limit than the checkpoint's own, in tokens.
        pooling: of embeddings: "mean", "cls", "max", "last", "weightedmean", "mean_sqrt_len_tokens", or
            several with commas between them; default as the checkpoint says.
        normalize: of embeddings: whether they get length 1; default as the checkpoint says.
        activation: of text classification and ranking: what makes scores of logits, such as "sigmoid",
            "none" or "tanh" (`models.activations`); default the checkpoint's own. "gelu_new" is for the
            encoder of a TensorFlow checkpoint instead: GELU by tanh, as Google's own code computes it.
        labels: a file of the classes' names, one a line, in the order of the logits; default the
            checkpoint's own.
        force: replace an existing output.
        trust_remote_code: run the checkpoint's own Python code.
        allow_pickle: read `.bin` weights where there is no safetensors.
        quantize: make it INT8 (`exporters.int8.rowwise`), after the fp32 graph passed.
        calibration: a file of texts like those that the model will read, by which INT8 and fp16 are tuned and
            judged, and from which the ranges of embeddings are taken; default our own.
        min_agreement: of INT8 and fp16: least agreement with fp32, from 0 to 1; default 0.99
            (`models.figures.AgreementFigures` says what is counted).
        target: of INT8: the machine that it is for, "avx2", "vnni" or "arm64"; default "auto", right on all.
        ignore_keys: keys of the checkpoint's files that are ignored where they would be refused, because no
            library that we know reads them; KEY, or "FILE: KEY".
        verify_with: libraries whose own answers the graph is compared with as well:
            "sentence-transformers", "peft".
        dimensions: of embeddings: a number or several. The file gets the ranges, which int8 and uint8 need,
            of embeddings that are cut to so many numbers and then normalized.
        hidden_states: of embeddings: layers whose token vectors are outputs too, for `embed_tokens(layer=)`;
            numbers as transformers counts `hidden_states`, or "all".
        calibrate_scores: of text classification: a file with columns of texts and labels, by which a
            temperature is fitted that makes scores worth what they say (`exporters.temperature`).
        progress: is told what begins, in a few words.

    Raises:
        UsageError: arguments that are wrong in themselves.
        SourceError: the checkpoint cannot be had.
        CheckpointError: the checkpoint is incomplete or broken.
        UnsupportedError: the family or task cannot be exported.
        FusionError: attention was not found in every layer that should have it.
        ParityError: PyTorch and ONNX Runtime disagree.
        PrecisionError: INT8 or fp16 agrees less with fp32 than was asked, or cannot be had.
        InputError: the calibration file cannot be read, or holds too few texts.
        OutputError: the output exists or cannot be written.
    """
    options = ExportOptions(
        task=task,
        revision=revision,
        precision=precision,
        optimize=optimize,
        max_length=max_length,
        pooling=pooling,
        normalize=normalize,
        activation=activation,
        labels=None if labels is None else Path(labels),
        force=force,
        quantize=quantize,
        calibration=None if calibration is None else Path(calibration),
        min_agreement=min_agreement,
        target=target,
        ignore_keys=tuple(ignore_keys),
        verify_with=(verify_with,) if isinstance(verify_with, str) else tuple(verify_with),
        hidden_states=tuple(hidden_states)
        if isinstance(hidden_states, Sequence) and not isinstance(hidden_states, str)
        else hidden_states,
        dimensions=tuple(dimensions) if isinstance(dimensions, Sequence) else (dimensions,),
        calibrate_scores=None if calibrate_scores is None else Path(calibrate_scores),
    )
    # Before anything is read: an output that is in the way should not be found after minutes of work.
    path = require_free(output, force=options.force)
    require_name(source, SourceError)
    require_installed(options.verify_with)

    progress("reading the checkpoint")
    found = resolve(source, options.revision, Trust(allow_pickle, trust_remote_code))
    with replicated(found, options) as read:
        return exported(read, options, path, progress)


def exported(
    found: Source,
    options: ExportOptions,
    path: Path,
    progress: Callable[[str], None],
    *,
    noted: Noted = lambda _, card, __: card,
    tried: Tried | None = None,
) -> ExportReport:
    """Export a checkpoint that lies on this disk; the rest of `export`, and raises as it does.

    Args:
        found: the checkpoint.
        options: how.
        path: the file to write.
        progress: is told what begins.
        noted: adds to the card what else is known of the finished graph.
        tried: is shown the graph in smaller numbers; the file is then written in fp32, even where smaller
            numbers are not good enough.
    """
    checkpoint = _checkpoint(found, options)
    texts = _texts(checkpoint, options)
    scored = None
    if options.calibrate_scores is not None:
        progress("calibrating scores")
        checkpoint, scored = calibrated(checkpoint, options.calibrate_scores)

    progress("tracing the graph")
    with ThreadPoolExecutor(1) as pool:
        files = pool.submit(files_of, checkpoint.source)  # which takes a core alone
        graph = traced(checkpoint)
    started = _export(checkpoint, graph, path, options, texts, progress, files.result())
    this = replace(started, noted=noted, scored=scored)

    with ExitStack() as stages:
        progress("optimizing the graph")
        # Which is no work for several cores.
        reference = stages.enter_context(begun(checkpoint, this.inputs[:2]))
        card, moved = _optimized(graph, this)
        this = replace(this, moved=moved)
        if found.replica is not None:
            # By the fp32 graph, which holds the numbers as they were; what INT8 makes of them has its names.
            this = replace(this, named=named(graph.model, checkpoint.model))

        # What is compared is the file as written, not the graph in memory, so that writing is tested too.
        staged = stages.enter_context(stage(stamped(graph.model), path))
        progress("comparing with PyTorch")
        session, card = this.compared(staged, card, reference)
        if texts is None or not options.reduced:
            graph.take(onnx.ModelProto())  # what is left to do reads the file
            return _finished(staged, session, card, this)
        reduced = _quantized if options.quantize else _halved
        if tried is not None:
            with suppress(PrecisionError), reduced(graph, session, texts, card, this) as (_, other, its):
                tried(other, its, this.tokenizer)
            return _finished(staged, session, card, this)
        with reduced(graph, session, texts, card, this) as (smaller, session, card):
            return _finished(smaller, session, card, this)


@dataclass(frozen=True)
class _Export:
    """What every step of one export needs.

    Attributes:
        checkpoint: what is exported.
        options: how.
        card: as known before anything was measured.
        path: the file to write.
        tokenizer: the checkpoint's.
        samples: rows that are compared with PyTorch and become golden examples.
        inputs: the same, and pairs of texts where the model reads segments, as inputs of the model.
        texts: what judges smaller numbers, and what ranges of embeddings are of; None where none are needed.
        progress: is told what begins.
        noted: adds to the card what else is known of the finished graph.
        moved: biases that the graph does not hold as they were.
        named: of a TensorFlow checkpoint: where the fp32 graph holds which parameter.
        scored: labelled texts by which scores were calibrated.
    """

    checkpoint: Checkpoint
    options: ExportOptions
    card: Card
    path: Path
    tokenizer: TextTokenizer
    samples: list[Row]
    inputs: list[Feeds]
    texts: CalibrationRows | None
    progress: Callable[[str], None]
    noted: Noted = lambda _, card, __: card
    moved: Moved = field(default_factory=dict)
    named: Named | None = None
    scored: Scored | None = None

    @property
    def context(self) -> DecoderContext:
        """What makes answers of this model's outputs."""
        return DecoderContext(self.card, self.tokenizer)

    @property
    def runs_here(self) -> bool:
        """Whether this CPU can run the file."""
        return not self.options.quantize or runs_here(self.options.machine)

    def ranges(self, session: Session) -> tuple[Ranges, ...]:
        """Return the ranges of the embeddings of a session; none for a task without embeddings."""
        if self.texts is None or not task_named(self.checkpoint.task).pooled:
            return ()
        rows = [*self.texts.tune, *self.texts.judge]
        # A user's own are taken as they are: they say how long texts will be.
        ours = self.options.calibration is None
        rows = openings(rows) if ours else rows
        return ranges_of(rows, session, self.context, dimensions=self.options.dimensions, ours=ours)

    def opened(self, staged: Staged) -> Remembered:
        """Open a staged graph as the runtime will."""
        # One thread on the CPU, so that golden examples do not depend on cores or a GPU of this machine.
        return Remembered(open_session(staged.path, self.card, LoadOptions(provider="cpu", threads=1)))

    def compared(
        self, staged: Staged, card: Card, reference: Reference | None = None
    ) -> tuple[Remembered, Card]:
        """Open a staged graph, compare it with PyTorch, and note the outcome on the card."""
        session = self.opened(staged)
        precision = card.precision
        found = compare(self.checkpoint, session, self.inputs, precision=precision, reference=reference)
        exported = Exported(session, card, self.tokenizer, self.samples)
        others = verify(self.checkpoint, exported, self.options)
        return session, replace(card, parity=replace(found, independent=others))


Reduced = Iterator[tuple[Staged, Remembered, Card]]
"""A staged file with smaller numbers, a session that computes what it holds, and its card."""


def _checkpoint(source: Source, options: ExportOptions) -> Checkpoint:
    if options.quantize:
        # Before weights are read: what an earlier quantization lost could not be measured any more.
        require_unquantized(read_json(source.model_folder / "config.json"), source.id)
    return load_checkpoint(source, options)


def _texts(checkpoint: Checkpoint, options: ExportOptions) -> CalibrationRows | None:
    """Return what judges smaller numbers; read early, so that a wrong file does not cost an export."""
    if not options.reduced and not task_named(checkpoint.task).pooled:
        return None
    return calibration_rows(
        options.calibration, pairs=bool(checkpoint.pairs), mask_token=checkpoint.mask_token
    )


def _export(
    checkpoint: Checkpoint,
    graph: Graph,
    path: Path,
    options: ExportOptions,
    texts: CalibrationRows | None,
    progress: Callable[[str], None],
    files: Mapping[str, str],
) -> _Export:
    card = card_of(checkpoint, graph.model, optimize=options.optimize, files=files)
    tokenizer = TextTokenizer(checkpoint.tokenizer_text, card)
    rows = sample_rows(
        pairs=bool(checkpoint.pairs), mask_token=checkpoint.mask_token, max_length=checkpoint.max_length
    )
    samples = with_tokens(rows, tokenizer)
    # All that the tokenizer makes and the model reads, not what the trace left of it.
    # Not among the golden examples, which keep texts alone.
    prompted = [] if checkpoint.pooled_prompt else prompted_rows(samples, checkpoint.prompts)
    # Among these they are, for queries and documents are not read alike.
    samples += [] if checkpoint.late is None else sided_rows(samples, checkpoint.late.sides)
    inputs = trial_feeds(
        [*samples, *prompted], tokenizer, inputs=fed(checkpoint), pad_token_id=card.pad_token_id
    )
    inputs += segment_feeds(checkpoint, tokenizer)
    return _Export(checkpoint, options, card, path, tokenizer, samples, inputs, texts, progress)


def _optimized(graph: Graph, this: _Export) -> tuple[Card, Moved]:
    """Optimize the graph as far as was asked; return the card with what was fused, and what was moved."""
    optimize, sample = this.options.optimize, this.inputs[0]
    card = replace(this.card, fusions=fuse(graph, this.checkpoint, sample, optimize=optimize))
    # fp16 is converted first: its conversion looks into no branches, and this step makes some.
    if optimize != "full" or this.options.precision != "fp32":
        return card, {}
    quantized = this.options.quantize
    return card, specialize(graph, this.checkpoint, sample, precision="fp32", quantized=quantized)


@contextmanager
def _quantized(
    graph: Graph, reference: Remembered, texts: CalibrationRows, card: Card, this: _Export
) -> Reduced:
    """Quantize a graph that passed, and judge it against fp32."""
    options = this.options
    this.progress("quantizing to INT8")
    made = quantize_model(graph.model, calibration_pieces(texts.tune, this.tokenizer), target=options.machine)
    with ExitStack() as stages:
        staged = stages.enter_context(stage(stamped(made.model), this.path))
        # What this CPU would saturate is judged by its twin in float32, which computes the same.
        judged_file = (
            staged if this.runs_here else stages.enter_context(stage(float_twin(made.model), this.path))
        )
        this.progress("comparing INT8 with fp32")
        session = this.opened(judged_file)
        judged = judge(INT8, reference, session, texts.judge, options=options, context=this.context)
        # A twin in float32 is slow, and its time says nothing of INT8's.
        latency = None
        if this.runs_here:
            latency = measure_latency(reference.fresh, session.fresh, texts.judge, this.tokenizer)
        figures = int8_figures(made.figures, judged, latency)
        yield staged, session, replace(card, precision="int8", quantization=figures)


@contextmanager
def _halved(
    graph: Graph, reference: Remembered, texts: CalibrationRows, card: Card, this: _Export
) -> Reduced:
    """Judge fp16 against a graph in fp32 that passed, and make it."""
    this.progress("comparing fp16 with fp32")
    with stage(stamped(round_to_half(graph.model)), this.path) as rounded:
        session = this.opened(rounded)
        # Both halves judge: nothing of fp16 is tuned on texts, so none has to be held out.
        rows = [*texts.tune, *texts.judge]
        judged = judge(FP16, reference, session, rows, options=this.options, context=this.context)
    this.progress("converting to fp16")
    run([ToHalf()], graph)
    if card.optimize == "full":
        specialize(graph, this.checkpoint, this.inputs[0], precision="fp16")
    figures = HalfFigures(**vars(judged), provider=session.provider)
    with stage(stamped(graph.model), this.path) as staged:
        this.progress("comparing fp16 with PyTorch")
        yield staged, *this.compared(staged, replace(card, precision="fp16", half=figures))


def _finished(staged: Staged, session: Session, card: Card, this: _Export) -> ExportReport:
    """Seal the file, and report what was done.

    Only for a CPU unlike this one is there nothing to replay it with.
    """
    card = this.noted(session, card, this.tokenizer)
    if this.scored is not None:
        card = replace(card, calibration=this.scored.figures(session))
    this.progress("writing the file")
    if this.moved:
        staged.add_metadata({MOVED_KEY: moved_text(this.moved)})
    if this.named is not None:
        staged.add_metadata({PLACES_KEY: as_text(places(staged.path, this.named, this.checkpoint.model))})
    card, replay = seal(
        staged,
        session,
        replace(card, ranges=this.ranges(session)),
        this.tokenizer,
        tokenizer_text=this.checkpoint.tokenizer_text,
        replayed=this.runs_here,
    )
    file = read_model_file(staged.target)
    sidecar = file.sidecars[0] if file.sidecars else None
    return ExportReport(staged.target, sidecar, file.bytes, card, _messages(this, card), replay)


def _messages(this: _Export, card: Card) -> tuple[Message, ...]:
    """Return what was chosen for the user, and what is left to do."""
    messages = [*this.checkpoint.notes]
    config = read_json(this.checkpoint.source.model_folder / "config.json")
    # Version 5 of transformers writes dtype, those before it torch_dtype.
    own = str(config.get("dtype") or config.get("torch_dtype") or "")
    if card.precision == "fp32" and own in ("float16", "bfloat16"):
        messages.append(
            Message(
                "the checkpoint's weights are {own}, and the file's are fp32; {option} keeps them half",
                own=own,
                option=Option("precision", "fp16"),
            )
        )
    if not this.runs_here:
        messages.append(
            Message(
                "this CPU cannot run the file; where it can, type: {call}", call=Call("check", this.path.name)
            )
        )
    return tuple(messages)
