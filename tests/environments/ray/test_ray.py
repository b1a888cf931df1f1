"""Predictions inside Ray Data: every row once, with the bits of `bertonnx run`, whatever goes wrong."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ray: Any = pytest.importorskip("ray", reason="runs in the environment that tools/environments.sh makes")

import pyarrow as pa  # noqa: E402

import bertonnx  # noqa: E402
from bertonnx.errors import InputError, UsageError  # noqa: E402
from tests.exported import LABELS  # noqa: E402

importlib.import_module("ray.data")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

Table = Callable[..., Any]


def _started(cpus: int, gpus: int = 0) -> None:
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Ray gives its processes half a minute, which a busy machine may need for reading their files.
        for last in (False, False, True):
            try:
                ray.init(
                    num_cpus=cpus,
                    num_gpus=gpus,
                    include_dashboard=False,
                    configure_logging=False,
                    log_to_driver=False,
                )
                break
            except Exception as error:
                ray.shutdown()
                if last or "timed out during startup" not in str(error):
                    raise
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """CPUs, and a GPU, that are only said to be there.

    So many, because what failed may hold its actor until it is collected, and the next one would wait for it.
    """
    _started(12, 1)
    yield
    ray.shutdown()


def rows_of(ds: Any) -> list[dict[str, Any]]:
    table = pa.concat_tables(ray.get(ds.to_arrow_refs()))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def without_row(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "row"} for row in rows]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("task", LABELS)
def test_every_task_gives_the_bits_of_run(
    task: str, exported: dict[str, Path], table_of: Table, results_of_run: Table
) -> None:
    table = table_of(task)
    pair = "other" if "other" in table.schema.names else None
    result = bertonnx.ray.predict(
        ray.data.from_arrow(table), exported[task], "text", pair_column=pair, workers=1, preserve_order=True
    )
    rows = rows_of(result)
    names = table.schema.names
    assert [{name: row[name] for name in names} for row in rows] == table.to_pylist()
    results = [{name: value for name, value in row.items() if name not in names} for row in rows]
    assert results == without_row(results_of_run(exported[task], table))


class Gate:
    """Lets the first rows through, and the others when a file is there."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __call__(self, batch: Any) -> Any:
        import time

        while batch["id"][0].as_py() >= 2000 and not Path(self.file).exists():
            time.sleep(0.05)
        return batch


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_costs_no_row_and_doubles_none(
    exported: dict[str, Path],
    table_of: Table,
    results_of_run: Table,
    descendants: Callable[[str], list[int]],
    until: Callable[[Callable[[], Any]], Any],
    tmp_path: Path,
) -> None:
    table, gate = table_of("text-classification", 6000), tmp_path / "open"
    gated = ray.data.from_arrow(table).repartition(target_num_rows_per_block=250)
    gated = gated.map_batches(Gate(str(gate)).__call__, batch_format="pyarrow", batch_size=None, num_cpus=0)
    ds = bertonnx.ray.predict(gated, exported["text-classification"], column="text", workers=2, rows=250)
    batches = iter(ds.iter_batches(batch_size=None, batch_format="pyarrow"))
    got = [next(batches)]
    before = until(lambda: descendants("ray::MapWorker"))
    os.kill(before[0], signal.SIGKILL)
    gate.touch()
    got += batches
    rows = sorted(pa.concat_tables(got).to_pylist(), key=lambda row: int(row["id"]))
    assert [row["id"] for row in rows] == list(range(6000))
    expected = results_of_run(exported["text-classification"], table)
    assert without_row(expected) == [
        {name: row[name] for name in expected[0] if name != "row"} for row in rows
    ]


