"""An evaluation for people: lines for a terminal, one HTML page with pictures, or JSON."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bertonnx.errors import MissingDependencyError, OutputError, UsageError
from bertonnx.runtime.evaluation.figures import Evaluation
from bertonnx.wording import Install, printable

__all__ = ["check_report", "lines", "write_report"]

_ENDINGS = (".html", ".json")
_SHOWN = 30
"""Labels up to which a confusion matrix can be read."""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
  padding: 0 1rem; max-width: 70rem; }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; max-width: 100%; }
figure svg { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
th:first-child, td:first-child, td.text { text-align: left; }
td.text { max-width: 36rem; overflow-wrap: anywhere; }
.warning { color: #a33; font-weight: 600; }
"""

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
        OutputError: its folder is missing or not writable, or it is a folder itself.
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
    # An earlier report stays whole until this one is.
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise OutputError("cannot write {path}: {error}", path=path, error=error.strerror or error) from error
    finally:
        aside.unlink(missing_ok=True)


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
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def _html(evaluation: Evaluation, title: str, about: Sequence[str]) -> str:
    # One file without links or scripts can be mailed, and read where there is no network.
    said = "".join(f"<li>{escape(str(line))}</li>" for line in (*about, *evaluation.messages))
    warned = "".join(f"<p class='warning'>{escape(line)}</p>" for line in warnings(evaluation))
    figures = "".join(f"<figure>{picture}</figure>" for picture in _pictures(evaluation))
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>{warned}{_score_table(evaluation)}{figures}{_labels(evaluation)}"
        f"{_mistakes(evaluation)}<h2>What was done</h2><ul>{said}</ul></body></html>\n"
    )


def _score_table(evaluation: Evaluation) -> str:
    names = list(evaluation.scores)
    rows = [("model", evaluation.scores), *evaluation.baselines.items()]
    head = "".join(f"<th scope='col'>{_NAMES[name]}</th>" for name in names)
    body = "".join(
        f"<tr><td>{escape(who)}</td>"
        + "".join(f"<td>{_figure(scores[name])}</td>" for name in names)
        + "</tr>"
        for who, scores in rows
    )
    main = f"<p>{evaluation.rows} rows{_interval(evaluation, evaluation.main)}</p>"
    return f"{main}<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _labels(evaluation: Evaluation) -> str:
    if not evaluation.labels:
        return ""
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{item.precision:.3f}</td><td>{item.recall:.3f}</td>"
        f"<td>{item.f1:.3f}</td><td>{item.rows}</td></tr>"
        for name, item in evaluation.labels.items()
    )
    head = "<th>label</th><th>precision</th><th>recall</th><th>F1</th><th>rows</th>"
    return f"<h2>Labels</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _mistakes(evaluation: Evaluation) -> str:
    if not evaluation.mistakes:
        return ""
    body = "".join(
        f"<tr><td class='text'>{escape(item.text)}</td><td>{escape(item.label)}</td>"
        f"<td>{escape(item.predicted)}</td><td>{item.score:.3f}</td></tr>"
        for item in evaluation.mistakes
    )
    head = "<th>text</th><th>is</th><th>predicted</th><th>score</th>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<h2>The worst mistakes</h2><div class='wide'>{table}</div>"


def _pictures(evaluation: Evaluation) -> Iterator[str]:
    """Yield SVG: the confusion matrix and the reliability diagram, where the labels are single ones."""
    if evaluation.confusion and len(evaluation.confusion) <= _SHOWN:
        yield _drawn(_draw_confusion, evaluation)
    if evaluation.bins:
        yield _drawn(_draw_reliability, evaluation)


def _drawn(draw: Any, evaluation: Evaluation) -> str:
    matplotlib = _matplotlib()
    with matplotlib.rc_context({"svg.hashsalt": "bertonnx", "svg.fonttype": "none", "font.size": 10}):
        figure = matplotlib.figure.Figure(figsize=(5, 4.4), layout="constrained")
        draw(figure.subplots(), evaluation)
        text = io.StringIO()
        # Without a date, the same figures give the same page.
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _draw_confusion(axes: Any, evaluation: Evaluation) -> None:
    names = [name if len(name) <= 16 else f"{name[:15]}…" for name in evaluation.labels]
    shares = [[count / max(sum(row), 1) for count in row] for row in evaluation.confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), [_literal(name) for name in names], rotation=45, ha="right")
    axes.set_yticks(range(len(names)), [_literal(name) for name in names])
    axes.set(xlabel="predicted", ylabel="is", title="Confusion matrix")
    for i, row in enumerate(evaluation.confusion):
        for j, count in enumerate(row):
            colour = "white" if shares[i][j] > 0.5 else "black"
            axes.text(j, i, str(count), ha="center", va="center", color=colour)


def _draw_reliability(axes: Any, evaluation: Evaluation) -> None:
    bins = [item for item in evaluation.bins if item.rows]
    axes.plot([0, 1], [0, 1], linestyle="--", color="#9a9a9a", label="as promised")
    points = [item.confidence for item in bins], [item.accuracy for item in bins]
    axes.plot(*points, marker="o", color="#0072b2", label="model")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share that is right", title="Reliability")
    axes.legend()


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
