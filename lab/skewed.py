"""Run a node with a wrong system time, as if another program had set the clock.

::

    python3 -m lab.skewed FILE COMMAND ...      FILE has the error in seconds, and may change
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from overlay.cli.main import main as overlay_main

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run the command line that follows the name of the file; return its status."""
    file, told = Path(argv[0]), time.time
    time.time = lambda: told() + float(file.read_text() or 0)
    return overlay_main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
