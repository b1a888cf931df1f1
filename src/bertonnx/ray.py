"""Predictions inside Ray Data: `bertonnx.ray.predict(dataset, "model.onnx", column="text")`.

Needs `pip install "bertonnx[cpu,ray]"` on the driver and on every node. docs/scaling.md says what it costs.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx.errors import MissingDependencyError
from bertonnx.models.providers import AUTO
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
    require_at_least,
    require_number,
    taken,
)
from bertonnx.wording import Install, Message, Option

if TYPE_CHECKING:
    from ray.data import Dataset

    from bertonnx.runtime.model import Model
    from bertonnx.runtime.workers import Assignment

__all__ = ["predict"]

ROWS = 1024
"""Rows of a block: enough to make full batches of, and what a lost worker costs at most."""


def predict(
    ds: Dataset,
    model: str | Path | Model,
    column: str | None = None,
    *,
    pair_column: str | None = None,
    plain: bool = False,
    prefix: str = "",
    on_error: OnError = "record",
    workers: int | None = None,
    threads: int = 1,
    num_gpus: float = 0,
    rows: int = ROWS,
    preserve_order: bool | None = None,
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
) -> Dataset:
    """Return a dataset with the columns of the results behind those of its own; nothing runs yet.

    Values are those of `bertonnx run`, bit for bit on equal processors and ONNX Runtimes, however Ray divides
    the rows and whichever worker dies: a row that is computed again has the same result.

    Args:
        ds: the rows.
        model: a model file, a folder or file that optimum-cli made, or an open model (its path is used).
        column: the column of the texts; default as `Model.predict_batch`.
        pair_column: the column of the second texts.
        plain: embeddings are `list<float>`, in place of `fixed_size_list<float>[width]`.
        prefix: what the names of the results' columns begin with.
        on_error: "record" puts a failed row's error into `error_type` and `error_message`, "fail" ends the
            job.
        workers: actors, each of which holds the model; default as many as the cluster has CPUs (or GPUs)
            for, but for one CPU, which reading needs.
        threads: CPUs of each worker.
        num_gpus: GPUs of each worker; 0.5 lets two share one. The provider is then "cuda".
        rows: rows of a block, which one worker takes at a time.
        preserve_order: whether rows come in their order; None for what the dataset's context says. It holds
            for `ds` too, which shares its context.
        ship: whether the model travels through Ray's object store; False where its path is on every node.
            Default: it travels where the cluster has more than one node.
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
            Where Ray does not know the columns before it reads, this comes from a worker.
        ModelFileError: the model is missing, broken or foreign.
        UsageError: an argument is out of range, or for another task.
        MissingDependencyError: Ray Data is not installed.
    """
    if num_gpus and provider == AUTO:
        # It would take CPUs where CUDA does not work, on nodes that are paid for their GPUs.
        provider = "cuda"
    given = locals()
    require_at_least("workers", workers)
    require_at_least("rows", rows)
    require_number("num_gpus", num_gpus)
    data = _ray_data()
    from bertonnx.runtime.workers import assignment_for

    assignment = assignment_for(
        model,
        load=taken(LoadOptions, given),
        decode=taken(DecodeOptions, given),
        columns=taken(RunOptions, given),
        batch=BatchOptions(keep=True, plain=plain, first_row=None, prefix=prefix),
    )
    _check_columns(ds, assignment)
    pool = _pool(workers, threads, num_gpus)
    # Blocks of a table may be fewer than workers, and a worker takes a whole one.
    result = ds.repartition(target_num_rows_per_block=rows).map_batches(
        _Worker,
        fn_constructor_args=(assignment, _sent(assignment, ship), threads),
        batch_format="pyarrow",
        batch_size=rows,
        num_cpus=pool.cpus,
        num_gpus=num_gpus or None,
        compute=data.ActorPoolStrategy(min_size=pool.least, max_size=pool.most),
    )
    if preserve_order is not None:
        result.context.execution_options.preserve_order = preserve_order
    return result


class _Worker:
    """What an actor holds. What is wrong with the model comes with a batch: actors that fail before are made
    anew, for ever."""

    def __init__(self, assignment: Assignment, sent: Mapping[str, Any] | None, threads: int) -> None:
        self._assignment, self._sent, self._threads = assignment, sent, threads
        self._batches = 0
        # Ray reads meanwhile, for seconds at the start of a job. Not a daemon: ONNX Runtime does not outlive
        # an interpreter that ends.
        threading.Thread(target=self._open_early).start()

    def __call__(self, batch: Any) -> Any:
        from bertonnx.runtime.workers import run_batch

        self._batches += 1
        where = f"batch {self._batches} of this worker"
        return run_batch(self._open(), self._assignment, batch, where=where)

    def _open_early(self) -> None:
        # The first batch tries again, and fails in the same way.
        with suppress(Exception):
            self._open()

    def _open(self) -> Model:
        from bertonnx.runtime.workers import open_once

        return open_once(self._assignment, None if self._sent is None else self._fetch, threads=self._threads)

    def _fetch(self, name: str, target: Path) -> None:
        import ray

        assert self._sent is not None
        target.write_bytes(ray.get(self._sent[name]))


@dataclass(frozen=True)
class _Pool:
    """How many actors there are, and the CPUs that each asks for."""

    least: int
    most: int
    cpus: float


def _ray_data() -> Any:
    try:
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            "{module} needs Ray Data; install it with: {install}",
            module="bertonnx.ray",
            install=Install("cpu,ray"),
        ) from error
    return ray.data


def _check_columns(ds: Dataset, assignment: Assignment) -> None:
    """Check the columns where Ray knows them without reading; else the workers do."""
    from bertonnx.runtime.io.arrow_batch import batch_schema, chosen_columns

    schema = ds.schema(fetch_if_missing=False)
    arrow = getattr(schema, "base_schema", None)
    # Blocks may be pandas' as well, which has other types.
    if arrow is not None and type(arrow).__module__.startswith("pyarrow"):
        chosen_columns(assignment.card, arrow, assignment.columns, assignment.decode, what="the dataset")
        batch_schema(assignment.card, arrow, assignment.decode, assignment.batch)


def _pool(workers: int | None, threads: int, num_gpus: float) -> _Pool:
    """Return the actors that fit while a CPU is left over.

    Where actors take all of them, nothing is left to read with, and Ray waits without a word.
    """
    import ray

    found = ray.cluster_resources()
    free = int(found.get("CPU", 0)) - 1
    fit = int(found.get("GPU", 0) / num_gpus) if num_gpus else free // threads
    if num_gpus:
        fit = min(fit, free // threads) if free >= threads else fit
    wanted = workers or max(fit, 1)
    if fit >= wanted:
        return _Pool(wanted, wanted, threads)
    if fit < 1:
        # They take nothing, so that reading can; all share what there is.
        say = "{threads} does not fit beside the CPU that reading needs; this cluster has {cpus}: they share"
        warnings.warn(str(Message(say, cpus=free + 1, threads=Option("threads", threads))), stacklevel=3)
        return _Pool(1, 1, max(free, 0))
    say = "{fit} workers fit into this cluster beside the CPU that reading needs; with {asked} it must grow"
    warnings.warn(str(Message(say, fit=fit, asked=Option("workers", workers))), stacklevel=3)
    return _Pool(fit, wanted, threads)


def _sent(assignment: Assignment, ship: bool | None) -> dict[str, Any] | None:
    """Return the model's files in the object store, by their names; None where workers read the path."""
    import ray

    if ship is None:
        ship = len([node for node in ray.nodes() if node["Alive"]]) > 1
    if not ship:
        return None
    return {name: ray.put((Path(assignment.root) / name).read_bytes()) for name in assignment.files}
