#!/usr/bin/env bash
# Writes the tables that documents take from the code: settings and metrics.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh python
.venv/bin/python -m overlay.config.catalogue docs/configuration.md
.venv/bin/python -m sims.scenario.catalogue docs/simulation-guide.md
.venv/bin/python -m sims.acceptance.experiments.catalogue docs/acceptance.md
.venv/bin/python -m sims.studies.reports.catalogue > docs/metrics.md
