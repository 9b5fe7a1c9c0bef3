"""Measure cells round by round until their intervals are narrow; this runs inside the laboratory.

Each round visits every cell that still needs it once, in a new random order. So other load of the
machine affects all cells equally. A cell needs no more visits if the half-width of its 95 %
interval is small compared with its mean. If the time is over, the campaign ends after a complete
round, so that all cells had the same number of opportunities.
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
from typing import Final, Self

from lab.namespaces import LabError
from lab.paper.cells import CIPHERS, Cell, MeasuredQuantity, cells
from lab.paper.chain import Chain
from lab.paper.circuits import MeasuredCircuit, Overlay, chain_overlay
from lab.paper.estimators import estimate
from lab.paper.observations import ObservationFile, Visit, read_visits
from lab.paper.probes import Probes
from overlay.errors import ConfigurationError
from overlay.settings import (
    FLAG,
    Settings,
    many,
    number,
    read_settings,
    seconds,
    setting,
    some_of,
    whole,
)

__all__ = ["FULL", "OBSERVATIONS", "QUICK", "CampaignSettings", "main"]

OBSERVATIONS: Final = "observations.jsonl"
CONDITIONS: Final = "conditions.json"
_MOST_TUNNELS: Final = 4


@dataclass(frozen=True, slots=True)
class CampaignSettings(Settings):
    """What to measure and how long. The defaults are the paper's cells and those of the AEADs.

    A run with the defaults takes 18 minutes with boot and set-up.
    """

    ciphers: tuple[str, ...] = setting(
        list(CIPHERS), some_of(*CIPHERS), "Ciphers of the circuits that are measured."
    )
    tunnels: tuple[int, ...] = setting(
        [0, 1, 2, 3, 4], many(whole(0, _MOST_TUNNELS)), "Numbers of hops of the circuits."
    )
    sizes: tuple[int, ...] = setting(
        [64, 128, 256, 512, 1024, 2048, 4096],
        many(whole(64, 65_507, "bytes")),
        "Sizes of the packets that are measured.",
    )
    round_trips: int = setting(20, whole(1, 1000), "Round trips that one visit measures.")
    train: int = setting(40, whole(2, 1000), "Packets of the train that one visit sends.")
    interval_s: float = setting(
        0.008,
        seconds(0.0001, 1.0),
        "Interval between the packets of a train. It is longer than the slowest cell's packets "
        "take on the slowest link.",
    )
    least_rounds: int = setting(5, whole(2, 1000), "Visits that each cell gets.")
    most_rounds: int = setting(40, whole(2, 1000), "Visits that a cell gets at most.")
    narrow: float = setting(
        0.02,
        number(0.001, 1.0),
        "Half-width of the interval, as a part of the mean, at which a cell is done.",
    )
    budget_s: float = setting(960.0, seconds(1, 86_400), "How long to measure.")
    real_time: bool = setting(
        True,
        FLAG,
        "Whether the measured kernel gets precedence over everything else on this host.",
    )

    def check(self) -> None:
        """Check that a cell can get as many visits as it needs."""
        if self.least_rounds > self.most_rounds:
            raise ValueError(
                f"least_rounds is {self.least_rounds}, which is more than most_rounds "
                f"({self.most_rounds}); write a smaller number"
            )

    def encode(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Parse what :meth:`encode` returned.

        Raises:
            ValueError: the text is no JSON, or a value is not permitted.
            ConfigurationError: a setting is unknown or has a value that is not permitted.
        """
        return read_settings("campaign", cls, json.loads(text))


FULL: Final = CampaignSettings()

QUICK: Final = CampaignSettings(
    ciphers=("3des-cbc", "chacha20-poly1305"),
    tunnels=(0, 1, 4),
    sizes=(64, 2048),
    round_trips=8,
    train=24,
    least_rounds=2,
    most_rounds=2,
    budget_s=60.0,
    real_time=False,
)
"""Settings for CI, which show that everything works and measure no speeds. They give the kernel no
real-time priority, so that other tests run beside it."""


class Campaign:
    """One run over the cells of a plan; it continues after the visits that are on the disk."""

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
            LabError: a route carries no packets.
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
    """Return the kernel's version, its counted IPsec errors, and the number of circuits."""
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
    """Build the platform, open all circuits, and measure."""
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
    parser.add_argument("plan", help="JSON, as CampaignSettings.encode returns it")
    arguments = parser.parse_args(argv)
    try:
        run(CampaignSettings.decode(arguments.plan), arguments.directory, SystemRandom())
    except (LabError, ConfigurationError) as error:
        print(f"paper: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
