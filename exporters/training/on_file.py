"""A head on the vectors of a model file: fitted, merged into its graph, checked, and written as a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Thread

import numpy as np
from onnx import TensorProto, helper

from bertonnx.errors import ParityError, TaskError
from bertonnx.exporters.onnxgraph.files import load_proto
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.staging import seal, stage, stamped
from bertonnx.exporters.training.candidate import Candidate
from bertonnx.exporters.training.features import text_vectors, token_vectors
from bertonnx.exporters.training.heads import Head, text_head, token_head
from bertonnx.exporters.training.lesson import Lesson, cut_texts
from bertonnx.exporters.training.options import TrainOptions
from bertonnx.models.activations import ACTIVATIONS
from bertonnx.models.card import Card
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import CLASSIFIER, ENCODER, TAGGER
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.evaluation.figures import Evaluation
from bertonnx.runtime.evaluation.labelled import Labelled
from bertonnx.runtime.evaluation.tagged import Tagged
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.rows import Encoded, Row, as_rows, feeds_of
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.session import Session, open_session
from bertonnx.runtime.tokenization import TextTokenizer
from bertonnx.wording import Message, Option

__all__ = ["merge", "train_head"]

_TOLERANCE = 1e-4
"""Largest difference of the file's logits from scikit-learn's, times max(1, the largest of them)."""

_COMPARED = 32
"""Rows that are compared."""

_CPU = LoadOptions(provider="cpu", threads=1)
"""One thread, so that golden examples do not depend on cores or a GPU of this machine."""


def train_head(
    base: Path,
    lesson: Lesson,
    path: Path,
    options: TrainOptions,
    progress: Callable[[str], None],
) -> tuple[Card, Evaluation, tuple[Message, ...]]:
    """Fit a head on the vectors of a model file, and write both as one file.

    Args:
        base: a file that bertonnx made for feature extraction, of any precision.
        lesson: what is to be learned.
        path: the file to write.
        options: how.
        progress: is told what begins.

    Returns:
        The file's card, what was measured, and what the user should know.

    Raises:
        TaskError: the base puts out no vectors.
        ParityError: the file's logits are not scikit-learn's.
        BertonnxError: the base cannot be used, or the output cannot be written.
    """
    file = read_model_file(base)
    _require_vectors(base, file.card)
    given, text = file.card, file.tokenizer
    if options.max_length is not None:
        given = replace(
            given, max_length=TextTokenizer(text, given, max_length=options.max_length).max_length
        )
    # As the file will read them: entities past the limit are learned and found in windows.
    row = TAGGER if lesson.tagged else CLASSIFIER
    tokenizer = TextTokenizer(text, given, long_text=row.long_text)
    session = open_session(base, given, _CPU)
    outputs = task_named(given.task).outputs
    progress("embedding the texts")
    # It takes a second to import, and no tokens.
    Thread(target=import_module, args=("sklearn.linear_model",)).start()
    with closing(Engine(session, tokenizer, threads=allowed_cores(), outputs=outputs)) as engine:
        head, cut = _fitted(engine, lesson.split.train, options, progress)
    progress("writing the head into the graph")
    graph = Graph(load_proto(base))
    merge(graph, head, tagged=lesson.tagged)
    card = _card(given, head, lesson)
    # What is measured is the file as written, not the graph in memory, so that writing is tested too.
    with stage(stamped(graph.model), path) as staged:
        merged = open_session(staged.path, card, _CPU)
        difference = _compared(session, merged, head, lesson, tokenizer)
        progress("measuring")
        with closing(Candidate(merged, card, tokenizer)) as candidate:
            evaluation = lesson.measure(candidate)
            unread = cut_texts("measure", candidate.cut, evaluation.rows, candidate.max_length)
        figures = lesson.figures(
            evaluation,
            kind="head",
            base={**given.source, "file_sha256": hashlib.sha256(base.read_bytes()).hexdigest()},
            options=options,
            settings={"strength": head.strength, "class_weights": options.class_weights},
        )
        card = replace(card, training=replace(figures, difference=difference))
        progress("writing the file")
        card, _ = seal(staged, merged, card, TextTokenizer(text, card), tokenizer_text=text)
    said = cut_texts("train", cut, len(lesson.split.train), tokenizer.max_length)
    return card, evaluation, (*said, *unread)


def merge(graph: Graph, head: Head, *, tagged: bool) -> None:
    """Put a head on a graph of embeddings, in place: `logits` and `scores` in place of the vectors.

    Args:
        graph: with the outputs `sentence_embedding` (batch, width) and `last_hidden_state` (batch, tokens,
            width).
        head: what makes logits of them.
        tagged: whether it is for tokens.
    """
    row = TAGGER if tagged else CLASSIFIER
    weight = graph.add_constant(head.weight.T, np.float32, "head.weight")
    # MatMul and Add, not Gemm, whose last bits may depend on the rows beside one.
    product = graph.add("MatMul", [_vectors(tagged=tagged), weight], "head.product")
    bias = graph.add_constant(head.bias, np.float32, "head.bias")
    graph.add("Add", [product, bias], "logits", output="logits")
    activated = resolve(ACTIVATIONS[head.activation].graph)(graph, "logits", "activated")
    graph.add("Identity", [activated], "scores", output="scores")
    sizes: dict[str, str | int] = {
        "batch": "batch_size",
        "tokens": "sequence_length",
        "labels": len(head.labels),
    }
    del graph.proto.output[:]
    graph.proto.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [sizes[axis] for axis in axes])
        for name, axes in row.outputs.items()
    )
    graph.finish()


def _vectors(*, tagged: bool) -> str:
    """Return the output of the encoder's file that a head reads."""
    sentence, tokens = ENCODER.outputs
    return tokens if tagged else sentence


