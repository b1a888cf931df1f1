"""Predictions inside Spark: every row once, with the bits of `bertonnx run`, whatever goes wrong."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pyspark: Any = pytest.importorskip(
    "pyspark", reason="runs in the environment that tools/environments.sh makes"
)

from pyspark.sql import SparkSession  # noqa: E402

import bertonnx  # noqa: E402
from bertonnx.errors import InputError, UsageError  # noqa: E402
from tests.exported import LABELS  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)

Table = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[3]


def _session(master: str, **settings: str) -> Any:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYTHONPATH"] = str(ROOT)
    builder = SparkSession.builder.master(master).config("spark.ui.enabled", "false")
    for name, value in {
        "spark.sql.session.timeZone": "Europe/Paris",
        "spark.sql.shuffle.partitions": "2",
        "spark.driver.memory": "1g",
        "spark.task.cpus": "1",
        "spark.dynamicAllocation.enabled": "false",
        **{name.replace("_", "."): value for name, value in settings.items()},
    }.items():
        builder = builder.config(name, value)
    made = builder.getOrCreate()
    made.sparkContext.setLogLevel("OFF")
    return made


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """Two workers, which are tried four times."""
    made = _session("local[2,4]")
    yield made
    made.stop()


def without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


def plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return without(rows, "row")


@pytest.mark.parametrize("task", LABELS)
def test_every_task_gives_the_bits_of_run(
    task: str, spark: Any, exported: dict[str, Path], table_of: Table, results_of_run: Table
) -> None:
    table = table_of(task)
    pair = "other" if "other" in table.schema.names else None
    df = bertonnx.spark.predict(spark.createDataFrame(table), exported[task], "text", pair_column=pair)
    rows = df.toArrow().sort_by("id")
    assert df.schema.names == rows.schema.names
    names = table.schema.names
    assert rows.select(names).to_pylist() == table.to_pylist()
    assert without(rows.to_pylist(), *names) == plain(results_of_run(exported[task], table))


def test_a_function_of_a_column_gives_them_too(
    spark: Any,
    exported: dict[str, Path],
    table_of: Table,
    results_of_run: Table,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = table_of("text-ranking")
    expected = plain(results_of_run(exported["text-ranking"], table))
    df = spark.createDataFrame(table)
    rank = bertonnx.spark.udf(exported["text-ranking"])
    rows = df.select("id", rank("text", "other").alias("r")).select("id", "r.*").toArrow().sort_by("id")
    assert without(rows.to_pylist(), "id") == expected
    table = table_of("text-classification")
    expected = plain(results_of_run(exported["text-classification"], table))
    spark.createDataFrame(table).createOrReplaceTempView("texts")
    spark.udf.register("classify", bertonnx.spark.udf(exported["text-classification"]))
    rows = spark.sql("select id, r.* from (select id, classify(text) r from texts)").toArrow().sort_by("id")
    assert without(rows.to_pylist(), "id") == expected
    # As PySpark before 4.1 has it, which knows pandas' functions alone.
    from pyspark.sql import functions

    monkeypatch.delattr(functions, "arrow_udf")
    spark.udf.register("classify_pandas", bertonnx.spark.udf(exported["text-classification"]))
    rows = spark.sql("select id, r.* from (select id, classify_pandas(text) r from texts)").toArrow()
    assert without(rows.sort_by("id").to_pylist(), "id") == expected


def gate(file: str, folder: str) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return what lets the first rows of a frame through, and the others when a file is there."""

    def run(batches: Iterator[Any]) -> Iterator[Any]:
        import time
        from pathlib import Path

        for batch in batches:
            if batch.num_rows and batch["id"][0].as_py() >= 2000:
                (Path(folder) / "waits").touch()
                while not Path(file).exists():
                    time.sleep(0.05)
            yield batch

    return run


def test_a_killed_worker_costs_no_row_and_doubles_none(
    spark: Any,
    exported: dict[str, Path],
    table_of: Table,
    results_of_run: Table,
    descendants: Callable[[str], list[int]],
    until: Callable[[Callable[[], Any]], Any],
    tmp_path: Path,
) -> None:
    table, opens = table_of("text-classification", 6000), tmp_path / "open"
    df = spark.createDataFrame(table).repartitionByRange(12, "id")
    gated = df.mapInArrow(gate(str(opens), str(tmp_path)), df.schema)
    result = bertonnx.spark.predict(gated, exported["text-classification"], column="text")
    with ThreadPoolExecutor(1) as beside:
        rows = beside.submit(lambda: result.toArrow().sort_by("id"))
        until(lambda: (tmp_path / "waits").exists())
        # Of the daemon, which stays, the workers are children.
        daemon, *workers = descendants("pyspark.daemon")
        del daemon
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        opens.touch()
        found = rows.result(240)
    assert workers
    assert found.column("id").to_pylist() == list(range(6000))
    expected = plain(results_of_run(exported["text-classification"], table))
    assert without(found.to_pylist(), *table.schema.names) == expected


