#!/usr/bin/env bash
# Remove what make has made: environment, caches, results. System packages stay.
set -euo pipefail
cd "$(dirname "$0")/.."
find . -path ./.git -prune -o -path ./.venv -prune -o -name __pycache__ -type d -print0 |
    xargs --null --no-run-if-empty rm -r
rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build ./*.egg-info
