"""An evaluation for people: lines for a terminal, one HTML page with pictures, or JSON."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

from bertonnx.errors import MissingDependencyError, OutputError, UsageError
from bertonnx.runtime.evaluation.figures import Evaluation
from bertonnx.runtime.io.files import replacing, resolved
from bertonnx.runtime.places import require_file_or_none
from bertonnx.wording import Install, printable

__all__ = ["check_report", "lines", "name_of", "write_report"]

_ENDINGS = (".html", ".json")
_SHOWN = 30
"""Labels up to which a confusion matrix can be read."""

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
  padding: 0 1rem; max-width: 70rem; }
h1 { font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
figure { display: inline-block; margin: 1.5rem 1rem 0 0; vertical-align: top; max-width: 100%; width: 29rem; }
figure svg { width: 100%; height: auto; }
figcaption { color: #555; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; }
th:first-child, td.text, th.text { text-align: left; }
tbody th { font-weight: 400; overflow-wrap: break-word; max-width: 20rem; }
.scores tbody tr:first-child > * { font-weight: 600; }
td.text { min-width: 6rem; max-width: 36rem; overflow-wrap: anywhere; white-space: pre-wrap; }
td.text:nth-child(2) { min-width: 14rem; }
.warning { color: #8a1f1f; background: #fdf1f0; border-left: 4px solid #8a1f1f; padding: .4rem .8rem; }
@media print {
  body { margin: 0; max-width: none; font-size: 11pt; }
  figure, tr, .warning { break-inside: avoid; }
  h2 { break-after: avoid; }
  figure { width: 45%; }
  thead { display: table-header-group; }
  .wide { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

_SURE = {"regression": "error", "entities": "wrong entities"}
"""What the last figure of a mistake is; else its score."""

_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "exact": "all labels right",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "mae": "mean error",
    "rmse": "root mean square error",
}


def check_report(path: str | Path) -> Path:
    """Check, before anything is measured, that a report can be written there, and return the path.

    Raises:
        UsageError: its ending names no format.
        OutputError: its folder is missing or not writable, or it is a folder itself, a pipe or a device.
        MissingDependencyError: it is a .html and Matplotlib, which draws its pictures, is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in _ENDINGS:
        raise UsageError(
            "the ending of the report {path} names no format; use one of {endings}",
            path=target,
            endings=" ".join(_ENDINGS),
        )
    if target.is_dir():
        raise OutputError("the report {path} is a folder; name a file in it", path=target)
    require_file_or_none(target)
    try:
        # Tried, as permissions do not say what a full or read-only disk does.
        tempfile.TemporaryFile(dir=target.resolve().parent).close()
    except OSError as error:
        raise OutputError(
            "cannot write {path}: {error}", path=target, error=error.strerror or error
        ) from error
    if target.suffix.lower() == ".html":
        _matplotlib()
    return target


def write_report(path: Path, evaluation: Evaluation, *, title: str, about: Sequence[str] = ()) -> None:
    """Write a report; it appears whole or not at all.

    Args:
        path: a `.html` or `.json` file.
        evaluation: what was measured.
        title: of the page.
        about: lines on what was done.

    Raises:
        OutputError: the file cannot be written.
    """
    if path.suffix.lower() == ".json":
        # For programs: unrounded, and with a number that rises when a field changes its meaning.
        text = json.dumps({"format": 1, **evaluation.as_dict()}, indent=2, ensure_ascii=False) + "\n"
    else:
        text = printable(_html(evaluation, title, about))
    try:
        # An earlier report stays whole until this one is.
        with replacing(resolved(path)) as file:
            file.write(text.encode())
    except OSError as error:
        raise OutputError("cannot write {path}: {error}", path=path, error=error.strerror or error) from error


def name_of(figure: str) -> str:
    """Return what people call a figure."""
    return _NAMES[figure]


