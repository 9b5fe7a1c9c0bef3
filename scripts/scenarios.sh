#!/usr/bin/env bash
# Every shipped scenario in full, then docs/scenarios.md of what came of them. What is in
# build/scenarios already and ran to its end is not run again (make clean forgets it); arguments go to each run.
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
    # 1 is a promise that did not hold; whoever interrupts one run wants no other.
    [ "$status" -le 1 ] || exit "$status"
done
.venv/bin/python -m sims.results.markdown "${directories[@]}" >"$into/scenarios.md"
mv "$into/scenarios.md" docs/scenarios.md
exit "$status"
