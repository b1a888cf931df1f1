"""INT8 or fp16 against fp32 on this machine: do the answers agree well enough?

Both are run through the runtime's own engine and decoders (`exporters.verify.agreement` compares what they
say); beside that stands the mean difference of the raw outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from bertonnx.errors import PrecisionError, QuantizationError, RowError
from bertonnx.exporters.options import ExportOptions
from bertonnx.exporters.verify.agreement import Closeness, Comparison
from bertonnx.models.figures import AgreementFigures
from bertonnx.models.registry import resolve
from bertonnx.runtime.decoders import DecoderContext
from bertonnx.runtime.engine.engine import Engine
from bertonnx.runtime.rows import Array, Decoder, Encoded, Item, Row, feeds_of
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.session import Session
from bertonnx.wording import Message, Option

__all__ = ["FP16", "INT8", "Reduction", "judge", "no_texts", "require_agreement"]

_RAW_ROWS = 256


@dataclass(frozen=True)
class Reduction:
    """What makes a file's numbers smaller than fp32.

    Attributes:
        name: what they are called.
        option: what asks for it.
        error: what refuses it.
        tuned: whether texts tune it, so that others judge it.
    """

    name: str
    option: Option
    error: type[PrecisionError]
    tuned: bool


INT8 = Reduction("INT8", Option("quantize", True), QuantizationError, tuned=True)
FP16 = Reduction("fp16", Option("precision", "fp16"), PrecisionError, tuned=False)


def judge(
    reduction: Reduction,
    reference: Session,
    candidate: Session,
    rows: Sequence[Row],
    *,
    options: ExportOptions,
    context: DecoderContext,
) -> AgreementFigures:
    """Measure INT8 or fp16 against fp32, and refuse it where they agree less than the user accepts.

    Args:
        reduction: what the candidate is: `INT8` or `FP16`.
        reference: the fp32 model.
        candidate: the INT8 or fp16 model, or one that computes the same where this machine cannot run it.
        rows: texts to compare on, at least one; none that tuned the candidate. Those that fp32 cannot
            predict are left out.
        options: what the user accepts.
        context: of both.

    Raises:
        PrecisionError: of the reduction's class: they agree less than the user accepts, fp32 predicts no
            row, or the candidate fails, or overflows, on one that fp32 predicts.
    """
    # Of a file of several tasks the worst counts, since whoever uses it may want any of them.
    names = (None, *context.card.also)
    contexts = [replace(context, options=replace(context.options, task=name)) for name in names]
    judged = [_compared(reduction, reference, candidate, rows, each) for each in contexts]
    found = min((closeness for closeness, _ in judged), key=lambda closeness: closeness.value)
    rows = judged[0][1]
    raw = list(_raw_outputs(reference, candidate, rows, context))
    # Decoders may make an answer even of infinity, so agreement alone would not notice an overflow.
    if any(np.isfinite(a).all() and not np.isfinite(b).all() for a, b in raw):
        raise _failure(reduction, Message("it puts out numbers that are not finite where fp32's are"))
    figures = AgreementFigures(
        metric=found.metric,
        agreement=found.value,
        worst=found.worst,
        min_agreement=options.least_agreement,
        texts=len(rows),
        mean_abs_difference=sum(float(np.abs(a - b).mean()) for a, b in raw) / len(raw),
    )
    require_agreement(reduction, figures, own_texts=options.calibration is None)
    return figures


def _compared(
    reduction: Reduction,
    reference: Session,
    candidate: Session,
    rows: Sequence[Row],
    context: DecoderContext,
) -> tuple[Closeness, list[Row]]:
    """Return how close two models' answers to one task are, and the rows that fp32 can predict."""
    comparison: Comparison = resolve(context.card.row(context.options.task).comparison)(context)
    expected = _items(reference, context, rows, comparison.decoder)
    # A text that fp32 cannot predict either says nothing of what smaller numbers lost.
    known = [(row, item) for row, item in zip(rows, expected, strict=True) if not isinstance(item, RowError)]
    if not known:
        raise no_texts(reduction)
    left = [row for row, _ in known]
    actual = _predicted(_items(candidate, context, left, comparison.decoder), reduction)
    pairs = [(item, other) for (_, item), other in zip(known, actual, strict=True)]
    return comparison.compare(pairs), left