def attempts(folder: str) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return what notes each attempt at a task with row 3, and lets its rows through."""

    def run(batches: Iterator[Any]) -> Iterator[Any]:
        from pathlib import Path

        from pyspark import TaskContext

        for batch in batches:
            if 3 in batch["id"].to_pylist():
                (Path(folder) / f"attempt {TaskContext.get().attemptNumber()} of 3").touch()
            yield batch

    return run


def test_a_job_that_is_cancelled_ends_its_workers(
    spark: Any,
    exported: dict[str, Path],
    table_of: Table,
    descendants: Callable[[str], list[int]],
    until: Callable[[Callable[[], Any]], Any],
    tmp_path: Path,
) -> None:
    table, model = table_of("text-classification", 6000), exported["text-classification"]
    df = spark.createDataFrame(table).repartitionByRange(12, "id")
    # It never opens.
    gated = df.mapInArrow(gate(str(tmp_path / "open"), str(tmp_path)), df.schema)
    result = bertonnx.spark.predict(gated, model, column="text")
    with ThreadPoolExecutor(1) as beside:
        rows = beside.submit(result.toArrow)
        until(lambda: (tmp_path / "waits").exists())
        daemon, *workers = descendants("pyspark.daemon")
        spark.sparkContext.cancelAllJobs()
        with pytest.raises(Exception, match="cancelled"):
            rows.result(120)
    until(lambda: not {*workers} & {*descendants("pyspark.daemon")})
    assert daemon
    # And the next one finds its cores.
    assert bertonnx.spark.predict(df.where("id < 9"), model, column="text").count() == 9


def test_what_fails_reaches_the_driver(
    spark: Any, exported: dict[str, Path], table_of: Table, tmp_path: Path
) -> None:
    model, df = exported["text-classification"], spark.createDataFrame(table_of("text-classification"))
    with pytest.raises(InputError, match="the frame has no column 'body'"):
        bertonnx.spark.predict(df, model, column="body")
    with pytest.raises(InputError, match="column 'id' of the frame holds int64, and text is needed"):
        bertonnx.spark.predict(df, model, column="id")
    with pytest.raises(InputError, match=r"columns label are there already.*prefix='bert_'"):
        bertonnx.spark.predict(df.withColumnRenamed("deep", "label"), model, column="text")
    with pytest.raises(InputError, match=r"the columns label of the results.*prefix='bert_'"):
        bertonnx.spark.predict(df.withColumnRenamed("deep", "Label"), model, column="text")
    with pytest.raises(InputError, match="cannot tell apart: deep;"):
        bertonnx.spark.predict(df.withColumnRenamed("id", "deep"), model, column="text")
    assert "bert_label" in bertonnx.spark.predict(df, model, column="text", prefix="bert_").columns
    with pytest.raises(UsageError, match="aggregation='max' is for token-classification"):
        bertonnx.spark.predict(df, model, column="text", aggregation="max")
    noted = df.mapInArrow(attempts(str(tmp_path)), df.schema)
    with pytest.raises(Exception, match=r"partition \d, rows from \d+ on, row \d+ of \d+ \(id=3\): .*null"):
        bertonnx.spark.predict(noted, model, column="text", on_error="fail").collect()
    tried = {path.name for path in tmp_path.glob("attempt *")}
    assert tried >= {f"attempt {number} of 3" for number in range(4)}
    own = Path(shutil.copy(model, tmp_path / "a model.onnx"))
    gone = bertonnx.spark.predict(df, own, column="text")
    own.unlink()
    with pytest.raises(Exception, match=r"a model\.onnx is on the driver and not on "):
        gone.collect()
    shutil.copy(exported["feature-extraction"], own)
    with pytest.raises(Exception, match="is not the model of the driver"):
        gone.collect()


def test_nulls_broken_texts_empty_partitions_and_no_rows(spark: Any, exported: dict[str, Path]) -> None:
    model = exported["text-classification"]
    df = spark.sql(
        "select * from values (1, 'good'), (2, cast(X'FFFE' as string)), (3, null) as t(id, text)"
    ).repartition(8)
    found = bertonnx.spark.predict(df, model, column="text").select("id", "error_type").collect()
    assert sorted((row.id, row.error_type) for row in found) == [
        (1, None), (2, "invalid-text"), (3, "missing-text")
    ]  # fmt: skip
    nulls = bertonnx.spark.predict(df.selectExpr("cast(null as string) as text"), model)
    assert {row.error_type for row in nulls.collect()} == {"missing-text"}
    none = bertonnx.spark.predict(df.where("id > 9"), model, column="text")
    assert none.count() == 0
    assert "label" in none.columns


def test_what_a_frame_can_hold_is_kept(spark: Any, exported: dict[str, Path]) -> None:
    model = exported["feature-extraction"]
    df = spark.sql(
        "select 1 as row, 'a' as text, timestamp'2024-03-31 02:30:00' as moment, "
        "map('k', array(1, null)) as deep, "
        "cast(1.5 as decimal(9, 2)) as price, named_struct('a', date'2024-01-01') as inner"
    )
    for large in ("false", "true"):
        spark.conf.set("spark.sql.execution.arrow.useLargeVarTypes", large)
        result = bertonnx.spark.predict(df, model, column="text")
        assert result.schema.fields[: len(df.schema.fields)] == df.schema.fields
        (row,), (before,) = result.collect(), df.collect()
        assert row[: len(before)] == before[:]
        assert len(row.embedding) == 32
    spark.conf.set("spark.sql.execution.arrow.useLargeVarTypes", "false")


def test_two_models_in_one_job(spark: Any, exported: dict[str, Path], table_of: Table) -> None:
    df = spark.createDataFrame(table_of("text-classification"))
    both = bertonnx.spark.predict(
        bertonnx.spark.predict(df, exported["text-classification"], column="text", prefix="a_", ship=True),
        exported["feature-extraction"],
        column="text",
        prefix="b_",
        ship=True,
    )
    (row,) = both.where("id = 0").collect()
    assert row.a_label in LABELS["text-classification"]
    assert len(row.b_embedding) == 32


def test_workers_of_another_python_are_said(
    spark: Any, exported: dict[str, Path], table_of: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark.sparkContext, "pythonExec", "/bin/sh")
    df = spark.createDataFrame(table_of("text-classification"))
    with pytest.warns(UserWarning, match=r"Spark's workers run /bin/sh.*PYSPARK_PYTHON"):
        bertonnx.spark.predict(df, exported["text-classification"], column="text")


def opened_by(function: Callable[[Any], Any]) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return what gives, in place of the results, the threads of each model that the Python worker holds."""

    def run(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        from bertonnx.runtime import workers

        for _ in function(batches):
            threads = [key[-1].threads for key in workers._open]
            yield pa.RecordBatch.from_pydict({"threads": [threads]})

    return run


def test_a_cluster_whose_executors_come_and_go(
    spark: Any,
    exported: dict[str, Path],
    table_of: Table,
    results_of_run: Table,
    until: Callable[[Callable[[], Any]], Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The last: a context of its own. Executors are processes, as elsewhere, and a task has two CPUs."""
    spark.stop()
    model = Path(shutil.copy(exported["text-classification"], tmp_path / "a model.onnx"))
    table = table_of("text-classification")
    expected = plain(results_of_run(model, table))
    cluster = _session(
        "local-cluster[1,2,1024]",
        spark_task_cpus="2",
        spark_dynamicAllocation_enabled="true",
        spark_dynamicAllocation_shuffleTracking_enabled="true",
        spark_dynamicAllocation_executorIdleTimeout="1s",
    )

    def executors() -> int:
        # With the driver.
        return int(cluster.sparkContext._jsc.sc().getExecutorMemoryStatus().size()) - 1

    try:
        frame = cluster.createDataFrame(table)
        given: list[Callable[[Any], Any]] = []
        mapped = type(frame).mapInArrow

        def noted(self: Any, function: Callable[[Any], Any], schema: Any) -> Any:
            given.append(function)
            return mapped(self, function, schema)

        monkeypatch.setattr(type(frame), "mapInArrow", noted)
        result = bertonnx.spark.predict(frame, model, column="text")
        model.unlink()
        for _ in range(2):
            rows = result.toArrow().sort_by("id")
            assert without(rows.to_pylist(), *table.schema.names) == expected
            # One engine in a process, with the task's threads.
            held = frame.mapInArrow(opened_by(given[0]), "threads array<long>").toArrow()
            assert set(map(tuple, held.column("threads").to_pylist())) == {(2,)}
            until(lambda: executors() == 0)
    finally:
        cluster.stop()