def lines(evaluation: Evaluation) -> Iterator[str]:
    """Yield an evaluation in lines for a terminal."""
    yield f"  measured    on {evaluation.rows} rows"
    for name, value in evaluation.scores.items():
        yield f"  {_NAMES[name]:<22}  {_figure(value)}{_interval(evaluation, name)}"
    for name, scores in evaluation.baselines.items():
        shown = ", ".join(f"{_NAMES[score]} {_figure(value)}" for score, value in list(scores.items())[:2])
        yield f"  {name + ' baseline':<22}  {shown}"
    yield from (f"  warning: {line}" for line in warnings(evaluation))
    if evaluation.labels:
        width = max(5, *(len(name) for name in list(evaluation.labels)[:_SHOWN]))
        yield f"  {'label':<{width}}  precision  recall      F1    rows"
        for name, item in list(evaluation.labels.items())[:_SHOWN]:
            yield (
                f"  {name:<{width}}  {item.precision:9.3f}  {item.recall:6.3f}  {item.f1:6.3f}  {item.rows:6}"
            )
    if evaluation.ece is not None:
        yield f"  calibration error (ECE) {evaluation.ece:.3f}"


def warnings(evaluation: Evaluation) -> Iterator[str]:
    """Yield what should make people think twice."""
    for name, better in evaluation.better.items():
        if not better:
            yield f"the model is not better than the {name} baseline, beyond chance"
    # An accuracy can be high where a rare label is never said.
    never = [name for name, item in evaluation.labels.items() if item.rows and not item.recall]
    if never:
        yield f"never found: {', '.join(never[:8])}"


def _interval(evaluation: Evaluation, name: str) -> str:
    bounds = evaluation.intervals.get(name)
    return f"  (95% interval {_figure(bounds[0])} to {_figure(bounds[1])})" if bounds else ""


def _figure(value: float) -> str:
    # Errors are as small or large as the amounts; four places of 0.00002 are none.
    plain = value == 0 or 1e-3 <= abs(value) < 10
    return f"{value:.4f}" if plain else f"{value:.4g}"


def _html(evaluation: Evaluation, title: str, about: Sequence[str]) -> str:
    # One file without links or scripts can be mailed, and read where there is no network.
    said = "".join(f"<li>{escape(str(line))}</li>" for line in (*about, *evaluation.messages))
    warned = "".join(f"<p class='warning'>Warning: {escape(line)}</p>" for line in warnings(evaluation))
    figures = "".join(_pictures(evaluation))
    done = f"<h2>What was done</h2><ul>{said}</ul>" if said else ""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{warned}{_score_table(evaluation)}{figures}{_labels(evaluation)}"
        f"{_mistakes(evaluation)}{done}</main></body></html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Sequence[int] = ()) -> str:
    """Return a table; the first cell of a row says what the row is. `texts` are the columns of words."""

    def cell(kind: str, column: int, text: str) -> str:
        words = " class='text'" if column in texts else ""
        return f"<{kind}{words}>{escape(text)}</{kind.partition(' ')[0]}>"

    top = "".join(cell("th scope='col'", at, name) for at, name in enumerate(head))
    body = "".join(
        "<tr>"
        + cell("th scope='row'", 0, row[0])
        + "".join(cell("td", at, text) for at, text in enumerate(row) if at)
        + "</tr>"
        for row in rows
    )
    return f"<div class='wide'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _score_table(evaluation: Evaluation) -> str:
    names = list(evaluation.scores)
    rows = [
        (who, *(_figure(scores[name]) for name in names))
        for who, scores in (("model", evaluation.scores), *evaluation.baselines.items())
    ]
    name = _NAMES[evaluation.main]
    measured = f"Measured on {evaluation.rows} rows. {name[0].upper()}{name[1:]}"
    main = f"<p>{measured}{_interval(evaluation, evaluation.main) or '.'}</p>"
    return f"{main}<div class='scores'>{_table(['', *(_NAMES[name] for name in names)], rows)}</div>"


def _labels(evaluation: Evaluation) -> str:
    if not evaluation.labels:
        return ""
    rows = [
        (name, f"{item.precision:.3f}", f"{item.recall:.3f}", f"{item.f1:.3f}", str(item.rows))
        for name, item in evaluation.labels.items()
    ]
    return f"<h2>Labels</h2>{_table(['label', 'precision', 'recall', 'F1', 'rows'], rows)}"


