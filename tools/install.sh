#!/bin/sh
# Makes environments of the tests: sh tools/install.sh NAME ...
#
# main is .venv, with transformers 4.57 and optimum-cli's exporter, whose folders `run` takes. transformers5 is
# .venv-transformers5, with the newest transformers 5. Any other is .venv-NAME, with requirements.txt of
# tests/environments/NAME; what is in alone.txt there comes without what it asks for, where that would be another
# version of what is tested. VENV stands for .venv where it is set. An environment that was made of the same is
# left as it is: its file made-of-NAME has the checksum.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}

# Python compiles what is imported, which is a fraction of what is installed, and keeps it. The pip of the first
# environment, where it is there, installs into the others too.
unset PYTHONDONTWRITEBYTECODE
add() {
  if [ "$own" != "$venv" ] && [ -e "$venv/made-of-main" ]; then
    "$venv/bin/python" -m pip --python "$own/bin/python" install --quiet --no-compile --no-build-isolation "$@"
  else
    "$own/bin/python" -m pip install --quiet --no-compile --no-build-isolation "$@"
  fi
}

for name in "$@"; do
  folder=tests/environments/$name
  case $name in
    main) own=$venv ;;
    transformers5) own=$venv-$name ;;
    *)
      own=$venv-$name
      [ -f "$folder/requirements.txt" ] || { echo "there is no $folder/requirements.txt" >&2; exit 1; }
      ;;
  esac
  made_of=$({ pwd; cat tools/install.sh pyproject.toml "$folder"/*.txt 2>/dev/null || true; } | cksum)
  if [ -x "$own/bin/python" ] && [ "$(cat "$own/made-of-$name" 2>/dev/null)" = "$made_of" ]; then
    continue
  fi
  if [ "$own" = "$venv" ] || [ ! -e "$venv/made-of-main" ]; then
    [ -x "$own/bin/python" ] || "${PYTHON:-python3}" -m venv "$own"
    add --upgrade "pip>=25.1"
  else
    [ -x "$own/bin/python" ] || "${PYTHON:-python3}" -m venv --without-pip "$own"
  fi
  # It builds this package, and what comes as sources alone.
  add "setuptools>=77"
  # torch by its exact version: a range would bring several gigabytes of CUDA packages along.
  case $name in
    main)
      add torch==2.13.0 --editable ".[cpu,export,arrow,bench]" --group dev "transformers==4.57.*" "optimum-onnx==0.1.*"
      ;;
    transformers5)
      add torch==2.13.0 --editable ".[cpu,export,arrow]" --group dev "transformers>=5" "sentence-transformers>=6.2"
      ;;
    *)
      add --requirement "$folder/requirements.txt"
      if [ -f "$folder/alone.txt" ]; then
        add --no-deps --requirement "$folder/alone.txt"
      fi
      ;;
  esac
  echo "$made_of" >"$own/made-of-$name"
done
