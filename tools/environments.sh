#!/bin/sh
# Tests against libraries that need an environment of their own, as they are large or want other versions.
#
#   sh tools/environments.sh [NAME ...]
#
# A folder in tests/environments is such an environment: what it installs is in requirements.txt, and its tests
# run there alone. Elsewhere they are skipped, and say so. Models of those that cannot export are exported by .venv;
# where BERTONNX_TINY names a folder that `python -m tests.exported` filled, they are there already.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
export OMP_NUM_THREADS=1
if [ -x "$venv/bin/python" ]; then
  BERTONNX_EXPORTER="$PWD/$venv/bin/python"
  export BERTONNX_EXPORTER
fi
if [ $# -eq 0 ]; then
  set -- tests/environments/*/requirements.txt
fi
for given in "$@"; do
  name=$given
  case $given in
    */requirements.txt) name=$(basename "$(dirname "$given")") ;;
  esac
  sh tools/install.sh "$name"
  echo "environment $name"
  "$venv-$name/bin/python" -m pytest "tests/environments/$name"
done
