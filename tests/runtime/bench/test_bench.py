"""`bertonnx bench`: what is measured and how it is written down. Never how fast anything was."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bertonnx
from bertonnx.cli import app
from bertonnx.errors import (
    InputError,
    MissingDependencyError,
    ModelFileError,
    OutputError,
    RowError,
    UsageError,
)
from bertonnx.runtime.bench import measure
from bertonnx.runtime.bench.chart import Bars, Lines, charts, svg
from bertonnx.runtime.bench.measure import BenchReport, BenchRow, Progress
from bertonnx.runtime.bench.options import BenchOptions
from bertonnx.runtime.bench.report import check_report_output, problems, write_report
from bertonnx.runtime.bench.texts import exact_rows
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.rows import Item, Row
from bertonnx.wording import COMMAND_LINE
from tests.fake_cuda import pretend_cuda
from tests.tiny import MAX_LENGTH

TASKS = (
    "feature-extraction",
    "text-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
)


def bench(models: Sequence[Path], *, progress: Progress | None = None, **options: Any) -> BenchReport:
    return measure.bench(models, BenchOptions(**options), progress=progress)


@pytest.fixture(scope="module")
def model(exported: dict[str, Path]) -> Path:
    return exported["feature-extraction"]


@pytest.fixture(scope="module")
def report(model: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchReport:
    """Two files, two lengths, two batch sizes, the user's text, and a provider that is not there."""
    copy = tmp_path_factory.mktemp("copy") / "other.onnx"
    copy.write_bytes(model.read_bytes())
    text = copy.with_name("my|text.txt")
    text.write_text("one\ntwo words\n<three> words & more\n", encoding="utf-8")
    return bench(
        [model, copy],
        providers=["cpu", "cuda"],
        lengths=[8, 32],
        batch_sizes=[1, 4],
        threads=[1],
        text=text,
        repeat=2,
    )


def measured(report: BenchReport) -> list[BenchRow]:
    return [row for row in report.rows if row.problem is None]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", [9, 17, MAX_LENGTH])
def test_texts_have_exactly_so_many_tokens_and_differ(
    exported: dict[str, Path], task: str, length: int
) -> None:
    with bertonnx.load(exported[task], "cpu", 1) as opened:
        rows = exact_rows(opened.tokenizer, opened.card, length=length, count=6)
        assert len(set(rows)) == 6
        for row in rows:
            (encoded,) = opened.tokenize([row.text], None if row.pair is None else [row.pair])
            assert [len(piece.ids) for piece in encoded.pieces] == [length]
            assert not encoded.truncated
        assert rows == exact_rows(opened.tokenizer, opened.card, length=length, count=6)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_measured(exported: dict[str, Path], task: str) -> None:
    report = bench([exported[task]], providers=["cpu"], lengths=[16], batch_sizes=[2], repeat=1)
    (row,) = report.rows
    assert row.problem is None
    assert (row.length, row.batch_size, row.texts, row.tokens, row.runs) == (16, 2, 2, 32, 1)


def test_rows_are_in_the_order_asked_for(report: BenchReport) -> None:
    cpu = [(length, size) for length in (8, 32) for size in (1, 4)]
    for name in ("model.onnx", "other.onnx"):
        rows = [row for row in report.rows if row.model == name and row.provider == "cpu"]
        assert [(row.length, row.batch_size) for row in rows] == [*cpu, (None, None)]
        assert {row.runs for row in rows} == {2}
        assert {row.precision for row in rows} == {"fp32"}


def test_figures_belong_together(report: BenchReport) -> None:
    for row in measured(report):
        assert row.p50_ms is not None
        assert row.p95_ms is not None
        assert row.p99_ms is not None
        assert 0 < row.p50_ms <= row.p95_ms <= row.p99_ms
        assert row.texts_per_second == pytest.approx(1000 * row.texts / row.p50_ms)
        assert row.tokens_per_second == pytest.approx(1000 * row.tokens / row.p50_ms)


