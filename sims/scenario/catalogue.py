"""Write the tables of the settings of a scenario into a document.

python3 -m sims.scenario.catalogue docs/simulation-guide.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from overlay.settings.describe import table
from overlay.settings.page import write_tables
from sims.scenario.plain import SECTIONS
from sims.scenario.scenario import Scenario

__all__ = ["setting_tables"]


def setting_tables() -> dict[str, str]:
    """Return the settings of a scenario as one table."""
    rows = table(Scenario, without=tuple(SECTIONS)).splitlines()
    for section, settings_type in SECTIONS.items():
        rows += table(settings_type, f"{section}.").splitlines()[2:]
    return {"scenario": "\n".join(rows)}


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]), setting_tables())
