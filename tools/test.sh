#!/bin/sh
# All checks and all tests, in virtual environments of their own: tools/sections.py lists them, and runs several at a
# time. Arguments go to pytest, and choose tests of the first environment alone: --cov says what the tests reach,
# which takes half as long again.
set -eu
cd "$(dirname "$0")/.."
# Images of containers often set it. Each of some hundred processes would then compile torch and transformers anew.
unset PYTHONDONTWRITEBYTECODE
exec "${PYTHON:-python3}" tools/sections.py "$@"
