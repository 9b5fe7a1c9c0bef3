#!/usr/bin/env bash
# Everything that must hold before a change is taken. Each check runs, even if another one failed.
#
# Most tests of a laboratory wait, and use little of a processor. So four parts run side by side,
# and the priority of each one keeps it from delaying those above it:
#
#   kernel laboratory   nice 0    tests/lab, marked "kernel": one processor, most of the time
#   timed laboratory    nice 0    tests/lab, marked "timed": their tests measure times
#   laboratory          nice 5    the others of tests/lab
#   checks              nice 10   lint, types, then all tests outside tests/lab
#
# The output of the checks is shown as it comes. The output of the laboratories follows, whole
# (docs/decisions/0056-tests-run-side-by-side.md).
set -euo pipefail
set -m # each part is a process group of its own, so that it can be ended as a whole
cd "$(dirname "$0")/.."
scripts/setup.sh for-tests

outputs="$(mktemp -d)"
failed=()
names=()
parts=()

# Whatever ends this script ends the parts. The process namespace of a laboratory ends with its
# first process, and takes along what runs in it.
# shellcheck disable=SC2329 # called by the trap
end_parts() {
    for part in "${parts[@]}"; do
        kill -KILL -- "-$part" 2>/dev/null || true
    done
    rm -rf "$outputs"
}
trap end_parts EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

pytest=(.venv/bin/python -m pytest --durations=10 --durations-min=2)

# A laboratory gets namespaces of its own, also as an ordinary user. It has no cache directory,
# because several processes would write to the same one.
begin_laboratory() { # NAME NICENESS MARKS
    nice -n "$2" .venv/bin/python -m lab.namespaces "${pytest[@]}" -p no:cacheprovider \
        -m "$3" tests/lab >"$outputs/$1" 2>&1 </dev/null &
    names+=("$1")
    parts+=("$!")
}

# A trap waits for a command in the foreground, but not for `wait`.
check() { # NAME COMMAND...
    local name="$1"
    shift
    nice -n 10 "$@" </dev/null &
    parts+=("$!")
    wait "$!" || failed+=("$name")
}

begin_laboratory "kernel laboratory" 0 "kernel"
begin_laboratory "timed laboratory" 0 "timed and not kernel"
begin_laboratory "laboratory" 5 "not timed and not kernel"

check lint scripts/lint.sh
check types scripts/types.sh
[ "${#failed[@]}" = 0 ] || echo "test: failed so far: ${failed[*]}" >&2
check pytest "${pytest[@]}" -q -n auto --dist worksteal --ignore tests/lab

for ((each = ${#names[@]} - 1; each >= 0; each--)); do
    echo "test: waiting for the tests of the ${names[each]}" >&2
    wait "${parts[each]}" || failed+=("${names[each]}")
    cat "$outputs/${names[each]}"
done

[ "${#failed[@]}" = 0 ] || echo "test: failed: ${failed[*]}" >&2
[ "${#failed[@]}" = 0 ]
