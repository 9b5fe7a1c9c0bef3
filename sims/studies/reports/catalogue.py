"""Write the list of all metrics as a page, docs/metrics.md.

python3 -m sims.studies.reports.catalogue > docs/metrics.md
"""

from __future__ import annotations

import sys
from typing import Final

from sims.metrics import GROUPS, METRICS

__all__ = ["metrics_page"]

_KINDS: Final = {
    "yes-no": "each event has the value yes or no, so the mean is a fraction",
    "distribution": "each event has a value",
    "series": "the state of the overlay, which is sampled at intervals",
}


def metrics_page() -> str:
    """Return the page: metrics by chapter, with unit, kind and meaning."""
    lines = [
        "# What a simulation measures",
        "",
        "Expectations, `observations.csv` and `summary.json` use these names. The command",
        "`python3 -m sims.studies.reports.catalogue` writes this page. The kinds of metrics are:",
        "",
        *(f"- *{kind}*: {words}." for kind, words in _KINDS.items()),
        "",
        "An expectation can only name metrics that its scenario measures. A scenario measures",
        "paths if it has clients (`--clients`). It measures recovery if it has a disturbance",
        "(`--arrival`), and metrics of the adversary if it has an adversary.",
        "",
        "A share is a number from 0 to 1. A node is on line during its sessions, and departed",
        "after them.",
    ]
    for group in GROUPS:
        metrics = [metric for metric in METRICS.values() if metric.group == group]
        if metrics:
            lines += [
                "",
                f"## {group}",
                "",
                "| name | unit | kind | meaning |",
                "|---|---|---|---|",
            ]
            lines += [
                f"| `{m.name}` | {m.unit or ('share' if m.highest == 1 else 'count')} | {m.kind} "
                f"| {m.meaning} |"
                for m in metrics
            ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(metrics_page())
