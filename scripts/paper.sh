#!/usr/bin/env bash
# Options go to lab.paper: --replot, --resume, --minutes N, --quick --output DIRECTORY.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh everything
exec .venv/bin/python -m lab.paper "$@"