@pytest.mark.usefixtures("cluster")
def test_a_job_that_is_left_ends_its_workers(
    exported: dict[str, Path],
    table_of: Table,
    descendants: Callable[[str], list[int]],
    until: Callable[[Callable[[], Any]], Any],
    tmp_path: Path,
) -> None:
    gated = ray.data.from_arrow(table_of("text-classification", 3000)).repartition(
        target_num_rows_per_block=250
    )
    # It never opens.
    gate = Gate(str(tmp_path / "open")).__call__
    gated = gated.map_batches(gate, batch_format="pyarrow", batch_size=None, num_cpus=0)
    ds = bertonnx.ray.predict(gated, exported["text-classification"], column="text", workers=2, rows=250)
    batches = iter(ds.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert next(batches).num_rows
    assert descendants("ray::MapWorker")
    del batches
    until(lambda: not descendants("ray::MapWorker"))


@pytest.mark.usefixtures("cluster")
def test_the_model_travels_through_the_object_store(
    exported: dict[str, Path], table_of: Table, results_of_run: Table, tmp_path: Path
) -> None:
    model = Path(shutil.copy(exported["text-classification"], tmp_path / "a model.onnx"))
    table = table_of("text-classification")
    expected = without_row(results_of_run(model, table))
    ds = ray.data.from_arrow(table)
    sent = bertonnx.ray.predict(ds, model, column="text", ship=True, workers=1, preserve_order=True)
    read = bertonnx.ray.predict(ds, model, column="text", workers=1)
    changed = bertonnx.ray.predict(ds, exported["feature-extraction"], column="text", workers=1)
    model.unlink()
    assert [{name: row[name] for name in expected[0]} for row in rows_of(sent)] == expected
    with pytest.raises(Exception, match=r"a model\.onnx is on the driver and not on "):
        rows_of(read)
    kept = exported["feature-extraction"].read_bytes()
    try:
        shutil.copy(exported["text-ranking"], exported["feature-extraction"])
        with pytest.raises(Exception, match="is not the model of the driver"):
            rows_of(changed)
    finally:
        exported["feature-extraction"].write_bytes(kept)


@pytest.mark.usefixtures("cluster")
def test_what_fails_reaches_the_driver(exported: dict[str, Path], table_of: Table) -> None:
    model, ds = exported["text-classification"], ray.data.from_arrow(table_of("text-classification"))
    with pytest.raises(InputError, match="the dataset has no column 'body'"):
        bertonnx.ray.predict(ds, model, column="body")
    with pytest.raises(InputError, match="column 'id' of the dataset holds int64, and text is needed"):
        bertonnx.ray.predict(ds, model, column="id")
    clashing = ds.map_batches(
        lambda batch: batch.append_column("label", batch["text"]), batch_format="pyarrow", batch_size=None
    )
    # Known when it has run, and not before.
    late = bertonnx.ray.predict(clashing, model, column="text", workers=1)
    with pytest.raises(Exception, match=r"columns label are there already.*prefix='bert_'"):
        rows_of(late)
    with pytest.raises(UsageError, match="aggregation='max' is for token-classification"):
        bertonnx.ray.predict(ds, model, column="text", aggregation="max")
    failing = bertonnx.ray.predict(ds, model, column="text", on_error="fail", workers=1)
    with pytest.raises(Exception, match=r"row 3 of 40 \(id=3\): .*null"):
        rows_of(failing)
    # It asks for CUDA, and never runs on CPUs in silence.
    with pytest.raises(Exception, match="provider cuda was asked for, and this ONNX Runtime is a CPU build"):
        rows_of(bertonnx.ray.predict(ds, model, column="text", num_gpus=1))


@pytest.mark.usefixtures("cluster")
def test_nulls_broken_texts_and_no_rows(exported: dict[str, Path]) -> None:
    model = exported["text-classification"]
    broken = pa.array([b"good", b"\xff\xfe", None])
    texts = pa.Array.from_buffers(pa.string(), 3, broken.buffers())
    ds = ray.data.from_arrow(pa.table({"text": texts, "other": pa.nulls(3, pa.string())}))
    result = bertonnx.ray.predict(ds, model, column="text", workers=1).select_columns(["error_type"])
    assert [row["error_type"] for row in rows_of(result)] == [None, "invalid-text", "missing-text"]
    nulls = bertonnx.ray.predict(ds.select_columns(["other"]), model, column="other", workers=1)
    assert [row["error_type"] for row in rows_of(nulls)] == ["missing-text"] * 3
    none = ray.data.from_arrow(pa.table({"text": pa.array([], pa.string())}))
    assert bertonnx.ray.predict(none, model, column="text", workers=1).count() == 0


def test_actors_leave_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, float] = {}
    monkeypatch.setattr(ray, "cluster_resources", lambda: found)

    def pool(workers: int | None, threads: int = 1, gpus: float = 0) -> tuple[int, int, float]:
        made = bertonnx.ray._pool(workers, threads, gpus)
        return made.least, made.most, made.cpus

    found.update(CPU=8, GPU=2)
    assert pool(None) == (7, 7, 1)
    assert pool(3) == (3, 3, 1)
    assert pool(None, threads=3) == (2, 2, 3)
    assert pool(None, gpus=1) == (2, 2, 1)
    assert pool(None, gpus=0.5) == (4, 4, 1)
    with pytest.warns(UserWarning, match="7 workers fit into this cluster beside .* with workers=8"):
        assert pool(8) == (7, 8, 1)
    with pytest.warns(UserWarning, match="threads=8 does not fit beside the CPU that reading needs"):
        assert pool(None, threads=8) == (1, 1, 7)
    found.update(CPU=1)
    with pytest.warns(UserWarning, match="this cluster has 1: they share"):
        assert pool(None) == (1, 1, 0)


def test_small_clusters_are_not_waited_for(exported: dict[str, Path], table_of: Table) -> None:
    # That of the other tests is there until all of them are done.
    ray.shutdown()
    model = exported["text-classification"]
    _started(1)
    try:
        # Read in tasks, which need the CPU that an actor must not take.
        ds = ray.data.range(300).map(lambda row: {"text": f"Ada wrote {row['id']}"})
        with pytest.warns(UserWarning, match="this cluster has 1: they share"):
            result = bertonnx.ray.predict(ds, model, column="text")
        assert result.count() == 300
    finally:
        ray.shutdown()
    _started(2)
    try:
        # One block, which is cut, and fewer CPUs than asked.
        ds = ray.data.from_arrow(table_of("text-classification", 300))
        with pytest.warns(UserWarning, match="1 workers fit into this cluster"):
            result = bertonnx.ray.predict(ds, model, column="text", workers=5, rows=50).materialize()
        assert (result.count(), result.num_blocks()) == (300, 6)
        assert sorted(row["id"] for row in rows_of(result)) == list(range(300))
    finally:
        ray.shutdown()
