#!/usr/bin/env bash
# Everything that must hold before a change is taken. Each check is run even if one before it
# failed; the tests come last, so that their summary ends the output.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh for-tests

failed=()
scripts/lint.sh || failed+=(lint)
scripts/types.sh || failed+=(types)
[ "${#failed[@]}" = 0 ] || echo "test: failed so far: ${failed[*]}" >&2
.venv/bin/python -m pytest -q -n auto -m "not lab" || failed+=(pytest)
# The laboratory gets the machine to itself, in namespaces of its own, also as an ordinary user.
.venv/bin/python -m lab.namespaces .venv/bin/python -m pytest -m lab || failed+=(laboratory)
[ "${#failed[@]}" = 0 ] || echo "test: failed: ${failed[*]}" >&2
[ "${#failed[@]}" = 0 ]
