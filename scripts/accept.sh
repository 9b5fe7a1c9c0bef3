#!/usr/bin/env bash
# The acceptance set in full: hours. Verdicts, tables and figures go to build/acceptance, or
# where --out says; every other argument is one of overlay sim accept.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh python
out=(--out build/acceptance)
for argument in "$@"; do
    if [ "$argument" = "--out" ]; then out=(); fi
done
exec .venv/bin/overlay sim accept --jobs "$(nproc)" "${out[@]}" "$@"
