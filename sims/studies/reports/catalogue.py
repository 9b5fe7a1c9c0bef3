"""Write the list of all metrics as a page, docs/metrics.md.

python3 -m sims.studies.reports.catalogue > docs/metrics.md
"""

from __future__ import annotations

import sys
from typing import Final

from sims.metrics import GROUPS, METRICS

__all__ = ["metrics_page"]

_KINDS: Final = {
    "yes-no": "yes or no for each event; the mean is a fraction",
    "distribution": "a value for each event",
    "series": "the state of the overlay, sampled at intervals",
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
        "An expectation may only name metrics that its scenario measures. Metrics of paths need",
        "`--clients`, those of recovery need `--arrival`, and those of the adversary need one.",
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
