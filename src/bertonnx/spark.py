"""Predictions inside Spark: `bertonnx.spark.predict(df, "model.onnx", column="text")`; `bertonnx.spark.udf`.

Needs `pip install "bertonnx[cpu,spark]"` on the driver and on every node. docs/scaling.md says what it costs.
"""

from __future__ import annotations

import atexit
import os
import pickle
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx.collecting import paused
from bertonnx.errors import InputError, MissingDependencyError, UsageError
from bertonnx.runtime.options import (
    TEMPLATE,
    Aggregation,
    BatchOptions,
    DecodeOptions,
    Encoding,
    LoadOptions,
    LongText,
    OnError,
    RunOptions,
    taken,
)
from bertonnx.wording import Install, Message, Option

if TYPE_CHECKING:
    import pyarrow
    from pyspark.sql import DataFrame, SparkSession

    from bertonnx.runtime.model import Model
    from bertonnx.runtime.workers import Assignment

__all__ = ["predict", "udf"]

_TEXT, _PAIR = "text", "pair"
"""What the columns of a function are called in a batch."""


def predict(
    df: DataFrame,
    model: str | Path | Model,
    column: str | None = None,
    *,
    pair_column: str | None = None,
    prefix: str = "",
    on_error: OnError = "record",
    threads: int | None = None,
    ship: bool | None = None,
    top_k: int | None = None,
    aggregation: Aggregation = "simple",
    prompt: str | None = None,
    no_answer: bool = False,
    raw_scores: bool = False,
    query: str | None = None,
    dimensions: int | None = None,
    normalize: bool | None = None,
    encoding: Encoding = "float32",
    labels: Sequence[str] = (),
    template: str = TEMPLATE,
    multi_label: bool = False,
    entailment: str | None = None,
    threshold: float | None = None,
    task: str | None = None,
    provider: str = "auto",
    max_length: int | None = None,
    long_text: LongText | None = None,
    tf32: bool = False,
    gpu_memory: float | None = None,
) -> DataFrame:
    """Return a frame with the columns of the results behind those of its own; nothing runs yet.

    Values are those of `bertonnx run`, bit for bit on equal processors and ONNX Runtimes, however Spark
    divides the rows and whichever worker dies: a row that is computed again has the same result.

    Args:
        df: the rows.
        model: a model file, a folder or file that optimum-cli made, or an open model (its path is used).
        column: the column of the texts; default as `Model.predict_batch`.
        pair_column: the column of the second texts.
        prefix: what the names of the results' columns begin with.
        on_error: "record" puts a failed row's error into `error_type` and `error_message`, "fail" ends the
            job.
        threads: of each Python worker; default `spark.task.cpus`.
        ship: whether Spark brings the model to the workers (`addFile`); False where its path is on every
            node. Default: it does unless the master is `local`.
        top_k: as `Model.predict_batch`, and so are those that follow.
        aggregation: as there.
        prompt: as there.
        no_answer: as there.
        raw_scores: as there.
        query: as there.
        dimensions: as there.
        normalize: as there.
        encoding: as there.
        labels: as there.
        template: as there.
        multi_label: as there.
        entailment: as there.
        threshold: as there.
        task: as there.
        provider: as `bertonnx.load`, and so are the next four.
        max_length: as there.
        long_text: as there.
        tf32: as there.
        gpu_memory: as there.

    Raises:
        InputError: nothing says which column holds the text, or a column has the name of one of the results'.
        ModelFileError: the model is missing, broken or foreign.
        UsageError: an argument is out of range, or for another task.
        MissingDependencyError: PySpark or pyarrow is not installed.
    """
    given = locals()
    with paused():
        types = _types()
        from bertonnx.runtime.io.arrow_batch import batch_schema, chosen_columns
        from bertonnx.runtime.workers import assignment_for

    assignment = assignment_for(
        model,
        load=taken(LoadOptions, given),
        decode=taken(DecodeOptions, given),
        columns=taken(RunOptions, given),
        batch=BatchOptions(keep=True, plain=True, first_row=None, prefix=prefix),
    )
    own = _arrow_names(df)
    chosen_columns(assignment.card, own, assignment.columns, assignment.decode, what="the frame")
    batch_schema(assignment.card, own, assignment.decode, assignment.batch)
    _require_names(df.columns, _fields(assignment))
    schema = types.StructType([*df.schema.fields, *_fields(assignment)])
    sent = _sent(assignment, df.sparkSession, ship)
    return df.mapInArrow(_mapped(assignment, sent), schema)


