#!/usr/bin/env bash
# Arguments go to the program: --seed, --runs, --out; its status tells whether they agree.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh for-tests
exec .venv/bin/python -m lab.namespaces .venv/bin/python -m lab.churn --full "$@"