def test_relative_is_to_the_first_with_the_same_input(report: BenchReport) -> None:
    first = {
        (row.input, row.length, row.batch_size): row for row in measured(report) if row.model == "model.onnx"
    }
    for row in measured(report):
        base = first[row.input, row.length, row.batch_size]
        assert row.texts_per_second is not None
        assert base.texts_per_second is not None
        assert row.relative == pytest.approx(row.texts_per_second / base.texts_per_second)


def test_the_users_text_is_counted_as_the_model_reads_it(report: BenchReport, model: Path) -> None:
    texts = ["one", "two words", "<three> words & more"]
    with bertonnx.load(model, "cpu", 1) as opened:
        tokens = sum(len(piece.ids) for encoded in opened.tokenize(texts) for piece in encoded.pieces)
    rows = [row for row in measured(report) if row.input == "my|text.txt"]
    assert [(row.texts, row.tokens, row.length) for row in rows] == [(3, tokens, None)] * 2


def test_cuda_is_beside_cpu_in_one_table_and_chart(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, on_cpu=frozenset({"Shape"}))
    report = bench([model], lengths=[8, 16], batch_sizes=[1], threads=[1, 2], repeat=1, tf32=True)
    rows = [(row.provider, row.threads, row.length) for row in measured(report)]
    # How many batches a GPU runs at a time does not follow the threads.
    assert rows == [
        *(("cpu", n, length) for n in (1, 2) for length in (8, 16)),
        ("cuda", 2, 8),
        ("cuda", 2, 16),
    ]
    assert all(row.relative is not None for row in report.rows)
    assert report.settings["tf32"] is True
    (latency,) = charts(report)
    assert isinstance(latency, Lines)
    names = [line.name for line in latency.lines]
    assert [name.partition(",")[0] for name in names] == ["cpu", "cpu", "cuda"]
    assert any(
        note.startswith("model.onnx on cuda: ") and "nodes on the GPU" in note for note in report.notes
    )


def test_an_absent_provider_is_a_row_that_says_so(report: BenchReport) -> None:
    absent = [row for row in report.rows if row.provider == "cuda"]
    if not absent or absent[0].problem is None:
        pytest.skip("CUDA works here")
    assert [row.model for row in absent] == ["model.onnx", "other.onnx"]
    for row, line in zip(absent, problems(report), strict=True):
        assert row.p50_ms is row.texts_per_second is row.relative is None
        assert row.problem is not None
        assert "cuda was asked for" in row.problem
        assert row.problem in line


def test_nothing_but_an_absent_provider_is_still_a_report(model: Path, tmp_path: Path) -> None:
    report = bench([model], providers=["cuda"], lengths=[8], repeat=1)
    if report.rows[0].problem is None:
        pytest.skip("CUDA works here")
    for ending in (".json", ".csv", ".md", ".html"):
        write_report(report, tmp_path / f"report{ending}")
        assert "cuda was asked for" in (tmp_path / f"report{ending}").read_text(encoding="utf-8")


def test_machine_is_described(report: BenchReport) -> None:
    about = report.machine
    assert about["cpu"]
    assert 1 <= about["cores_allowed"] <= about["cores"]
    assert about["bertonnx"] == bertonnx.__version__
    assert re.match(r"\d+\.\d+", about["onnxruntime"])


def test_default_lengths_end_at_the_models_limit(model: Path) -> None:
    report = bench([model], providers=["cpu"], batch_sizes=[1], repeat=1)
    assert [row.length for row in report.rows] == [16, MAX_LENGTH]