def udf(
    model: str | Path | Model,
    *,
    pairs: bool | None = None,
    threads: int | None = None,
    ship: bool | None = None,
    top_k: int | None = None,
    aggregation: Aggregation = "simple",
    prompt: str | None = None,
    no_answer: bool = False,
    raw_scores: bool = False,
    query: str | None = None,
    dimensions: int | None = None,
    normalize: bool | None = None,
    encoding: Encoding = "float32",
    labels: Sequence[str] = (),
    template: str = TEMPLATE,
    multi_label: bool = False,
    entailment: str | None = None,
    threshold: float | None = None,
    task: str | None = None,
    provider: str = "auto",
    max_length: int | None = None,
    long_text: LongText | None = None,
    tf32: bool = False,
    gpu_memory: float | None = None,
) -> Any:
    """Return a function of a column of texts, whose values are structures with the fields of a result.

    `df.withColumn("result", bertonnx.spark.udf("model.onnx")("text")).select("result.label")`; for SQL,
    `spark.udf.register("classify", bertonnx.spark.udf("model.onnx"))`.

    Args:
        model: as `predict`.
        pairs: whether the function takes a second column, of second texts; default: where the model cannot do
            without.
        threads: as `predict`, and so are the others.
        ship: as there.
        top_k: as there.
        aggregation: as there.
        prompt: as there.
        no_answer: as there.
        raw_scores: as there.
        query: as there.
        dimensions: as there.
        normalize: as there.
        encoding: as there.
        labels: as there.
        template: as there.
        multi_label: as there.
        entailment: as there.
        threshold: as there.
        task: as there.
        provider: as there.
        max_length: as there.
        long_text: as there.
        tf32: as there.
        gpu_memory: as there.

    Raises:
        ModelFileError: the model is missing, broken or foreign.
        UsageError: an argument is out of range, or for another task; or there is no Spark session yet.
        MissingDependencyError: PySpark or pyarrow is not installed.
    """
    given = locals()
    with paused():
        types = _types()
        from pyspark.sql import SparkSession

        from bertonnx.runtime.io.inputs import needs_pair
        from bertonnx.runtime.workers import assignment_for

    session = SparkSession.getActiveSession()
    if session is None:
        raise UsageError("there is no Spark session in this thread; make one before the function")
    assignment = assignment_for(
        model,
        load=taken(LoadOptions, given),
        decode=taken(DecodeOptions, given),
        columns=RunOptions(),
        batch=BatchOptions(plain=True, first_row=None),
    )
    two = needs_pair(assignment.card, assignment.decode, assignment.columns) if pairs is None else pairs
    assignment = replace(assignment, columns=RunOptions(_TEXT, _PAIR if two else None))
    kind = types.StructType(_fields(assignment))
    return _arrow_udf(_called(assignment, _sent(assignment, session, ship), two=two), kind)


def _types() -> Any:
    try:
        import pyarrow
        import pyspark.sql.types
    except ImportError as error:
        raise MissingDependencyError(
            "{module} needs PySpark and pyarrow; install them with: {install}",
            module="bertonnx.spark",
            install=Install("cpu,spark"),
        ) from error
    del pyarrow
    return pyspark.sql.types


def _require_names(names: Sequence[str], fields: Sequence[Any]) -> None:
    """Refuse names that Spark, which reads `Label` and `label` as one, could not tell apart.

    Raises:
        InputError: saying which, and how others are given.
    """
    folded = [name.casefold() for name in names]
    twice = sorted({name for name in names if folded.count(name.casefold()) > 1})
    if twice:
        raise InputError(
            "the frame has several columns that Spark cannot tell apart: {names}; rename or drop them",
            names=", ".join(twice),
        )
    clashes = [field.name for field in fields if field.name.casefold() in folded]
    if clashes:
        raise InputError(
            "Spark cannot tell the columns {clashes} of the results from those of the frame; put something "
            "before the names of results with {prefix}",
            clashes=", ".join(clashes),
            prefix=Option("prefix", "bert_"),
        )