def _fitted(
    engine: Engine, rows: Labelled | Tagged, options: TrainOptions, progress: Callable[[str], None]
) -> tuple[Head, int]:
    """Return the head, and how many of the texts were cut."""
    if isinstance(rows, Tagged):
        vectors, tags, cut = token_vectors(engine, rows)
        progress("fitting the head")
        return token_head(vectors, tags, options), cut
    embedded, cut = text_vectors(engine, rows)
    progress("fitting the head")
    return text_head(embedded, rows, options), cut


def _card(card: Card, head: Head, lesson: Lesson) -> Card:
    row = TAGGER if lesson.tagged else CLASSIFIER
    train = lesson.split.train
    return replace(
        card,
        task=row.name,
        labels=head.labels,
        problem_type=None if lesson.tagged else head.kind,
        pairs=isinstance(train, Labelled) and train.pairs is not None,
        pooling=None,
        normalize=False,
        width=None,
        similarity=None,
        activation=head.activation,
        outputs=tuple(row.outputs),
        # Of the vectors, which are no output any more, and of other heads and layers.
        parity=None,
        hidden_states=(),
        layers=None,
        also=(),
        ranges=(),
    )


def _compared(base: Session, merged: Session, head: Head, lesson: Lesson, tokenizer: TextTokenizer) -> float:
    """Return the largest difference of the merged graph's logits from the head's on the base's vectors.

    Raises:
        ParityError: it is too large.
    """
    rows = lesson.split.validation
    pairs = rows.pairs if isinstance(rows, Labelled) else None
    shown = as_rows(rows.texts[:_COMPARED], None if pairs is None else pairs[:_COMPARED])
    gaps, sizes = [0.0], [1.0]
    for encoded in tokenizer.encode([row for row in shown if isinstance(row, Row)]):
        if isinstance(encoded, Encoded):
            feeds = feeds_of(encoded.pieces[:1], base.inputs)
            (vectors,) = base.run([_vectors(tagged=lesson.tagged)], feeds)
            (logits,) = merged.run(["logits"], feeds)
            wanted = head.logits(vectors[0])
            gaps.append(float(np.abs(logits[0] - wanted).max(initial=0.0)))
            sizes.append(float(np.abs(wanted).max(initial=0.0)))
    difference, allowed = max(gaps), _TOLERANCE * max(sizes)
    if not difference <= allowed:
        raise ParityError(
            "the head in the graph gives other logits than scikit-learn's: largest difference "
            "{difference:.3g}, allowed {allowed:.3g}; no file was written. Please report the model",
            difference=difference,
            allowed=allowed,
        )
    return difference


def _require_vectors(base: Path, card: Card) -> None:
    if not task_named(card.task).pooled:
        raise TaskError(
            "{base} was exported for {task}, and a head is trained on the vectors of a file for {wanted}; "
            "export the checkpoint with {option}, or train the checkpoint itself",
            base=base,
            task=card.task,
            wanted=ENCODER.name,
            option=Option("task", ENCODER.name),
        )
