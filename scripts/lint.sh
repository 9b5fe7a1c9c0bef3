#!/usr/bin/env bash
# Rules, format, import contracts and sizes; all are run, whichever fails.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh python

failed=0
.venv/bin/ruff check . || failed=1
.venv/bin/ruff format --check . || failed=1
.venv/bin/lint-imports || failed=1
.venv/bin/python scripts/sizes.py || failed=1
exit "$failed"