def _arrow_names(df: DataFrame) -> pyarrow.Schema:
    """Return a frame's columns as an Arrow schema, in which those of texts are told from the others."""
    import pyarrow as pa
    from pyspark.sql.pandas.types import to_arrow_type

    def kind(field: Any) -> Any:
        try:
            return to_arrow_type(field.dataType)
        except Exception:
            # A type that Arrow has not is no text either.
            return pa.binary()

    return pa.schema([(field.name, kind(field)) for field in df.schema.fields])


def _fields(assignment: Assignment) -> list[Any]:
    """Return the columns of results as Spark's fields."""
    from pyspark.sql.types import StructField

    from bertonnx.runtime.io.arrow_batch import batch_schema

    schema = batch_schema(assignment.card, None, assignment.decode, assignment.batch)
    return [StructField(field.name, _spark_type(field.type)) for field in schema]


def _spark_type(kind: Any) -> Any:
    import pyarrow as pa
    from pyspark.sql import types

    if pa.types.is_list(kind):
        return types.ArrayType(_spark_type(kind.value_type))
    if pa.types.is_struct(kind):
        return types.StructType([types.StructField(field.name, _spark_type(field.type)) for field in kind])
    scalars: Mapping[str, Any] = {
        "bool": types.BooleanType,
        "int8": types.ByteType,
        "int16": types.ShortType,
        "int64": types.LongType,
        "float": types.FloatType,
        "string": types.StringType,
    }
    return scalars[str(kind)]()


