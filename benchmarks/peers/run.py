"""What `python benchmarks/peers` runs with the Python that has the peers."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

import bertonnx
import common
from bertonnx.runtime.session.cores import allowed_cores
from common import say
from peers.cells import SINGLE, WORKLOADS, Cell, Pool, cells, entries, measured, reference
from peers.engines import ENGINES
from peers.prepare import MODELS, Shape, prepare
from peers.report import body, charts
from peers.texts import source, texts, useful_flops

PACKAGES = ("onnxruntime", "torch", "transformers", "tokenizers", "numpy")
QUICK_PART, QUICK_ROUNDS = 1 / 4, 2

HERE = Path(__file__).parent
REQUIREMENTS = (HERE / "current.txt", HERE / "older.txt")

Results = dict[str, Any]


def main() -> None:
    options = _options()
    folder = Path(os.environ["BERTONNX_PEERS"])
    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    problems: dict[str, str] = {}
    about = {}
    for name in options.models:
        about[name], failed = _prepared(name, folder, options)
        problems |= {f"{name} {engine}": why for engine, why in failed.items()}
    state = _state(options)
    if options.anew:
        state.unlink(missing_ok=True)
    if options.prepare:
        return
    wanted = cells(options.models, options.threads)
    done = _measured(wanted, state, problems, run, options)
    results: Results = {"rounds": options.rounds, "quick": options.quick}
    results["models"] = {
        name: _gathered(
            name, about[name], {cell: done[cell.name] for cell in wanted if cell.name in done}, options
        )
        for name in options.models
    }
    results["minutes"] = sum(cell["took"] for cell in done.values()) / 60
    results["machine"] = _machine(done)
    missing = [cell.name for cell in wanted if cell.name not in done]
    if missing:
        print(body(results))
        sys.exit(f"{len(missing)} of {len(wanted)} cells are not measured yet; the same command goes on")
    _write(results, folder / "quick" if options.quick else common.RESULTS)
    wrong = list(_disagreements(results))
    if wrong:
        raise SystemExit("these do not compute the same vectors: " + "; ".join(wrong))


def _options() -> argparse.Namespace:
    parser = common.parser(None)
    parser.prog = "benchmarks/peers"
    parser.add_argument("--quick", action="store_true", help="MiniLM on all cores, few texts: try it out")
    parser.add_argument("--prepare", action="store_true", help="make environments and models alone")
    parser.add_argument("--rounds", type=int, help="how often a cell's fast entries are measured (default 4)")
    parser.add_argument("--threads", help="numbers of threads, the largest first (default all cores, and 1)")
    parser.add_argument("--models", help=f"some of {','.join(MODELS)}")
    parser.add_argument("--peers", help=f"some of {','.join(ENGINES)}")
    parser.add_argument("--part", type=common.share, help="share of the workloads, over 0 and at most 1")
    common.resumable(parser)
    options = parser.parse_args()
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else 4)
    options.part = options.part or (QUICK_PART if options.quick else 1.0)
    options.models = _some(parser, options.models, ["minilm"] if options.quick else list(MODELS), MODELS)
    options.peers = _some(parser, options.peers, list(ENGINES), ENGINES)
    most = allowed_cores()
    usual = [most] if options.quick or most == 1 else [most, 1]
    options.threads = list(map(int, options.threads.split(","))) if options.threads else usual
    return options


def _some(
    parser: argparse.ArgumentParser, asked: str | None, default: list[str], known: Mapping[str, object]
) -> list[str]:
    names = default if asked is None else asked.split(",")
    for name in names:
        if name not in known:
            parser.error(f"{name} is unknown; there are {', '.join(known)}")
    return names


def _prepared(name: str, folder: Path, options: argparse.Namespace) -> tuple[Results, dict[str, str]]:
    """Write a model's setup and texts for the processes; return what the texts are, and who cannot run."""
    say(f"{name}: preparing the models")
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in REQUIREMENTS)).hexdigest()[:12]
    setup, problems = prepare(name, folder / "models" / digest / name)
    where, sentences = source()
    tokenizer = Tokenizer.from_file(str(setup.checkpoint / "tokenizer.json"))
    shape = MODELS[name]
    short, mixed = (min(1.0, share * options.part) for share in (shape.short, shape.mixed))
    made = texts(sentences, tokenizer, part=short, mixed=mixed)
    values = {key: str(value) for key, value in vars(setup).items() if key != "cores"}
    for what, content in (("setup", values), ("texts", made)):
        file, text = folder / "run" / f"{name}-{what}.json", json.dumps(content)
        # What was made of the same texts stays newer than they are.
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    return {"texts": _described(made, tokenizer, shape), "source": where}, problems


def _described(made: dict[str, list[str]], tokenizer: Tokenizer, shape: Shape) -> Results:
    described = {}
    for workload in WORKLOADS:
        lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(made[workload])]
        flops = useful_flops(lengths, layers=shape.layers, width=shape.width, inner=shape.inner)
        described[workload] = {"texts": len(lengths), "tokens": sum(lengths), "flops": flops}
    return described


