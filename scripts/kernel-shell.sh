#!/usr/bin/env bash
# A prompt inside a kernel with ESP (docs/kernel-laboratory.md), with the demo's hosts up.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh everything
exec .venv/bin/python -m lab.kernel --terminal -- "$PWD/.venv/bin/python" -m lab.kernel_shell
