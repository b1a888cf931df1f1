"""A benchmark written down: a table on the terminal, JSON, CSV, Markdown, PNG, one HTML page."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx.errors import OutputError, UsageError
from bertonnx.runtime.bench.chart import charts, require_matplotlib, save_png, svg
from bertonnx.runtime.bench.measure import BenchReport, BenchRow
from bertonnx.runtime.io.files import replacing, resolved
from bertonnx.runtime.places import require_file_or_none
from bertonnx.wording import making_folder, printable

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["ENDINGS", "check_report_output", "machine_lines", "problems", "terminal_table", "write_report"]

ENDINGS = (".json", ".csv", ".md", ".html", ".png")

_FORMAT = 1
"""Rises when a field of the JSON changes its meaning."""

_TEXT_COLUMNS = 4
"""Columns from the left that hold words; the others hold numbers."""

_SHARED_COLUMNS = 5
"""Columns from the left that are often the same in every row."""

_MARKUP = re.compile(r"[\\`*~|\[\]]|(?<!\w)_|_(?!\w)")
"""What is markup in a line of Markdown, tags aside: an underscore only at the edge of a word."""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
  padding: 0 1rem; max-width: 84rem; }
figure { display: inline-block; width: min(40rem, 100%); margin: 0 1rem 1rem 0; vertical-align: top; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:nth-child(-n+4), td:nth-child(-n+4), td.problem { text-align: left; }
td:nth-child(1), td:nth-child(4), td.problem { white-space: normal; overflow-wrap: anywhere; }
td:nth-child(1) { min-width: 8rem; }
td.problem { color: #a33; }
"""


def check_report_output(path: str | Path) -> Path:
    """Check, before anything is measured, that a report can be written there, and return the path.

    Raises:
        UsageError: its ending names no format.
        OutputError: its folder is missing or not writable, or it is a folder itself.
        MissingDependencyError: it is a .png and Matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in ENDINGS:
        raise UsageError(
            "the ending of the output {path} names no format; use one of {endings}",
            path=target,
            endings=" ".join(ENDINGS),
        )
    if target.is_dir():
        raise OutputError(
            "the output {path} is a folder; name a file in it, such as {example}",
            path=target,
            example=target / "bench.md",
        )
    require_file_or_none(target)
    folder = target.resolve().parent
    if not folder.is_dir():
        raise OutputError(
            "there is no folder {folder}; make it with: {line}", folder=folder, line=making_folder(folder)
        )
    try:
        # Tried, as permissions do not say what a full or read-only disk does.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            "cannot write {path}: {error}", path=target, error=error.strerror or error
        ) from error
    if target.suffix.lower() == ".png":
        require_matplotlib()
    return target


def write_report(report: BenchReport, path: str | Path) -> None:
    """Write a report; the format follows from the ending. The file appears whole or not at all.

    Raises:
        UsageError: the ending names no format.
        OutputError: the file cannot be written.
        MissingDependencyError: it is a .png and Matplotlib is not installed.
    """
    target = check_report_output(path)
    ending = target.suffix.lower()
    try:
        # An earlier report stays whole until this one is.
        with replacing(resolved(target)) as file:
            if ending == ".png":
                save_png(report, file)
            else:
                text = _MAKERS[ending](report)
                # CSV is for programs, and its lines end in CR LF.
                file.write((text if ending == ".csv" else printable(text)).encode())
    except OSError as error:
        raise OutputError("cannot write {path}: {error}", path=path, error=error.strerror or error) from error


def terminal_table(report: BenchReport) -> Table:
    """Return the measured rows as a table for a rich console; what all have in common is its title."""
    from rich.table import Table
    from rich.text import Text

    header = _header(report.rows)
    lines = [_cells(row, report.rows) for row in report.rows if row.problem is None]
    # What all rows share would push the figures off the screen.
    common = [i for i in range(_SHARED_COLUMNS) if len({line[i] for line in lines}) == 1]
    shared = ", ".join(f"{lines[0][i]} threads" if header[i] == "threads" else lines[0][i] for i in common)
    title = Text(printable(shared)) if shared else None
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for i, name in enumerate(header):
        if i not in common:
            table.add_column(name, justify="left" if i < _TEXT_COLUMNS else "right", no_wrap=name != "model")
    for line in lines:
        table.add_row(*(Text(printable(cell)) for i, cell in enumerate(line) if i not in common))
    return table


def machine_lines(report: BenchReport) -> list[str]:
    """Return the machine in words, a line each."""
    about = report.machine
    lines = [
        f"{about['cpu']}, {about['cores_allowed']} of {about['cores']} cores allowed"
        + (f", load average {about['load_average']}" if about["load_average"] is not None else ""),
        f"instruction sets: {', '.join(about['instruction_sets']) or 'unknown'}",
        *(f"GPU: {name}" for name in about["gpus"]),
        *([f"memory: {about['memory_gib']:g} GiB"] if about["memory_gib"] else []),
        f"{about['system']}, Python {about['python']}",
    ]
    names = ("bertonnx", "onnxruntime", "numpy", "tokenizers")
    return [*lines, ", ".join(f"{name} {about[name]}" for name in names)]


def problems(report: BenchReport) -> Iterator[str]:
    """Yield a line for each configuration that could not be measured."""
    for row in report.rows:
        if row.problem is not None:
            size = f" x {row.batch_size}" if row.batch_size else ""
            what = f", {_what(row)}{size}" if _what(row) else ""
            yield f"{row.model} on {row.provider}{what}: {row.problem}"


def _header(rows: Sequence[BenchRow]) -> list[str]:
    names = [
        "model",
        "precision",
        "provider",
        "input",
        "threads",
        "batch",
        "runs",
        "p50 ms",
        "p95 ms",
        "p99 ms",
    ]
    return [*names, "texts/s", "tokens/s", *(["times"] if _compared(rows) else [])]


def _compared(rows: Sequence[BenchRow]) -> bool:
    """Return whether there is more than one configuration of the same input."""
    measured = [row for row in rows if row.problem is None]
    return len({(row.model, row.provider, row.threads) for row in measured}) > 1


def _cells(row: BenchRow, rows: Sequence[BenchRow]) -> list[str]:
    figures = [row.p50_ms, row.p95_ms, row.p99_ms, row.texts_per_second, row.tokens_per_second]
    shown = [
        row.model,
        row.precision,
        row.provider,
        _what(row),
        str(row.threads),
        str(row.batch_size or ""),
        str(row.runs),
        *(_figure(value) for value in figures),
    ]
    return [*shown, *([f"{row.relative:.2f}" if row.relative else ""] if _compared(rows) else [])]


def _what(row: BenchRow) -> str:
    return f"{row.length} tokens" if row.length is not None else "" if row.input == "tokens" else row.input


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _json(report: BenchReport) -> str:
    return json.dumps({"format": _FORMAT, **asdict(report)}, indent=2, ensure_ascii=False) + "\n"


def _csv(report: BenchReport) -> str:
    text = io.StringIO()
    # All fields, unrounded: this format is for programs.
    writer = csv.DictWriter(text, [item.name for item in fields(BenchRow)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in report.rows)
    return text.getvalue()


def _markdown(report: BenchReport) -> str:
    header = _header(report.rows)
    rule = ["---" if i < _TEXT_COLUMNS else "---:" for i in range(len(header))]
    lines = [_line(header), _line(rule)]
    for row in report.rows:
        if row.problem is None:
            lines.append(_line(_cells(row, report.rows)))
        else:
            start = [row.model, row.precision, row.provider, _what(row), str(row.threads)]
            lines.append(_line([*start, row.problem, *[""] * (len(header) - len(start) - 1)]))
    notes = "".join(f"\n- {_plain(note)}" for note in _explained(report))
    about = "".join(f"\n- {_plain(line)}" for line in machine_lines(report))
    return "\n".join(["# Benchmark", "", *lines, notes, "\n## Machine", about, ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is; a file may be called `<script>` or `[x](y)`."""
    return _MARKUP.sub(r"\\\g<0>", escape(" ".join(text.split()), quote=False))


