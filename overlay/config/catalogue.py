"""Write the tables of all settings into a document.

python3 -m overlay.config.catalogue docs/configuration.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from overlay.config.render import about_section, all_sections
from overlay.settings.describe import table
from overlay.settings.page import write_tables

__all__ = ["setting_tables"]


def setting_tables() -> dict[str, str]:
    """Return what each section is for, and a table of its settings, by the name of the section."""
    return {
        section: f"{about_section(settings_type)}\n\n{table(settings_type)}"
        for section, settings_type in all_sections()
    }


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]), setting_tables())
