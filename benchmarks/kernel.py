"""Measure circuits with the kernel's IPsec: installation, set-up, and throughput.

The kernel is that of the kernel laboratory (``docs/kernel-laboratory.md``). If it cannot run, the
reason is reported instead. Run::

    python benchmarks/kernel.py [--json]
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # lab is part of the checkout, not of what is installed

from lab.kernel import KernelRun, missing_kernel_requirements, selected_environment  # noqa: E402 - after the path
from lab.namespaces import LabError  # noqa: E402
from lab.paper.priority import first_in_line  # noqa: E402

TIME_LIMIT_S = 600.0


def measure() -> dict[str, object]:
    missing = missing_kernel_requirements()
    if missing:
        return {"skipped": " ".join(missing)}
    run = KernelRun(
        command=[sys.executable, str(Path(__file__).with_name("kernel_inside.py"))],
        environment=selected_environment() | {"PYTHONPATH": str(ROOT)},
        directory=ROOT,
        time_limit_s=TIME_LIMIT_S,
    )
    output = io.BytesIO()
    with first_in_line():
        status = run.run(output, sys.stderr.buffer)
    if status:
        raise LabError(f"it ended with status {status}; its message is above.")
    found: dict[str, object] = json.loads(output.getvalue())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Circuits on the kernel's IPsec.")
    parser.add_argument("--json", action="store_true", help="print JSON on one line")
    arguments = parser.parse_args()
    try:
        found = measure()
    except LabError as error:
        sys.exit(f"kernel: {error}")
    print(json.dumps(found, indent=None if arguments.json else 1))


if __name__ == "__main__":
    main()