def test_text_alone_measures_no_lengths(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "texts.csv"
    text.write_text("id,words\n1,hello there\n2,again\n", encoding="utf-8")
    report = bench([model], providers=["cpu"], text=text, column="words", repeat=1)
    assert [(row.input, row.texts) for row in report.rows] == [("texts.csv", 2)]
    assert [type(chart) for chart in charts(report)] == [Bars]


def test_seconds_run_each_round_at_least_once(model: Path) -> None:
    report = bench([model], providers=["cpu"], lengths=[8], batch_sizes=[1], seconds=1e-9)
    assert [row.runs for row in report.rows] == [3]


def test_a_configuration_that_fails_is_a_row_and_others_stay(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bertonnx.Model.stream

    def failing(self: bertonnx.Model, rows: list[Row]) -> Iterator[Item | RowError]:
        return iter([RowError("runtime", "out of memory")]) if len(rows) == 2 else real(self, rows)

    monkeypatch.setattr(bertonnx.Model, "stream", failing)
    report = bench([model], providers=["cpu"], lengths=[8], batch_sizes=[1, 2, 3], repeat=1)
    assert [row.problem for row in report.rows] == [None, "out of memory", None]
    assert list(problems(report)) == ["model.onnx on cpu, 8 tokens x 2: out of memory"]
    assert report.rows[1].runs == 0


def test_progress_ends_at_its_total(model: Path) -> None:
    seen: list[tuple[int, int]] = []
    bench(
        [model],
        providers=["cpu"],
        lengths=[8],
        batch_sizes=[1, 2],
        repeat=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 8) for done in range(1, 9)]


def test_files_of_one_name_are_told_apart(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / model.name
    copy.write_bytes(model.read_bytes())
    report = bench([model, copy], providers=["cpu"], lengths=[8], batch_sizes=[1], repeat=1)
    assert [row.model for row in report.rows] == [str(model), str(copy)]


def test_json_holds_everything(report: BenchReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert data["format"] == 1
    assert data["machine"] == report.machine
    assert [BenchRow(**row) for row in data["rows"]] == list(report.rows)


def test_csv_has_a_line_a_row(report: BenchReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.csv")
    with (tmp_path / "report.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["model"] for row in rows] == [row.model for row in report.rows]
    assert float(rows[0]["p50_ms"]) == report.rows[0].p50_ms
    assert [row["problem"] for row in rows] == [row.problem or "" for row in report.rows]


def test_markdown_is_one_table_of_equal_width(report: BenchReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(report.rows)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert r"my\|text.txt" in text
    assert report.machine["cpu"] in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<script>alert(1)</script>.onnx", "&lt;script&gt;alert(1)&lt;/script&gt;.onnx"),
        ("[here](x)", r"\[here\](x)"),
        ("`a` *b* _c_ d_e ~~f~~", r"\`a\` \*b\* \_c\_ d_e \~\~f\~\~"),
        ("a\n# b", "a # b"),
        ("a&amp;b\\", r"a&amp;amp;b\\"),
    ],
)
def test_markdown_shows_names_as_they_are(report: BenchReport, tmp_path: Path, name: str, shown: str) -> None:
    row = replace(measured(report)[0], model=name)
    write_report(replace(report, rows=(row,), notes=(f"of {name}",)), tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"| {shown} |" in text
    assert f"- Of {shown}." in text


class Page(HTMLParser):
    """Collects a page's tags, their attributes and its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_html_is_self_contained(report: BenchReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not {"src", "href", "onload"} & {name for name, _ in page.attributes}
    assert "url(" not in text
    assert "@import" not in text
    assert page.tags.count("svg") == 3
    assert page.tags.count("tr") == 1 + len(report.rows)


def test_html_escapes_names(report: BenchReport, tmp_path: Path) -> None:
    rows = tuple(replace(row, model="<script>alert(1)</script>") for row in report.rows)
    write_report(replace(report, rows=rows), tmp_path / "report.html")
    assert "<script>" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_charts_show_one_line_for_each_configuration(report: BenchReport) -> None:
    latency, throughput, text = charts(report)
    assert isinstance(latency, Lines)
    assert isinstance(throughput, Lines)
    assert isinstance(text, Bars)
    names = list(dict.fromkeys(f"{row.model}, {row.provider}, fp32" for row in measured(report)))
    assert [line.name for line in latency.lines] == [line.name for line in throughput.lines] == names
    assert [x for x, _ in latency.lines[0].points] == [8, 32]
    ones = [row.p50_ms for row in measured(report) if row.batch_size == 1][:2]
    assert [y for _, y in latency.lines[0].points] == ones


@pytest.mark.parametrize(
    "values", [(1.0,), (0.0003, 40_000.0), (7.0, 7.0), (1.0, 2.0, 5.0, 10.0), (999.0, 1001.0)]
)
@pytest.mark.parametrize("log", [True, False])
def test_every_point_lies_inside_the_chart(values: tuple[float, ...], log: bool) -> None:
    report = chart_of(values)
    chart = replace(next(item for item in charts(report) if isinstance(item, Lines)), log=log)
    root = ET.fromstring(svg(chart))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    circles = [node for node in root.iter() if node.tag.endswith("circle")]
    assert len(circles) == len(values)
    for circle in circles:
        assert 60 < float(circle.attrib["cx"]) < width
        assert 40 < float(circle.attrib["cy"]) < height - 40
    heights = [float(circle.attrib["cy"]) for circle in circles]
    if len(set(values)) > 1:
        assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize("most", [5.0, 20_000.0, 3_000_000.0])
def test_an_axis_title_lies_beside_its_ticks(most: float) -> None:
    (chart,) = (item for item in charts(chart_of((most / 2, most))) if isinstance(item, Lines))
    texts = [
        node for node in ET.fromstring(svg(replace(chart, log=False))).iter() if node.tag.endswith("text")
    ]
    (title,) = (node for node in texts if "rotate" in node.attrib.get("transform", ""))
    ticks = [node for node in texts if node.attrib["text-anchor"] == "end"]
    assert ticks
    for tick in ticks:
        # A digit of 13 pixels is 8.3 wide in the widest of the fonts that a browser may take.
        start = float(tick.attrib["x"]) - 8.3 * len(tick.text or "")
        assert start > float(title.attrib["x"]) + 13 / 2


def chart_of(values: tuple[float, ...]) -> BenchReport:
    rows = tuple(
        BenchRow("m", "fp32", "cpu", 1, length=2 ** (4 + i), batch_size=1, p50_ms=value, texts=1, runs=1)
        for i, value in enumerate(values)
    )
    return BenchReport({"cpu": "c", "cores_allowed": 1, "onnxruntime": "1"}, {}, (), rows)


def test_png_is_a_picture(report: BenchReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason='needs "bertonnx[bench]"')
    write_report(report, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert [path.name for path in tmp_path.iterdir()] == ["report.png"]


def test_png_without_matplotlib_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=re.escape('pip install "bertonnx[bench]"')):
        check_report_output(tmp_path / "report.png")


@pytest.mark.parametrize("name", ["report.pdf", "report", "report.parquet"])
def test_unknown_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="names no format"):
        check_report_output(tmp_path / name)


def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        check_report_output(tmp_path / "missing" / "report.md")
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        check_report_output(tmp_path / "folder.md")
    os.mkfifo(tmp_path / "pipe.md")
    with pytest.raises(OutputError, match="is no file but a device, a pipe or the like"):
        check_report_output(tmp_path / "pipe.md")


def test_an_existing_report_stays_when_writing_fails(
    report: BenchReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.md"
    target.write_text("old", encoding="utf-8")

    def full(_self: Path, _other: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_report(report, target)
    assert target.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lengths": [0]}, "lengths holds 0"),
        ({"lengths": [-3]}, "lengths holds -3"),
        ({"lengths": []}, "lengths is empty"),
        ({"lengths": [2]}, "cannot make 32 different texts of 2 tokens"),
        ({"lengths": [16, MAX_LENGTH + 1]}, f"it takes {MAX_LENGTH} tokens"),
        ({"batch_sizes": [0]}, "batch_sizes holds 0"),
        ({"threads": [0]}, "threads holds 0"),
        ({"repeat": 0}, "repeat holds 0"),
        ({"seconds": 0.0}, "seconds=0.0 is too small"),
        ({"providers": ["tpu"]}, "provider='tpu' is unknown; it can be cpu, cuda"),
        ({"providers": []}, "provider is empty"),
        ({"text": "-"}, "read several times"),
    ],
)
def test_bad_numbers_are_refused(model: Path, options: dict[str, Any], said: str) -> None:
    arguments = {"providers": ["cpu"], **options}
    with pytest.raises(UsageError, match=re.escape(said)):
        bench([model], **arguments)


def test_bad_files_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one model"):
        bench([])
    with pytest.raises(ModelFileError, match="there is no file"):
        bench([tmp_path / "missing.onnx"], providers=["cpu"])
    with pytest.raises(InputError, match="there is no file"):
        bench([model], providers=["cpu"], text=tmp_path / "missing.txt")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match="holds no text"):
        bench([model], providers=["cpu"], text=tmp_path / "empty.txt")


def test_the_shortest_limit_of_several_models_counts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bertonnx.Model.__init__

    def shorter(self: bertonnx.Model, path: Path, options: LoadOptions) -> None:
        real(self, path, replace(options, max_length=20))

    monkeypatch.setattr(bertonnx.Model, "__init__", shorter)
    with pytest.raises(UsageError, match="takes 20 tokens"):
        bench([model], providers=["cpu"], lengths=[21])


def test_command_prints_a_table_and_writes_reports(model: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "a.json", tmp_path / "a.md"]
    options = ["--provider", "cpu", "--lengths", "8,16", "--batch-sizes", "1,2", "--repeat", "1"]
    written = [part for path in outputs for part in ("-o", str(path))]
    result = CliRunner().invoke(app, ["bench", str(model), *options, *written])
    assert result.exit_code == 0, result.output
    assert "8 tokens" in result.stdout
    assert "p95 ms" in result.stdout
    assert all(path.stat().st_size for path in outputs)


def test_command_measures_rankers_and_retrieval_beside_each_other(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    tasks = ("text-classification", "text-ranking", "sparse-embedding", "multi-vector")
    files = [str(exported[task]) for task in tasks]
    options = ["--provider", "cpu", "--lengths", "12", "--batch-sizes", "2", "--repeat", "1"]
    result = CliRunner().invoke(app, ["bench", *files, *options, "-o", str(tmp_path / "a.json")])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert len(rows) == len(tasks)
    assert all(row["texts_per_second"] > 0 and row["length"] == 12 for row in rows)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("query,document\nwho?,Ada wrote it.\nwhere?,In London.\n")
    options = ["--provider", "cpu", "--text", str(pairs), "--repeat", "1"]
    result = CliRunner().invoke(app, ["bench", files[1], *options, "-o", str(tmp_path / "b.json")])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "b.json").read_text())["rows"]


def test_command_says_when_a_provider_is_absent(model: Path) -> None:
    result = CliRunner().invoke(
        app, ["bench", str(model), "--provider", "cuda", "--lengths", "8", "--repeat", "1"]
    )
    if result.exit_code == 0:
        pytest.skip("CUDA works here")
    assert result.exit_code == 3
    assert "not measured: model.onnx on cuda: provider cuda was asked for" in result.stdout


def test_command_refuses_what_is_no_number(model: Path) -> None:
    result = CliRunner().invoke(app, ["bench", str(model), "--lengths", "long"])
    assert isinstance(result.exception, UsageError)
    said = "--lengths long is no list of numbers; type them as in --lengths 1,8,32"
    assert result.exception.worded(COMMAND_LINE) == said


def test_command_checks_outputs_before_it_measures(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "missing.onnx", "-o", str(tmp_path / "a.pdf")])
    assert isinstance(result.exception, UsageError)
    assert "names no format" in str(result.exception)
