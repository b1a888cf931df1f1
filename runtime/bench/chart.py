"""Charts of a benchmark: what is drawn, as SVG (no package needed) and as PNG (Matplotlib)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, BinaryIO

from bertonnx.errors import MissingDependencyError
from bertonnx.runtime.bench.measure import BenchReport, BenchRow
from bertonnx.wording import Install

__all__ = ["Bars", "Line", "Lines", "charts", "require_matplotlib", "save_png", "svg"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/)."""

_GREY = "#9a9a9a"

_WIDTH, _PLOT = 640, 300
_RIGHT, _TOP, _BOTTOM = 20, 44, 52
_LEGEND_ROW = 18
_AXIS_TITLE, _DIGIT, _GAP = 28, 8.3, 8
"""Room for the upright title of an axis, for a digit beside it (in the widest fonts), and up to the chart."""


@dataclass(frozen=True)
class Line:
    """One series: its name, and (tokens, value) by rising tokens."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Lines:
    """A chart of values against tokens; tokens on a logarithmic axis, values too where `log` says so."""

    title: str
    unit: str
    log: bool
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Bars:
    """A chart of one value for each name; where some are `marked`, the others are grey."""

    title: str
    unit: str
    bars: tuple[tuple[str, float], ...]
    marked: frozenset[str] = frozenset()


def charts(report: BenchReport) -> list[Lines | Bars]:
    """Return what there is to draw: latency against length, throughput against length, the user's file."""
    measured = [row for row in report.rows if row.problem is None]
    grid = [row for row in measured if row.batch_size is not None]
    sizes = sorted({row.batch_size for row in grid if row.batch_size is not None})
    drawn: list[Lines | Bars] = []
    if sizes:
        # The smallest batch is what one user waits for, the largest is what a job is made of.
        drawn.append(_latency(grid, sizes[0]))
    if sizes and sizes[-1] > 1:
        drawn.append(_throughput(grid, sizes[-1]))
    files = [row for row in measured if row.batch_size is None]
    if files:
        bars = tuple((name, row.texts_per_second or 0.0) for name, row in _named(files))
        drawn.append(Bars(f"{files[0].input} from file to results (more is better)", "texts a second", bars))
    return drawn


def svg(chart: Lines | Bars) -> str:
    """Return a chart as an SVG element that needs no script, style or font from elsewhere."""
    return _bars_svg(chart) if isinstance(chart, Bars) else _lines_svg(chart)


