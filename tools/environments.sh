#!/bin/sh
# Tests against libraries that need an environment of their own, as they are large or want other versions.
#
#   sh tools/environments.sh [NAME ...]
#
# A folder in tests/environments is such an environment: what it installs is in requirements.txt, and its tests
# run there alone. Elsewhere they are skipped, and say so. torch, where one asks for it, comes by its exact version.
# What is in alone.txt comes without what it asks for, where that would be another version of what is tested.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
export OMP_NUM_THREADS=1
# Exports the models of those that cannot export.
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
  [ "$name" = "*" ] && continue
  folder=tests/environments/$name
  [ -f "$folder/requirements.txt" ] || { echo "there is no $folder/requirements.txt" >&2; exit 1; }
  own=$venv-$name
  [ -x "$own/bin/python" ] || "${PYTHON:-python3}" -m venv "$own"
  "$own/bin/python" -m pip install --quiet --upgrade "pip>=25.1"
  "$own/bin/python" -m pip install --quiet --requirement "$folder/requirements.txt"
  if [ -f "$folder/alone.txt" ]; then
    "$own/bin/python" -m pip install --quiet --no-deps --requirement "$folder/alone.txt"
  fi
  echo "environment $name"
  "$own/bin/python" -m pytest "$folder"
done
