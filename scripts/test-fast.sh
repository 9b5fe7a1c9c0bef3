#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh python
exec .venv/bin/python -m pytest -q -n auto --dist worksteal -m "not slow" --ignore tests/lab
