"""Run every benchmark, print one table, write one JSON file.

    python benchmarks/run.py [--json]       the table, or with --json the JSON, on stdout

Each benchmark is a separate script, which prints one JSON object with ``--json``. It contains
numbers under names with their unit, and may be nested. A list of objects is a table. The results,
with a description of the machine, are written to ``build/bench.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeGuard

HERE = Path(__file__).parent
BENCHMARKS = ("datapath", "circuit_setup", "circuit_traffic", "garbage", "kernel", "simulator")
RESULT = HERE.parent / "build" / "bench.json"


def measured_on() -> dict[str, str]:
    """Return a description of the machine and of the versions."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cryptography": version("cryptography"),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def run(name: str) -> dict[str, Any]:
    """Run one benchmark in a separate process and return its results."""
    print(f"bench: {name} ...", file=sys.stderr)
    command = [sys.executable, str(HERE / f"{name}.py"), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: {name} failed with status {done.returncode}; its message is above.")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def show(value: object) -> str:
    """Return a number with four significant digits, and other values unchanged, as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def figures(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield ``(dotted name, figure)``; a list of objects is one figure, a table."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from figures(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def is_table(value: object) -> TypeGuard[list[Mapping[str, object]]]:
    """Tell whether a result is a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(r, Mapping) for r in value)


def print_columns(rows: list[list[str]]) -> None:
    """Print rows in columns, with numbers aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  " + "  ".join(cells).rstrip())


def print_result(title: str, result: Mapping[str, Any]) -> None:
    """Print one benchmark: single figures first, then its tables."""
    print(f"\n{title}")
    found = list(figures(result))
    single = [[name, show(value)] for name, value in found if not is_table(value)]
    if single:
        print_columns(single)
    for name, value in found:
        if not is_table(value):
            continue
        columns = list(dict.fromkeys(key for row in value for key in row))
        print(f"\n  {name}")
        print_columns([columns, *([show(row.get(c, "")) for c in columns] for row in value)])


def main() -> None:
    """Run all benchmarks, then print the results."""
    parser = argparse.ArgumentParser(description="Run every benchmark.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"measured_on": measured_on()}
    report |= {name: run(name) for name in BENCHMARKS}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    for title, result in report.items():
        print_result(title, result)
    print(f"\nwritten to {RESULT}")


if __name__ == "__main__":
    main()
