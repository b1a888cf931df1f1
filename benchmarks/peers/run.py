"""What `python benchmarks/peers` runs with the Python that has the peers."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

import bertonnx
import common
from bertonnx.runtime.session.cores import allowed_cores
from common import say
from peers.child import Child, PeerError
from peers.engines import ENGINES
from peers.prepare import MODELS, Shape, prepare
from peers.report import body, charts
from peers.texts import LATENCY_LENGTHS, source, texts, useful_flops

WORKLOADS = ("short", "mixed")
LATENCY_RUNS = {"minilm": (40, 20, 6), "bert-base": (16, 6, 3)}
PACKAGES = (
    *("onnxruntime", "openvino", "ctranslate2", "torch", "fastembed", "sentence-transformers"),
    *("transformers", "optimum", "optimum-onnx", "tokenizers", "numpy"),
)
QUICK_PART, QUICK_ROUNDS = 1 / 20, 2
REFERENCE = "torch"
SETUP, TEXTS = "setup.json", "texts.json"

Results = dict[str, Any]


def main() -> None:
    options = _options()
    folder = Path(os.environ["BERTONNX_PEERS"])
    cores = allowed_cores()
    results: Results = {"models": {}, "rounds": options.rounds, "quick": options.quick}
    for name in options.models:
        results["models"][name] = _model(name, folder, cores, options)
    about = [
        line.replace("bertonnx not installed", f"bertonnx {bertonnx.__version__}")
        for line in common.machine(PACKAGES)
    ]
    results["machine"] = about
    target = folder / "quick" if options.quick else common.RESULTS
    _write(results, target)
    wrong = list(_disagreements(results))
    if wrong:
        raise SystemExit("these do not compute the same vectors: " + "; ".join(wrong))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/peers")
    parser.add_argument(
        "--quick", action="store_true", help="a few texts, MiniLM alone, two rounds: try it out"
    )
    parser.add_argument("--rounds", type=int, help="how often everything is measured (default 5)")
    parser.add_argument("--models", help=f"some of {','.join(MODELS)}")
    parser.add_argument("--peers", help=f"some of {','.join(ENGINES)}")
    parser.add_argument("--part", type=common.share, help="share of the workloads, over 0 and at most 1")
    options = parser.parse_args()
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else 5)
    options.models = _some(parser, options.models, ["minilm"] if options.quick else list(MODELS), MODELS)
    options.peers = _some(parser, options.peers, list(ENGINES), ENGINES)
    return options


def _some(
    parser: argparse.ArgumentParser, asked: str | None, default: list[str], known: dict[str, Any]
) -> list[str]:
    names = default if asked is None else asked.split(",")
    for name in names:
        if name not in known:
            parser.error(f"{name} is unknown; there are {', '.join(known)}")
    return names


def _model(name: str, folder: Path, cores: int, options: argparse.Namespace) -> Results:
    say(f"{name}: preparing the models")
    setup, problems = prepare(name, folder / "models" / name, cores)
    where, sentences = source()
    tokenizer = Tokenizer.from_file(str(setup.checkpoint / "tokenizer.json"))
    part = options.part or (QUICK_PART if options.quick else MODELS[name].part)
    made = texts(sentences, tokenizer, part=part)
    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    values = {key: str(value) if isinstance(value, Path) else value for key, value in vars(setup).items()}
    (run / SETUP).write_text(json.dumps(values), encoding="utf-8")
    (run / TEXTS).write_text(json.dumps(made), encoding="utf-8")
    peers = list(dict.fromkeys([REFERENCE, *options.peers]))
    results: Results = {
        "texts": _described(made, tokenizer, MODELS[name]),
        "source": where,
        "sgemm": [],
        "kernels": [],
        "engines": {peer: _entry(peer, problems) for peer in peers},
    }
    with ExitStack() as stack:
        gauge = _child("sgemm", name, run, cores)
        stack.callback(gauge.close)
        children: dict[str, Child] = {}
        for peer, entry in results["engines"].items():
            if peer not in problems:
                say(f"{name}: loading {peer}")
                with _excused(entry):
                    children[peer] = _child(peer, name, run, cores)
                    stack.callback(children[peer].close)
        _measure(name, children, gauge, results, run, options)
    return results


def _entry(peer: str, problems: dict[str, str]) -> Results:
    made = ENGINES[peer]
    failed = {"error": problems[peer]} if peer in problems else {}
    return {"name": made.name, "precision": made.precision, "seconds": {}, "latency": {}, **failed}


def _child(engine: str, model: str, run: Path, cores: int) -> Child:
    log = run / f"{model}-{engine}.log"
    # What holds OpenBLAS to an older core would halve the peak that all are compared with.
    unset = common.OLDER_CORE if engine == "sgemm" else ()
    return Child(engine, run / SETUP, run / TEXTS, cores=cores, log=log, unset=unset)


def _described(made: dict[str, list[str]], tokenizer: Tokenizer, shape: Shape) -> Results:
    described = {}
    for workload in WORKLOADS:
        lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(made[workload])]
        flops = useful_flops(lengths, layers=shape.layers, width=shape.width, inner=shape.inner)
        described[workload] = {"texts": len(lengths), "tokens": sum(lengths), "flops": flops}
    return described


def _measure(
    name: str,
    children: dict[str, Child],
    gauge: Child,
    results: Results,
    run: Path,
    options: argparse.Namespace,
) -> None:
    for peer, child in children.items():
        say(f"{name}: warming up {peer}")
        entry = results["engines"][peer]
        entry["version"] = child.version
        with _excused(entry):
            _warm_up(child, entry, run / f"{peer}.npy", tune=not options.quick)
    _compare(results["engines"], run)
    for number in range(options.rounds):
        say(f"{name}: round {number + 1} of {options.rounds}")
        for workload in WORKLOADS:
            _gauge(gauge, results)
            for peer, entry in _turn(children, results["engines"], number):
                with _excused(entry):
                    seconds = children[peer].ask(do="embed", texts=workload, save=None)["seconds"]
                    entry["seconds"].setdefault(workload, []).append(seconds)
        _gauge(gauge, results)
        for length, runs in zip(LATENCY_LENGTHS, LATENCY_RUNS[name], strict=True):
            for peer, entry in _turn(children, results["engines"], number):
                if ENGINES[peer].latency:
                    with _excused(entry):
                        seconds = children[peer].ask(do="latency", texts=str(length), runs=runs)["seconds"]
                        entry["latency"].setdefault(str(length), []).extend(seconds)


def _gauge(gauge: Child, results: Results) -> None:
    """Note the rate of matrix products, and whose kernels reached it."""
    answer = gauge.ask(do="sgemm")
    results["sgemm"].append(answer["gflops"])
    results["kernels"] = sorted({*results["kernels"], answer["kernels"]})


def _turn(children: dict[str, Child], entries: Results, number: int) -> Iterator[tuple[str, Results]]:
    """Yield the engines that still work, every other round backwards."""
    for peer in list(children) if number % 2 else list(reversed(children)):
        if "error" not in entries[peer]:
            yield peer, entries[peer]


@contextmanager
def _excused(entry: Results) -> Iterator[None]:
    """Write a peer's failure into its entry; the others go on."""
    try:
        yield
    except PeerError as error:
        entry["error"] = str(error)


