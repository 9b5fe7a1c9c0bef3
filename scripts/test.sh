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
# The output of the checks is shown as it comes. The output of the laboratories follows, whole.
# Tests that failed run once more, when all parts have ended and the machine is quiet. Those that
# pass then are named at the end; those that fail again are failures
# (docs/decisions/0056-tests-run-side-by-side.md).
set -euo pipefail
set -m # each part is a process group of its own, so that it can be ended as a whole
cd "$(dirname "$0")/.."
scripts/setup.sh for-tests

outputs="$(mktemp -d)"
failed=()
names=()
again=()    # parts whose failed tests run once more
unsteady=() # tests that passed then
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

# Each part has a cache directory of its own, in which pytest lists the tests that failed.
tests_of() { # PART PYTEST-ARGUMENTS...
    local part="$1" python=(.venv/bin/python)
    shift
    # A laboratory gets namespaces of its own, also as an ordinary user.
    [ "$part" = checks ] || python+=(-m lab.namespaces .venv/bin/python)
    "${python[@]}" -m pytest --durations=10 --durations-min=2 \
        -o "cache_dir=$outputs/cache of $part" "$@" </dev/null
}

begin_laboratory() { # NAME NICENESS MARKS
    (renice -n "$2" "$BASHPID" >/dev/null && tests_of "$1" -m "$3" tests/lab) \
        >"$outputs/$1" 2>&1 &
    names+=("$1")
    parts+=("$!")
}

# Beside other parts a test may miss the processor time that it needs. A fault that more tests than
# these show has another cause.
most_unsteady=5

passes_alone() { # PART
    local list="$outputs/cache of $1/v/cache/lastfailed" tests
    tests="$(grep -o '"tests/.*"' "$list" 2>/dev/null)" || return 1
    [ "$(wc -l <<<"$tests")" -le "$most_unsteady" ] || return 1
    echo "test: running alone what failed beside other parts: $tests" >&2
    tests_of "$1" --last-failed --last-failed-no-failures none tests &
    parts+=("$!")
    wait "$!" && unsteady+=("$tests")
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
(renice -n 10 "$BASHPID" >/dev/null && tests_of checks -q -n auto --dist worksteal --ignore tests/lab) &
parts+=("$!")
wait "$!" || again+=(checks)

for ((each = ${#names[@]} - 1; each >= 0; each--)); do
    echo "test: waiting for the tests of the ${names[each]}" >&2
    wait "${parts[each]}" || again+=("${names[each]}")
    cat "$outputs/${names[each]}"
done

for part in "${again[@]}"; do
    passes_alone "$part" || failed+=("$part")
done
[ "${#unsteady[@]}" = 0 ] || echo "test: failed beside other parts, passed alone: ${unsteady[*]}" >&2

[ "${#failed[@]}" = 0 ] || echo "test: failed: ${failed[*]}" >&2
[ "${#failed[@]}" = 0 ]