def _mapped(
    assignment: Assignment, sent: Mapping[str, str] | None
) -> Callable[[Iterator[pyarrow.RecordBatch]], Iterator[pyarrow.RecordBatch]]:
    """Return what a task does with its batches."""
    told = pickle.dumps(assignment)

    def run(batches: Iterator[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
        # By import: a worker keeps what modules hold from task to task, and not what comes with a task.
        from bertonnx.spark import batches_of_task

        yield from batches_of_task(told, sent, batches)

    return run


@lru_cache(maxsize=4)
def _read(told: bytes) -> Assignment:
    """Return what a worker is told. Reading it imports half of bertonnx, so that Spark is not let do it."""
    with paused():
        assignment: Assignment = pickle.loads(told)
        return assignment


def batches_of_task(
    told: bytes, sent: Mapping[str, str] | None, batches: Iterator[pyarrow.RecordBatch]
) -> Iterator[pyarrow.RecordBatch]:
    """Yield the results of a task's batches; runs in a Python worker of Spark."""
    assignment, rows = _read(told), 0
    from bertonnx.runtime.workers import run_batch

    for batch in batches:
        # Not before there is one: an empty partition needs no model.
        where = f"partition {_task().partitionId()}, rows from {rows} on"
        yield run_batch(_model(assignment, sent), assignment, batch, where=where)
        rows += batch.num_rows


def _called(assignment: Assignment, sent: Mapping[str, str] | None, *, two: bool) -> Callable[..., Any]:
    """Return what a column function does with an array of texts, or two."""
    told = pickle.dumps(assignment)

    def of_texts(texts: pyarrow.Array) -> pyarrow.Array:
        from bertonnx.spark import results_of_texts

        return results_of_texts(told, sent, texts)

    def of_pairs(texts: pyarrow.Array, others: pyarrow.Array) -> pyarrow.Array:
        from bertonnx.spark import results_of_texts

        return results_of_texts(told, sent, texts, others)

    return of_pairs if two else of_texts


def results_of_texts(
    told: bytes,
    sent: Mapping[str, str] | None,
    texts: pyarrow.Array,
    others: pyarrow.Array | None = None,
) -> pyarrow.StructArray:
    """Return an array of the results of texts or pairs; runs in a Python worker of Spark."""
    import pyarrow as pa

    assignment = _read(told)
    from bertonnx.runtime.workers import run_batch

    columns = [array for array in (texts, others) if array is not None]
    batch = pa.RecordBatch.from_arrays(columns, [_TEXT, _PAIR][: len(columns)])
    where = f"partition {_task().partitionId()}, a batch of its rows"
    result = run_batch(_model(assignment, sent), assignment, batch, where=where)
    return pa.StructArray.from_arrays(result.columns, fields=list(result.schema))


def _arrow_udf(function: Callable[..., Any], kind: Any) -> Any:
    import pyarrow as pa
    from pyspark.sql import functions

    if hasattr(functions, "arrow_udf"):
        # It reads the annotations, and not those that are text, as here.
        function.__annotations__ = dict.fromkeys(function.__annotations__, pa.Array)
        return functions.arrow_udf(function, kind)
    return _pandas_udf(function, kind)


def _pandas_udf(function: Callable[..., Any], kind: Any) -> Any:
    """Return the same function for PySpark before 4.1, which gives column functions pandas' series."""
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql.functions import pandas_udf

    def of_series(*columns: pd.Series) -> pd.DataFrame:
        # Value by value: what pandas holds texts in, and writes for null, differs from version to version.
        texts = (column.astype(object).where(column.notna(), None).tolist() for column in columns)
        result = function(*(pa.array(values, pa.string()) for values in texts))
        return pa.RecordBatch.from_struct_array(result).to_pandas()

    # By what they are: it reads the annotations, which here are text.
    of_series.__annotations__ = {"columns": pd.Series, "return": pd.DataFrame}
    return pandas_udf(of_series, kind)


def _model(assignment: Assignment, sent: Mapping[str, str] | None) -> Model:
    from bertonnx.runtime.workers import open_once

    def fetch(name: str, target: Path) -> None:
        from pyspark import SparkFiles

        assert sent is not None
        _placed(Path(SparkFiles.get(sent[name])), target)

    return open_once(assignment, None if sent is None else fetch, threads=max(1, int(_task().cpus())))


def _task() -> Any:
    from pyspark import TaskContext

    return TaskContext.get()


def _sent(assignment: Assignment, session: SparkSession, ship: bool | None) -> dict[str, str] | None:
    """Let Spark bring the model's files to its workers.

    Returns:
        What each is called there; None where workers read the path.
    """
    connected = type(session).__module__.startswith("pyspark.sql.connect")
    local = not connected and session.sparkContext.master.partition("[")[0] == "local"
    if local:
        _check_python(str(session.sparkContext.pythonExec))
    if ship is None:
        ship = not local
    if not ship:
        return None
    names = {name: f"bertonnx-{assignment.digest[:16]}-{i}" for i, name in enumerate(assignment.files)}
    paths = [str(_staged(Path(assignment.root) / name, sent)) for name, sent in names.items()]
    if connected:
        session.addArtifacts(*paths, file=True)
    else:
        for path in paths:
            session.sparkContext.addFile(path)
    return names


def _check_python(python: str) -> None:
    """Say where workers of this machine run another Python, which may lack what is installed here."""
    found = shutil.which(python)
    if found is not None and Path(found).parent != Path(sys.executable).parent:
        note = Message(
            "Spark's workers run {python}, and this program runs {own}; to let them run the same, say {say} "
            "before the session is made",
            python=found,
            own=sys.executable,
            say=f"os.environ['PYSPARK_PYTHON'] = {sys.executable!r}",
        )
        warnings.warn(str(note), stacklevel=4)


def _staged(source: Path, name: str) -> Path:
    """Return a file under a name that is its own: Spark knows files by their last name alone.

    It is the file as it is now, which Spark reads when a worker asks for it.
    """
    if not _stage:
        _stage.append(Path(tempfile.mkdtemp(prefix="bertonnx-spark-")))
        atexit.register(shutil.rmtree, _stage[0], ignore_errors=True)
    target = _stage[0] / name
    if not target.exists():
        _placed(source, target)
    return target


_stage: list[Path] = []
"""The folder of `_staged`, made when it is needed."""


def _placed(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