def _mistakes(evaluation: Evaluation) -> str:
    if not evaluation.mistakes:
        return ""
    rows = [
        (str(item.row), item.text, item.label or "none", item.predicted or "none", f"{item.score:.3f}")
        for item in evaluation.mistakes
    ]
    table = _table(
        ["row", "text", "is", "predicted", _SURE.get(evaluation.kind, "score")], rows, texts=(1, 2, 3)
    )
    return f"<h2>The worst mistakes</h2>{table}"


def _pictures(evaluation: Evaluation) -> Iterator[str]:
    """Yield figures: of single labels the confusion matrix and the reliability diagram; of amounts dots."""
    if evaluation.confusion and len(evaluation.confusion) <= _SHOWN:
        right = sum(row[place] for place, row in enumerate(evaluation.confusion))
        said = f"Each row of labels, by what was predicted: {right} of {evaluation.rows} are right."
        yield _drawn(_draw_confusion, evaluation, "Confusion matrix", said)
    if evaluation.bins:
        gap = "" if evaluation.ece is None else f" On average they are {evaluation.ece:.3f} apart (ECE)."
        said = f"How often a prediction with a score is right; on the dashed line scores are honest.{gap}"
        yield _drawn(_draw_reliability, evaluation, "Reliability diagram", said)
    if evaluation.amounts:
        count = len(evaluation.amounts)
        said = f"What is, and what is predicted, of {count} rows; on the dashed line both agree."
        yield _drawn(_draw_amounts, evaluation, "Predictions", said)


def _drawn(draw: Any, evaluation: Evaluation, name: str, said: str) -> str:
    matplotlib = _matplotlib()
    drawn = {"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 10}
    with matplotlib.rc_context(drawn), catch_warnings():
        # Of letters that its own font has not; the reader's browser has.
        simplefilter("ignore")
        figure = matplotlib.figure.Figure(figsize=(5, 4.4), layout="constrained")
        draw(figure.subplots(), evaluation)
        text = io.StringIO()
        # Without a date, the same figures give the same page.
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    # One picture with a name to whoever hears the page, and not a heap of numbers.
    svg = (
        f"<svg role='img' aria-label='{escape(f'{name}. {said}', quote=True)}'{svg[svg.index('<svg') + 4 :]}"
    )
    return f"<figure>{svg}<figcaption>{escape(said)}</figcaption></figure>"


def _draw_confusion(axes: Any, evaluation: Evaluation) -> None:
    names = [name if len(name) <= 16 else f"{name[:15]}…" for name in evaluation.labels]
    shares = [[count / max(sum(row), 1) for count in row] for row in evaluation.confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), [_literal(name) for name in names], rotation=45, ha="right")
    axes.set_yticks(range(len(names)), [_literal(name) for name in names])
    axes.set(xlabel="predicted", ylabel="is", title="Confusion matrix")
    for i, row in enumerate(evaluation.confusion):
        for j, count in enumerate(row):
            # The other could not be read on the blue of a share of two thirds.
            colour = "white" if shares[i][j] > 0.7 else "black"
            axes.text(j, i, str(count), ha="center", va="center", color=colour)


def _draw_reliability(axes: Any, evaluation: Evaluation) -> None:
    bins = [item for item in evaluation.bins if item.rows]
    axes.plot([0, 1], [0, 1], linestyle="--", color="#595959", label="as promised")
    points = [item.confidence for item in bins], [item.accuracy for item in bins]
    axes.plot(*points, marker="o", color="#0072b2", label="model")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share that is right", title="Reliability")
    axes.legend()


def _draw_amounts(axes: Any, evaluation: Evaluation) -> None:
    actual, predicted = zip(*evaluation.amounts, strict=True)
    axes.axline((actual[0], actual[0]), slope=1, linestyle="--", color="#595959")
    axes.plot(actual, predicted, ".", color="#0072b2", alpha=0.6)
    axes.set(xlabel="is", ylabel="predicted", title="Predictions")


def _literal(text: str) -> str:
    # Matplotlib would set what stands between dollar signs as mathematics.
    return text.replace("$", r"\$")


def _matplotlib() -> Any:
    try:
        import matplotlib.figure
    except ImportError as error:
        raise MissingDependencyError(
            "a report with pictures needs Matplotlib; install it with: {install}, or write a .json",
            install=Install("evaluate"),
        ) from error
    return matplotlib
