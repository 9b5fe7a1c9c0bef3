"""Measures cells round by round until their intervals are narrow; runs inside the laboratory.

Each round visits every cell that still needs it once, in a new random order, so that whatever
else the machine does in these minutes falls on all cells alike. A cell needs no more visits
when the half-width of its 95 % interval is small beside its mean. Time ends it in any case, and
then after whole rounds: no cell has had a chance that another had not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Final, Self

from lab.namespaces import LabError
from lab.paper.cells import CIPHERS, Cell, MeasuredQuantity, cells
from lab.paper.chain import Chain
from lab.paper.circuits import MeasuredCircuit, Overlay, chain_overlay
from lab.paper.estimators import estimate
from lab.paper.observations import ObservationFile, Visit, read_visits
from lab.paper.probes import Probes

__all__ = ["FULL", "OBSERVATIONS", "QUICK", "CampaignSettings", "main"]

OBSERVATIONS: Final = "observations.jsonl"
CONDITIONS: Final = "conditions.json"
_MOST_TUNNELS: Final = 4


@dataclass(frozen=True, slots=True)
class CampaignSettings:
    """What to measure and how long.

    ``narrow`` is the half-width, as a part of the mean, at which a cell is done; ``train`` and
    ``round_trips`` are packets a visit; ``interval_s`` paces a train, above the time that the
    slowest cell's packets take on the slowest link. ``real_time`` gives the kernel that is measured
    precedence over everything else on this host.
    """

    ciphers: tuple[str, ...]
    tunnels: tuple[int, ...]
    sizes: tuple[int, ...]
    round_trips: int
    train: int
    interval_s: float
    least_rounds: int
    most_rounds: int
    narrow: float
    budget_s: float
    real_time: bool

    def encode(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Parse what :meth:`encode` returned."""
        fields: dict[str, Any] = json.loads(text)
        for name in ("ciphers", "tunnels", "sizes"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


FULL: Final = CampaignSettings(
    ciphers=tuple(CIPHERS),
    tunnels=(0, 1, 2, 3, 4),
    sizes=(64, 128, 256, 512, 1024, 2048, 4096),
    round_trips=20,
    train=40,
    interval_s=0.008,
    least_rounds=5,
    most_rounds=40,
    narrow=0.02,
    budget_s=960.0,
    real_time=True,
)
"""The paper's cells and the AEADs'; 18 minutes with boot and set-up."""

QUICK: Final = CampaignSettings(
    ciphers=("3des-cbc", "chacha20-poly1305"),
    tunnels=(0, 1, 4),
    sizes=(64, 2048),
    round_trips=8,
    train=24,
    interval_s=0.008,
    least_rounds=2,
    most_rounds=2,
    narrow=0.02,
    budget_s=60.0,
    real_time=False,
)
"""For CI: whether everything works, not how fast. So it leaves other tests their processors."""


class Campaign:
    """One run over the cells of a plan; goes on after the visits that are on disk already."""

    def __init__(self, plan: CampaignSettings, directory: Path, rng: Random) -> None:
        self._plan = plan
        self._rng = rng
        self._cells = cells(ciphers=plan.ciphers, tunnels=plan.tunnels, sizes=plan.sizes)
        path = directory / OBSERVATIONS
        self._file = ObservationFile(path)
        self._values: dict[Cell, list[float]] = defaultdict(list)
        self._round = 0
        for visit in read_visits(path) if path.exists() else ():
            self._values[visit.cell].append(visit.value_ms)
            self._round = max(self._round, visit.round + 1)

    def run(self, probes: Probes, routes: dict[tuple[int, int], MeasuredCircuit]) -> None:
        """Visit cells, round after round.

        Raises:
            LabError: a route carries nothing.
        """
        deadline = time.monotonic() + self._plan.budget_s
        took = 0.0
        for _ in range(self._plan.most_rounds):
            due = [cell for cell in self._cells if self._needs_visit(cell)]
            if not due or time.monotonic() + took > deadline:
                break
            begun = time.monotonic()
            self._rng.shuffle(due)
            for cell in due:
                self._visit(cell, probes, routes[CIPHERS[cell.cipher].suite, cell.tunnels])
            took = time.monotonic() - begun
            self._report(len(due), took)
            self._round += 1

    def _needs_visit(self, cell: Cell) -> bool:
        values = self._values[cell]
        if len(values) < self._plan.least_rounds:
            return True
        found = estimate(values)
        return found.half_width > self._plan.narrow * found.mean

    def _visit(self, cell: Cell, probes: Probes, route: MeasuredCircuit) -> None:
        if cell.metric == MeasuredQuantity.RTT.value:
            sent = self._plan.round_trips
            values = probes.round_trips(route, cell.size, sent)
        else:
            sent = self._plan.train
            values = probes.train(route, cell.size, sent, self._plan.interval_s)
        if len(values) < 0.9 * sent:
            raise LabError(f"{cell}: {sent - len(values)} of {sent} packets were lost.")
        visit = Visit(cell, self._round, sent, tuple(values))
        self._file.append(visit)
        self._values[cell].append(visit.value_ms)

    def _report(self, visited: int, took: float) -> None:
        widths = [
            found.half_width / found.mean
            for found in map(estimate, self._values.values())
            if found.count > 1
        ]
        shown = f"median half-width {100 * statistics.median(widths):.1f} %" if widths else ""
        print(f"paper: round {self._round + 1}: {visited} cells, {took:.0f} s {shown}", flush=True)


def _conditions(chain: Chain, overlay: Overlay) -> dict[str, object]:
    """What was true at the end: the kernel and the IPsec errors that its nodes counted."""
    errors: dict[str, int] = {}
    for node in chain.nodes:
        for line in node.run(["cat", "/proc/net/xfrm_stat"]).stdout.splitlines():
            name, count = line.split()
            errors[name] = errors.get(name, 0) + int(count)
    kernel = chain.nodes[0].run(["uname", "-rm"]).stdout.strip()
    return {
        "kernel": kernel,
        "xfrm_errors": {name: count for name, count in errors.items() if count},
        "circuits": sum(len(node.opened) for node in overlay.nodes),
    }


def run(plan: CampaignSettings, directory: Path, rng: Random) -> None:
    """Build the platform, open all circuits, measure."""
    suites = [CIPHERS[name].suite for name in plan.ciphers]
    begun = time.monotonic()
    with Chain(groups=len(suites)) as chain, chain_overlay(chain, suites) as overlay:
        overlay.connect()
        routes = overlay.open_all(min(_MOST_TUNNELS, max(plan.tunnels)))
        took = time.monotonic() - begun
        print(f"paper: {len(suites)} ciphers' circuits are up after {took:.0f} s", flush=True)
        with Probes(chain.nodes[0], chain.destination, rng) as probes:
            Campaign(plan, directory, rng).run(probes, routes)
        found = _conditions(chain, overlay)
        (directory / CONDITIONS).write_text(json.dumps(found, indent=1) + "\n")
        if found["xfrm_errors"]:
            raise LabError(f"the kernel counted errors: {found['xfrm_errors']}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run inside the laboratory: ``python3 -m lab.paper.campaign DIRECTORY PLAN``."""
    parser = argparse.ArgumentParser(prog="python3 -m lab.paper.campaign")
    parser.add_argument("directory", type=Path)
    parser.add_argument("plan", help="JSON, as Plan.encode returns it")
    arguments = parser.parse_args(argv)
    try:
        run(CampaignSettings.decode(arguments.plan), arguments.directory, SystemRandom())
    except LabError as error:
        print(f"paper: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
