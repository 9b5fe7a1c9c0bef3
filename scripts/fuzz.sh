#!/usr/bin/env bash
# Grow the corpus of the fuzz targets; FUZZ_SECONDS is the time for each target.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh python
.venv/bin/python -c 'import atheris' 2>/dev/null ||
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
export PYTHONPATH=.
exec .venv/bin/python tests/fuzz/grow.py --seconds "${FUZZ_SECONDS:-60}" "$@"
