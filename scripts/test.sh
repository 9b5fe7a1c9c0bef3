#!/usr/bin/env bash
# Everything that must hold before a change is taken. Each check is run even if one before it
# failed; the tests come last, so that their summary ends the output.
#
# The tests inside the kernel laboratory keep one processor busy for minutes and nothing else.
# So they run beside all the other checks, and their output follows, whole, when those are done.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh for-tests

failed=()
pytest=(.venv/bin/python -m pytest --durations=10 --durations-min=2)

# A laboratory gets namespaces of its own, also as an ordinary user.
laboratory() { exec .venv/bin/python -m lab.namespaces "${pytest[@]}" -m "$@"; }

kernel_output="$(mktemp)"
laboratory "lab and kernel" -p no:cacheprovider >"$kernel_output" 2>&1 </dev/null &
kernel=$!

# Whatever ends this script ends the other part; its process namespace takes along what is in it.
# shellcheck disable=SC2329 # called by the trap
end_kernel_part() {
    kill -KILL "$kernel" 2>/dev/null || true
    rm -f "$kernel_output"
}
trap end_kernel_part EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# Those checks leave the kernel laboratory its processor, because it takes longest of all.
nice -n 5 scripts/lint.sh || failed+=(lint)
nice -n 5 scripts/types.sh || failed+=(types)
[ "${#failed[@]}" = 0 ] || echo "test: failed so far: ${failed[*]}" >&2
nice -n 5 "${pytest[@]}" -q -n auto -m "not lab" || failed+=(pytest)
(laboratory "lab and not kernel") || failed+=(laboratory)

echo "test: waiting for the tests inside the kernel laboratory" >&2
wait "$kernel" || failed+=("kernel laboratory")
cat "$kernel_output"

[ "${#failed[@]}" = 0 ] || echo "test: failed: ${failed[*]}" >&2
[ "${#failed[@]}" = 0 ]
