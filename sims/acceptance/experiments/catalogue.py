"""Write the table of the settings of all acceptance experiments into a document.

python3 -m sims.acceptance.experiments.catalogue docs/acceptance.md
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from overlay.settings import declared
from overlay.settings.describe import toml_value
from overlay.settings.page import write_tables
from sims.acceptance.registry import EXPERIMENTS

__all__ = ["setting_tables"]


def setting_tables() -> dict[str, str]:
    """Return the settings of all experiments as one table, in the full and the quick form."""
    rows = ["| setting | full | quick | values | meaning |", "|---|---|---|---|---|"]
    for name, experiment in EXPERIMENTS.items():
        for setting, known in declared(type(experiment.full)).items():
            forms = [_shown(getattr(form, setting)) for form in (experiment.full, experiment.quick)]
            cells = (f"`{name}.{setting}`", *forms, known.kind.wanted, known.meaning)
            rows.append(f"| {' | '.join(cells)} |")
    return {"experiments": "\n".join(rows)}


def _shown(value: Any) -> str:  # noqa: ANN401 - a number, a text or a tuple of them
    items = value if isinstance(value, tuple) else (value,)
    return f"`{','.join(item if isinstance(item, str) else toml_value(item) for item in items)}`"


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]), setting_tables())
