#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh everything
exec .venv/bin/python -m lab.demo
