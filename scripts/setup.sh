#!/usr/bin/env bash
# Prepare this checkout: a virtual environment in .venv and the lab's system packages.
#
#   setup.sh python       the virtual environment alone
#   setup.sh everything   and the lab's tools; fails with one sentence for each thing missing
#   setup.sh for-tests    likewise, but what is missing only skips lab tests (unless CI is set)
set -euo pipefail
cd "$(dirname "$0")/.."

what="${1:-everything}"
case "$what" in
python | everything | for-tests) ;;
*)
    echo "setup: say one of python, everything, for-tests, not '$what'." >&2
    exit 2
    ;;
esac

scripts/setup-python.sh
[ "$what" = python ] || scripts/setup-lab.sh || {
    [ "$what" = for-tests ] && [ -z "${CI:-}" ] || exit 1
    echo "setup: going on without; the lab tests that need it are skipped." >&2
}
