"""The whole GPU measurement in one sitting: throughput, latency, agreement, beside PyTorch and Optimum.

    python benchmarks/gpu --prepare FOLDER          # where bertonnx[cpu,export] is installed
    python benchmarks/gpu FOLDER [--part 1.0] [--rounds 5]          # on the machine with the GPU
    python benchmarks/gpu FOLDER --rehearse         # the same code on a CPU, tiny: 1 min

Its parts run one by one with `--only`; what was seen so far, on one H200, is in `results/gpu.md`. Compiling
PyTorch's engines takes a minute a model.

`--prepare` writes graphs without weights (8 MB; the weights are drawn again from their names), and where
`BERTONNX_SHARED` names a folder with models/sst2-minilm and data/sst2_dev.tsv the sentiment model in fp16
(46 MB) with fp32's labels. The machine with the GPU needs torch, transformers, onnx, tokenizers and
onnxruntime-gpu, and no exporter. It fills the weights into a folder of temporary files (4 GB). Files that lie
in FOLDER/golden (`python -m tests.exported` makes some) are checked too.

Workload: 100,000 different texts of 8 to 512 tokens, evenly spread as the CPU workload's, from text to
vectors in host memory, for MiniLM's and bert-base's sizes; single texts of 16, 128 and 512 tokens; and
bert-large's sizes at 384 tokens, as a share of the bf16 matrix rate measured in the same sitting. Engines
take turns, every other round backwards; medians count. `gpu/engines.py` says how each is set up. About
40 minutes on one H200; `--part 0.2` a quarter of that.

Bars: fp16 throughput at least the best torch engine's, unpadded included, and 2.5 times Optimum's; single
texts sooner than every torch engine; 40% of the matrix rate; fp32 within 1e-3 of the CPU; 99.9% of fp16's
labels as fp32's. Written to `results/gpu.md` unless rehearsed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

# A folder that is run has only itself on the path; its modules are named from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common

PACKAGES = ("onnxruntime-gpu", "onnxruntime", "torch", "transformers", "optimum-onnx", "tokenizers", "numpy")
MODELS = ("minilm", "bert-base")
PARTS = ("correctness", "forms", "bits", "speed", "large")
LATENCY_RUNS = 48
REHEARSED_PART, REHEARSED_ROUNDS, REHEARSED_RUNS = 48 / 100_000, 2, 4


def main() -> None:
    options = _options()
    # Here, because --help shall not wait for PyTorch.
    if options.prepare:
        from gpu.prepare import prepare

        prepare(options.folder)
        return
    import bertonnx
    from gpu.bits import bits
    from gpu.correctness import correctness
    from gpu.forms import forms
    from gpu.measure import agreement, large, model
    from gpu.recipe import SHAPES, fill
    from gpu.report import DID_NOT_RUN, Report, device, introduction

    models = ("tiny",) if options.rehearse else options.models
    with tempfile.TemporaryDirectory(prefix="bertonnx-cuda-") as folder:
        work = Path(folder)
        for file in sorted(options.folder.glob("*-fp*.onnx")):
            name = file.stem.rpartition("-")[0]
            large_too = "large" in options.only and not options.rehearse
            if name in SHAPES and (name in models or (name == "bert-large" and large_too)):
                fill(file, work / file.name, SHAPES[name])
        report = Report(options.out)
        report.add([introduction(options.rounds, rehearsed=options.rehearse), device(options.device)])
        if "correctness" in options.only:
            report.add(agreement(models, options, work))
            report.add(correctness(options, work))
        if "forms" in options.only:
            report.add(forms(models, options, work))
        if "bits" in options.only:
            report.add(bits(models, options, work))
        if "speed" in options.only:
            for name in models:
                report.add(model(name, options, work))
        if "large" in options.only:
            report.add(large("tiny" if options.rehearse else "bert-large", options, work))
    body = report.body
    if not options.rehearse and options.only == PARTS:
        common.publish("gpu", title=f"bertonnx {bertonnx.__version__} on CUDA", body=body, packages=PACKAGES)
    if DID_NOT_RUN in body:
        raise SystemExit(f"not measured: {DID_NOT_RUN}")


def _options() -> argparse.Namespace:
    parser = common.parser(__doc__, rounds=5)
    parser.add_argument("folder", type=Path, help="where --prepare wrote, or shall write, its files")
    parser.add_argument("--prepare", action="store_true", help="make the files; needs bertonnx[export]")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU; publishes nothing")
    parser.add_argument("--part", type=common.share, default=1.0, help="share of the texts (default 1)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run; default all")
    parser.add_argument("--engines", nargs="*", default=[], help="those whose speed is measured; default all")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="default both")
    parser.add_argument(
        "--shuffles", type=int, default=10, help="orders of the texts whose bits are compared"
    )
    parser.add_argument("--company", type=int, default=10_000, help="how many texts these are")
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp16", "fp32"), default=("fp16", "fp32"), help="theirs"
    )
    parser.add_argument(
        "--out", type=Path, help="a file to which every part is appended as soon as it is there"
    )
    options = parser.parse_args()
    if options.rehearse:
        options.part, options.rounds = REHEARSED_PART, min(options.rounds, REHEARSED_ROUNDS)
    options.device = "cpu" if options.rehearse else "cuda"
    options.runs = REHEARSED_RUNS if options.rehearse else LATENCY_RUNS
    return options


if __name__ == "__main__":
    main()
