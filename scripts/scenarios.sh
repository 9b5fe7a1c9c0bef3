#!/usr/bin/env bash
# Runs every shipped scenario in full and writes docs/results/scenarios.md. A scenario with complete results in
# build/scenarios is not run again (make clean removes them). Arguments are passed to each run.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh python
into=build/scenarios
directories=()
status=0
for file in sims/scenarios/*.toml; do
    name="$(basename "$file" .toml)"
    directory="$into/$name"
    directories+=("$directory")
    grep -qs '"complete": true' "$directory/summary.json" && continue
    rm -rf "$directory"
    echo "$name" >&2
    .venv/bin/overlay sim churn "$name" --out "$directory" "$@" || status=$?
    # Status 1: an expectation did not hold. Anything else, such as an interrupt, ends the loop.
    [ "$status" -le 1 ] || exit "$status"
done
.venv/bin/python -m sims.studies.reports.markdown "${directories[@]}" >"$into/scenarios.md"
mv "$into/scenarios.md" docs/results/scenarios.md
exit "$status"