def require_matplotlib() -> None:
    """Raise where no Matplotlib is installed.

    Raises:
        MissingDependencyError: it is not; the message says what to type.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "a .png needs Matplotlib; type: {install} (a .html has the same charts and needs nothing)",
            install=Install("bench"),
        ) from error


def save_png(report: BenchReport, file: BinaryIO) -> None:
    """Draw the charts side by side.

    Raises:
        MissingDependencyError: Matplotlib is not installed.
    """
    require_matplotlib()
    # Not pyplot, which looks for a display and keeps every figure that it made.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = charts(report)
    figure = Figure(figsize=(6.8 * max(1, len(drawn)), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, chart in zip(figure.subplots(1, max(1, len(drawn)), squeeze=False)[0], drawn, strict=False):
        _draw_bars(axes, chart) if isinstance(chart, Bars) else _draw_lines(axes, chart)
    if not drawn:
        figure.axes[0].set_axis_off()
        figure.axes[0].text(0.5, 0.5, "nothing could be measured", ha="center", va="center")
    about = report.machine
    figure.supxlabel(
        f"{about['cpu']}, {about['cores_allowed']} cores, ONNX Runtime {about['onnxruntime']}", size=9
    )
    figure.savefig(file, format="png", dpi=150)


def _latency(rows: Sequence[BenchRow], size: int) -> Lines:
    what = "one text" if size == 1 else f"a batch of {size} texts"
    return Lines(
        f"Latency of {what} (less is better)", "milliseconds, median", True, _series(rows, size, "p50_ms")
    )


def _throughput(rows: Sequence[BenchRow], size: int) -> Lines:
    lines = _series(rows, size, "tokens_per_second")
    return Lines(f"Throughput, {size} texts at a time (more is better)", "tokens a second", False, lines)


def _series(rows: Sequence[BenchRow], size: int, value: str) -> tuple[Line, ...]:
    points: dict[str, list[tuple[float, float]]] = {}
    for name, row in _named(rows):
        if row.batch_size == size:
            points.setdefault(name, []).append((float(row.length or 0), float(getattr(row, value))))
    return tuple(Line(name, tuple(sorted(values))) for name, values in points.items())


def _named(rows: Sequence[BenchRow]) -> Iterator[tuple[str, BenchRow]]:
    """Yield rows with the least name that tells their configuration from the others."""
    # What is the same everywhere would only make the names long.
    several_models = len({row.model for row in rows}) > 1
    several_threads = len({row.threads for row in rows}) > 1
    for row in rows:
        threads = f"{row.threads} thread{'s' if row.threads > 1 else ''}" if several_threads else ""
        parts = (row.model if several_models else "", row.provider, row.precision, threads)
        yield ", ".join(part for part in parts if part), row


def _lines_svg(chart: Lines) -> str:
    values = [y for line in chart.lines for _, y in line.points]
    lengths = sorted({x for line in chart.lines for x, _ in line.points})
    ticks = _log_ticks(min(values), max(values)) if chart.log else _ticks(max(values))
    top = _TOP + _LEGEND_ROW * len(chart.lines)
    floor = top + _PLOT
    left = _AXIS_TITLE + _DIGIT * max(len(_number(tick)) for tick in ticks) + _GAP

    def x_of(x: float) -> float:
        return _along(x, lengths[0], lengths[-1], left + 20, _WIDTH - _RIGHT - 20, log=True)

    def y_of(y: float) -> float:
        return _along(y, ticks[0], ticks[-1], floor, top, log=chart.log)

    parts = [*_frame(chart, [(tick, y_of(tick)) for tick in ticks], left=left, middle=floor - _PLOT / 2)]
    for x in lengths:
        parts.append(_text(x_of(x), floor + 18, f"{x:g}", anchor="middle"))
    parts.append(_text((left + _WIDTH) / 2, floor + 40, "tokens in a text", anchor="middle"))
    for i, line in enumerate(chart.lines):
        colour = _COLOURS[i % len(_COLOURS)]
        places = [(x_of(x), y_of(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2.5" points="{path}"/>')
        for (x, y), (length, value) in zip(places, line.points, strict=True):
            tip = escape(f"{line.name}: {_number(value)} {chart.unit} at {length:g} tokens")
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{tip}</title></circle>'
            )
        y = _TOP + _LEGEND_ROW * i + 4
        parts.append(f'<rect x="{left:.1f}" y="{y - 7}" width="18" height="4" fill="{colour}"/>')
        parts.append(_text(left + 26, y, line.name))
    return _svg(parts, floor + _BOTTOM, chart.title)


def _bars_svg(chart: Bars) -> str:
    most = max(value for _, value in chart.bars) or 1.0
    # Names stand above their bars: beside them, long paths would leave no room for the bars.
    parts = [_text(16, 24, chart.title, size=16), _text(16, 42, chart.unit)]
    for i, (name, value) in enumerate(chart.bars):
        y, width = 62 + 46 * i, (_WIDTH - 140) * value / most
        parts.append(_text(16, y + 8, name))
        colour = _bar_colour(chart, i)
        parts.append(f'<rect x="16" y="{y + 14}" width="{width:.1f}" height="16" fill="{colour}"/>')
        parts.append(_text(24 + width, y + 27, _number(value)))
    return _svg(parts, 70 + 46 * len(chart.bars), chart.title)


def _bar_colour(chart: Bars, place: int) -> str:
    # Grey beside one colour can be told apart by everybody, and in print.
    if not chart.marked:
        return _COLOURS[place % len(_COLOURS)]
    return _COLOURS[0] if chart.bars[place][0] in chart.marked else _GREY


def _frame(
    chart: Lines, ticks: Sequence[tuple[float, float]], *, left: float, middle: float
) -> Iterator[str]:
    yield _text(16, 24, chart.title, size=16)
    for value, y in ticks:
        yield f'<line x1="{left:.1f}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        yield _text(left - _GAP, y + 4, _number(value), anchor="end")
    yield (
        f'<text x="16" y="{middle:.1f}" font-size="13" text-anchor="middle" '
        f'transform="rotate(-90 16 {middle:.1f})">{escape(chart.unit)}</text>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 13) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" fill="#222">'
        f'<rect width="{_WIDTH}" height="{height:g}" fill="#fff"/>{"".join(parts)}</svg>'
    )


def _along(value: float, low: float, high: float, start: float, end: float, *, log: bool) -> float:
    # A single value has no span to stand in.
    if high <= low:
        return (start + end) / 2
    part = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
    return start + part * (end - start)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, from the last one at most `low` to the first at least `high`."""
    steps = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
        for factor in (1, 2, 5)
    ]
    first = max(i for i, step in enumerate(steps) if step <= low)
    last = min(i for i, step in enumerate(steps) if step >= high)
    return steps[first : max(last, first + 1) + 1]


def _ticks(high: float) -> list[float]:
    """Return four to eight round numbers from 0 to at least `high`."""
    step = next(step for step in _log_ticks(high / 10, 10 * high) if high / step <= 7)
    return [step * i for i in range(math.ceil(high / step) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _draw_lines(axes: Any, chart: Lines) -> None:
    for i, line in enumerate(chart.lines):
        axes.plot(
            [x for x, _ in line.points],
            [y for _, y in line.points],
            marker="o",
            color=_COLOURS[i % len(_COLOURS)],
            label=line.name,
        )
    lengths = sorted({x for line in chart.lines for x, _ in line.points})
    values = [y for line in chart.lines for _, y in line.points]
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{x:g}" for x in lengths])
    axes.set_yscale("log" if chart.log else "linear")
    ticks = _log_ticks(min(values), max(values)) if chart.log else _ticks(max(values))
    axes.minorticks_off()
    axes.set_yticks(ticks, [_number(tick) for tick in ticks])
    axes.set_ylim(ticks[0], ticks[-1])
    axes.set(title=chart.title, xlabel="tokens in a text", ylabel=chart.unit)
    axes.grid(axis="y", color="#ddd")
    axes.legend(frameon=False)


def _draw_bars(axes: Any, chart: Bars) -> None:
    names, values = zip(*chart.bars, strict=True)
    bars = axes.barh(names, values, color=[_bar_colour(chart, i) for i in range(len(names))])
    axes.bar_label(bars, [_number(value) for value in values], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(title=chart.title, xlabel=chart.unit)