def _explained(report: BenchReport) -> Iterator[str]:
    yield (
        "Measured from text to decoded result; tokens count the special ones; a batch is handed over at "
        "once, and the milliseconds are until its last result."
    )
    if _compared(report.rows):
        yield "times: how many times as fast as the first configuration with the same input."
    yield from (f"{note[0].upper()}{note[1:]}." for note in report.notes)


def _html(report: BenchReport) -> str:
    # One file without links or scripts can be mailed, and read where there is no network.
    figures = "".join(f"<figure>{svg(chart)}</figure>" for chart in charts(report))
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in _header(report.rows))
    body = "".join(_html_row(row, report.rows) for row in report.rows)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>bertonnx benchmark</title><style>{_STYLE}</style></head><body>"
        f"<h1>bertonnx benchmark</h1><p>{escape(_date(report.machine))}</p>{figures}"
        f"<h2>Figures</h2><div class='wide'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
        f"{_list(_explained(report))}<h2>Machine</h2>{_list(machine_lines(report))}</body></html>\n"
    )


def _html_row(row: BenchRow, rows: Sequence[BenchRow]) -> str:
    if row.problem is None:
        return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(row, rows)) + "</tr>"
    # The reason takes the place of the figures, so that the row stays in its order.
    start = (row.model, row.precision, row.provider, _what(row), str(row.threads))
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in start)
    span = len(_header(rows)) - len(start)
    return f"<tr>{cells}<td class='problem' colspan='{span}'>{escape(row.problem)}</td></tr>"


def _list(lines: Iterator[str] | Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _date(about: dict[str, Any]) -> str:
    return str(about["date"]).replace("T", " ").replace("Z", " UTC")


_MAKERS = {".json": _json, ".csv": _csv, ".md": _markdown, ".html": _html}