def require_agreement(reduction: Reduction, figures: AgreementFigures, *, own_texts: bool) -> None:
    """Refuse INT8 or fp16 that agrees less than was asked.

    Args:
        reduction: `INT8` or `FP16`.
        figures: what was measured, and asked.
        own_texts: whether the texts were bertonnx's, because the user gave none.

    Raises:
        PrecisionError: of the reduction's class, naming what may help.
    """
    if figures.agreement >= figures.min_agreement:
        return
    texts = Message(
        "{verb} on texts of the kind that the model reads with {file}"
        if own_texts
        else "{verb} on more texts, or on some nearer to what the model reads, with {file}",
        verb="calibrate" if reduction.tuned else "judge",
        file=Option("calibration", "FILE"),
    )
    raise reduction.error(
        "{precision} agrees with fp32 to {share:.2%} ({metric}) on {texts} texts{held_out}, and {asked:g}% "
        "was asked; no file was written. To mend it: {advice}; accept it with {accept}; or leave {option} "
        "out",
        precision=reduction.name,
        share=_floored(figures.agreement, 4),
        metric=figures.metric,
        texts=figures.texts,
        held_out=" that were held out of calibration" if reduction.tuned else "",
        asked=100 * figures.min_agreement,
        advice=texts,
        accept=Option("min_agreement", _floored(figures.agreement, 3)),
        option=reduction.option,
    )


def no_texts(reduction: Reduction) -> PrecisionError:
    """Return the error that no text could be predicted."""
    return reduction.error(
        "none of the calibration texts could be predicted, so {precision} cannot be judged; give other texts "
        "with {file}",
        precision=reduction.name,
        file=Option("calibration", "FILE"),
    )


def _items(
    session: Session, context: DecoderContext, rows: Sequence[Row], decoder: Decoder
) -> list[Item | RowError]:
    outputs = context.card.dimensions
    threads = allowed_cores()
    with closing(Engine(session, context.tokenizer, threads=threads, outputs=outputs)) as engine:
        return list(engine.map(rows, decoder))


def _predicted(items: Sequence[Item | RowError], reduction: Reduction) -> list[Item]:
    """Return the items; a model that fails on a text is refused, whatever agreement was asked for."""
    errors = [item for item in items if isinstance(item, RowError)]
    if errors:
        how = Message(
            "on {failed} of {all} texts that fp32 predicts, first with: {why}",
            failed=len(errors),
            all=len(items),
            why=errors[0],
        )
        raise _failure(reduction, how)
    return [item for item in items if not isinstance(item, RowError)]


def _failure(reduction: Reduction, how: Message) -> PrecisionError:
    return reduction.error(
        "{precision} fails: {how}; no file was written. Export this model without {option}",
        precision=reduction.name,
        how=how,
        option=reduction.option,
    )


def _raw_outputs(
    reference: Session, candidate: Session, rows: Sequence[Row], context: DecoderContext
) -> Iterator[tuple[Array, Array]]:
    """Yield both sessions' first output for some rows, one by one, without the batch dimension."""
    output = context.card.outputs[0]
    # One by one: in a batch, padding would be compared too.
    for item in context.tokenizer.encode(rows[:_RAW_ROWS]):
        if isinstance(item, Encoded):
            first, second = (
                session.run([output], feeds_of(item.pieces[:1], session.inputs))[0]
                for session in (reference, candidate)
            )
            yield first[0], second[0]


def _floored(share: float, digits: int) -> float:
    """Round down: a share that was refused must not read as the one that was asked for."""
    return float(np.floor(share * 10**digits) / 10**digits)