def _state(options: argparse.Namespace) -> Path:
    code = [common.ROOT / place for place in ("src/bertonnx", "runtime")]
    chosen = (options.rounds, options.part, options.peers, allowed_cores(), source()[0])
    return common.kept("peers", *code, HERE, *REQUIREMENTS, *chosen)


def _measured(
    wanted: Sequence[Cell], state: Path, problems: Mapping[str, str], run: Path, options: argparse.Namespace
) -> dict[str, Results]:
    """Measure what was not yet, until the time is over; return what there is."""
    done: dict[str, Results] = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    end = time.monotonic() + 60 * options.minutes
    pool, most = Pool(run), max(options.threads)
    try:
        for cell in wanted:
            if cell.name in done:
                continue
            if time.monotonic() > end:
                break
            began = time.perf_counter()
            vectors = run / f"{cell.model}-reference.npy"
            if cell.task == "mixed" and not _is_of(vectors, run / f"{cell.model}-texts.json"):
                reference(cell.model, most, pool, vectors)
            names = entries(cell, options.peers, most)
            working = [name for name in names if f"{cell.model} {name}" not in problems]
            found = measured(
                cell, working, pool, rounds=options.rounds, tuned=_tuned(cell, most, done), run=run
            )
            for name in set(names) - set(working):
                found["entries"][name] = {"times": {}, "error": problems[f"{cell.model} {name}"]}
            found |= {
                "took": time.perf_counter() - began,
                "day": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            }
            done[cell.name] = found
            state.write_text(json.dumps(done), encoding="utf-8")
    finally:
        pool.close()
    return done


def _is_of(made: Path, source: Path) -> bool:
    """Return whether a file was made after its source."""
    return made.is_file() and made.stat().st_mtime > source.stat().st_mtime


def _tuned(cell: Cell, most: int, done: Mapping[str, Results]) -> dict[str, int | None]:
    """Return the batch sizes that were found on all cores."""
    there = done.get(cell._replace(threads=most).name, {"entries": {}})["entries"]
    return {name: entry["budget"] for name, entry in there.items() if entry.get("budget")}


def _gathered(
    model: str, about: Results, done: Mapping[Cell, Results], options: argparse.Namespace
) -> Results:
    """Return a model's cells as its engines' figures: those on the most threads; the others in `fewer`."""
    most, *fewer = sorted(options.threads, reverse=True)
    every = {
        threads: _on({cell: found for cell, found in done.items() if cell[:2] == (model, threads)})
        for threads in options.threads
    }
    return {**about, "threads": most, **every[most], "fewer": {str(count): every[count] for count in fewer}}


def _on(done: Mapping[Cell, Results]) -> Results:
    engines: Results = {}
    for cell, found in done.items():
        for name, entry in found["entries"].items():
            made = ENGINES[name]
            blank = {
                "name": made.name,
                "precision": made.precision,
                "seconds": {},
                "latency": {},
                "budget": {},
            }
            into = engines.setdefault(name, {**blank, "failed": {}})
            into["latency" if cell.task == SINGLE else "seconds"] |= (
                entry["times"] if "error" not in entry else {}
            )
            into["version"] = entry.get("version", "")
            into["budget"] |= {cell.task: entry["budget"]} if entry.get("budget") else {}
            into["failed"] |= {cell.task: entry["error"]} if "error" in entry else {}
            into |= {"cosine": entry["cosine"]} if "cosine" in entry else {}
    rates = {f"{cell.precision} {cell.task}": found["sgemm"] for cell, found in done.items()}
    kernels = sorted({name for found in done.values() for name in found["kernels"]})
    every = [rate for cell in rates.values() for rate in cell]
    return {"engines": engines, "sgemm": every, "rates": rates, "kernels": kernels}


def _machine(done: Mapping[str, Results]) -> list[str]:
    """Return what a reader must know to repeat it: the days of the cells, and every peer's version."""
    today, *lines, packages = common.machine(PACKAGES)
    days = sorted({cell["day"] for cell in done.values()}) or [today]
    packages = packages.replace("bertonnx not installed", f"bertonnx {bertonnx.__version__}")
    peers = {
        entry["version"] for cell in done.values() for entry in cell["entries"].values() if "version" in entry
    }
    return [", ".join(days), *lines, packages, f"peers: {', '.join(sorted(peers))}"]


def _disagreements(results: Results) -> Iterator[str]:
    for model, found in results["models"].items():
        for threads in (found, *found["fewer"].values()):
            for entry in threads["engines"].values():
                least = entry.get("cosine", {}).get("least", 1.0)
                if entry["precision"] == "fp32" and not least >= 0.999:
                    yield f"{entry['name']} ({model}, cosine {least:.4f})"


def _write(results: Results, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    about = "\n".join(f"- {line}" for line in results["machine"])
    text = f"# bertonnx and its peers on CPU\n\n{body(results)}\n\n## Machine\n\n{about}\n"
    if target == common.RESULTS:
        common.put_aside("peers", results["machine"])
    (target / "peers.md").write_text(text, encoding="utf-8")
    (target / "peers.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, picture in charts(results):
        (target / f"peers-{name}.svg").write_text(picture, encoding="utf-8")
    print(text)
    say(f"written to {target}")


if __name__ == "__main__":
    main()
