"""Convert a trace of any form of ``sims.world.churn.trace_formats`` to node,on_s,off_s.

python3 -m sims.world.churn.convert oversim.trace sessions.csv
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from overlay.errors import ConfigurationError
from sims.world.churn.trace import read_trace

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Convert the first file into the second; return the exit status."""
    if len(argv) != 2:
        sys.stderr.write("usage: python3 -m sims.world.churn.convert TRACE SESSIONS.csv\n")
        return 2
    source, target = map(Path, argv)
    try:
        trace = read_trace(source)
        if target.exists():
            raise ConfigurationError(f"{target} exists; name a new file.")  # noqa: TRY301 - told below
        with target.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("node", "on_s", "off_s"))
            for number, sessions in enumerate(trace.sessions, start=1):
                rows.writerows((f"node-{number}", on, off) for on, off in sessions)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{target} cannot be written ({error.strerror}); name another file.\n")
        return 1
    count = sum(map(len, trace.sessions))
    sys.stdout.write(f"{target}: {count} sessions of {len(trace.sessions)} nodes.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
