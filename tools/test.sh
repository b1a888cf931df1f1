#!/bin/sh
# All checks and all tests, in virtual environments of their own. Arguments go to pytest: --cov says what the
# tests reach, which takes half as long again.
#
# The first environment has transformers 4.57 and optimum-cli's exporter, whose folders `run` takes; the second
# has the newest transformers 5. Checkpoints are saved and read with both. The second runs the tests of reading
# and tracing checkpoints, and one task of every family. It is left out where arguments choose tests.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
python="$venv/bin/python"
"$python" -m pip install --quiet --upgrade "pip>=25.1"
# torch by its exact version: a range would bring several gigabytes of CUDA packages along.
"$python" -m pip install --quiet torch==2.13.0
"$python" -m pip install --quiet --editable ".[cpu,export,arrow,bench]" --group dev \
  "transformers==4.57.*" "optimum-onnx==0.1.*"
"$python" -m ruff check
"$python" -m ruff format --check
# Type checkers find the folders through the links in src/bertonnx, which a zip or Windows may leave out.
if [ -d src/bertonnx/models ]; then
  "$python" -m mypy
else
  echo "there are no links in src/bertonnx, so types were not checked" >&2
fi
# Two workers share the cores already; PyTorch's threads on top of them would only get in the way.
export OMP_NUM_THREADS=1
"$python" -m pytest --numprocesses 2 --dist worksteal "$@"
if [ $# -eq 0 ]; then
  newer="$venv-transformers5"
  [ -x "$newer/bin/python" ] || "${PYTHON:-python3}" -m venv "$newer"
  "$newer/bin/python" -m pip install --quiet --upgrade "pip>=25.1"
  "$newer/bin/python" -m pip install --quiet torch==2.13.0
  "$newer/bin/python" -m pip install --quiet --editable ".[cpu,export,arrow]" --group dev "transformers>=5"
  "$newer/bin/python" -m pytest --numprocesses 2 --dist worksteal \
    tests/exporters/checkpoint tests/exporters/steps/test_trace.py tests/exporters/test_convert.py
  "$newer/bin/python" -m pytest --numprocesses 2 --dist worksteal tests/whole/test_matrix.py \
    -k text-classification
  # The same folders, saved by either version, give the same ids and numbers in both.
  "$python" tools/compare_environments.py "$python" "$newer/bin/python"
  # What the one of colbert asks for is in the second environment already.
  [ -e "$venv-colbert" ] || ln -s "$(basename "$newer")" "$venv-colbert"
  VENV="$venv" sh tools/environments.sh
fi
if command -v R >/dev/null; then
  BERTONNX_TEST_PYTHON="$PWD/$python" sh r/check.sh
elif [ -n "${REQUIRE_R:-}" ]; then
  echo "R is not installed, and REQUIRE_R is set" >&2
  exit 1
else
  echo "R is not installed, so the R package was not tested; on Debian: see .ci/run" >&2
fi
