"""Grow the corpus with a coverage-guided fuzzer (atheris), target by target.

``python tests/fuzz/grow.py [--seconds 60] [TARGET ...]`` fuzzes each target from the corpus of
the tree, then adds to it the smallest inputs that reach code which no input of the tree
reaches. A crash is left in ``build/fuzz/<target>/`` and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

FOUND = Path("build/fuzz")
MAX_BYTES = 1400
"""Longer than any datagram; the bounds on longer input have tests of their own."""

LARGEST_ADDED = 4096
"""Bytes that one run adds to a target's corpus at most, so that the tree stays small."""

Arc = tuple[CodeType, int, int]


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target; ends the process, as libFuzzer does."""
    import atheris

    with atheris.instrument_imports(include=["overlay"], enable_loader_override=False):
        from targets import TARGETS
    from seeds import CORPUS

    directory = FOUND / name
    directory.mkdir(parents=True, exist_ok=True)
    atheris.Setup(
        [
            sys.argv[0],
            str(directory),
            str(CORPUS / name),
            f"-max_total_time={seconds}",
            f"-max_len={MAX_BYTES}",
            "-timeout=10",
            f"-artifact_prefix={directory}/crash-",
            "-print_final_stats=1",
        ],
        TARGETS[name],
    )
    atheris.Fuzz()


def arcs(name: str, data: bytes) -> set[Arc]:
    """Return which steps from line to line of our code an input takes."""
    from targets import TARGETS

    taken: set[Arc] = set()

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        code, last = frame.f_code, -1
        if "/overlay/" not in code.co_filename:
            return None

        def step(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            if event == "line":
                taken.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    threading.settrace(enter)
    try:
        TARGETS[name](data)
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]  # typeshed knows no None here
    return taken


def contents(directory: Path) -> list[bytes]:
    """Return the inputs in a directory, smallest first, but no crashes."""
    files = (path for path in directory.glob("*") if not path.name.startswith("crash-"))
    return sorted((path.read_bytes() for path in files), key=lambda data: (len(data), data))


def new_inputs(name: str, known: Iterable[bytes], found: Iterable[bytes]) -> list[bytes]:
    """Return which of the found inputs reach what no known one, nor an earlier one, reaches."""
    seen: set[Arc] = set()
    for data in known:
        seen |= arcs(name, data)
    added: list[bytes] = []
    for data in found:
        fresh = arcs(name, data) - seen
        if fresh and sum(map(len, added)) + len(data) <= LARGEST_ADDED:
            seen |= fresh
            added.append(data)
    return added


def main() -> int:
    """Fuzz, and keep what is new."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--fuzz", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fuzz:  # before our code is imported, or it would not be instrumented
        fuzz(options.fuzz, options.seconds)
    from seeds import CORPUS, write
    from targets import TARGETS

    crashed = False
    for name in options.targets or TARGETS:
        command = [sys.executable, __file__, "--fuzz", name, "--seconds", str(options.seconds)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        crashes = list((FOUND / name).glob("crash-*"))
        crashed |= bool(crashes or ended.returncode)
        if ended.returncode:
            print(ended.stderr[-3000:])
        runs = [line for line in ended.stderr.splitlines() if "number_of_executed_units" in line]
        added = new_inputs(name, contents(CORPUS / name), contents(FOUND / name))
        for data in added:
            write(name, data)
        print(f"{name}: {' '.join(runs)}, {len(added)} inputs added, {len(crashes)} crashes")
        sys.stdout.flush()
    return int(crashed)


if __name__ == "__main__":
    sys.exit(main())