def _warm_up(child: Child, entry: Results, save: Path, *, tune: bool) -> None:
    for workload in WORKLOADS:
        if tune:
            entry.setdefault("budget", {})[workload] = child.ask(do="tune", texts=workload)["budget"]
    child.ask(do="embed", texts="short", save=None)
    child.ask(do="embed", texts="mixed", save=str(save))
    if ENGINES[save.stem].latency:
        for length in LATENCY_LENGTHS:
            child.ask(do="latency", texts=str(length), runs=2)


def _compare(entries: Results, run: Path) -> None:
    """Note each peer's least and mean cosine with the reference's vectors of the mixed passages."""
    if "error" in entries[REFERENCE]:
        raise SystemExit(f"the reference, {REFERENCE}, failed: {entries[REFERENCE]['error']}")
    reference = np.load(run / f"{REFERENCE}.npy").astype(np.float64)
    for peer, entry in entries.items():
        if "error" not in entry:
            vectors = np.load(run / f"{peer}.npy").astype(np.float64)
            norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
            cosines = (vectors * reference).sum(axis=1) / norms
            entry["cosine"] = {"least": float(cosines.min()), "mean": float(cosines.mean())}


def _disagreements(results: Results) -> Iterator[str]:
    for model, measured in results["models"].items():
        for entry in measured["engines"].values():
            least = entry.get("cosine", {}).get("least", 1.0)
            if entry["precision"] == "fp32" and not least >= 0.999:
                yield f"{entry['name']} ({model}, cosine {least:.4f})"


def _write(results: Results, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    about = "\n".join(f"- {line}" for line in results["machine"])
    text = f"# bertonnx and its peers on CPU\n\n{body(results)}\n\n## Machine\n\n{about}\n"
    (target / "peers.md").write_text(text, encoding="utf-8")
    (target / "peers.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name, picture in charts(results):
        (target / f"peers-{name}.svg").write_text(picture, encoding="utf-8")
    print(text)
    say(f"written to {target}")


if __name__ == "__main__":
    main()
