"""E9: known defects of the kademlia package stay absent, and an idle overlay sends nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from overlay.dht.publishing import FIRST_REPUBLISH_S
from overlay.dht.schedule import JITTER
from overlay.dht.settings import DhtSettings
from overlay.settings import Settings, setting, whole
from sims.acceptance.experiment import Experiment, Measurement, Progress
from sims.acceptance.experiment_result import CheckedValue, exactly
from sims.acceptance.experiments.worlds import JOIN_SPACING_S, new_world, pass_time
from sims.world.participants.world import World

__all__ = ["E9"]

_ROOT: Final = Path(__file__).resolve().parents[3]
_TESTS: Final = "tests/unit/dht/test_kademlia_defects*.py"
_ROWS: Final = 30
_PATIENCE_S: Final = 900
_CALM_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Idle(Settings):
    """E9: ``nodes`` that each published a record and then have nothing to do for a while."""

    nodes: int = setting(
        2000,
        whole(2, 3000),
        "Number of idle nodes. With more, joins overlap with other periodic work.",
    )
    k: int = setting(20, whole(1, 64), "Contacts in a bucket.")


def _measure(settings: Idle, seeds: int, progress: Progress) -> Measurement:
    points, note = _regressions(progress)
    for seed in range(1 if settings.nodes > 500 else seeds):
        progress(f"E9: {settings.nodes} idle nodes, seed {seed + 1}")
        sent, seconds = _idle_traffic(settings, seed)
        points.append(exactly("messages a second when idle", seed, sent / seconds, 0.0))
    return Measurement(points, note)


def _idle_traffic(settings: Idle, seed: int) -> tuple[int, float]:
    """Return the datagrams of an interval in which no task is due, and its length in seconds.

    Nodes store their records again after 1, 3, 7 and 15 minutes, with 20 % of jitter. Refreshes
    are hourly. So no task is due between the last node's third and the first node's fourth
    store. If a datagram is sent there, a minute after the last task, traffic causes itself.
    """
    world = new_world(seed, DhtSettings(k=settings.k))
    world.bootstrap = (world.add().endpoint,)
    world.start(world.machines[0])
    spacing = min(JOIN_SPACING_S, 40.0 / settings.nodes)
    for _ in range(settings.nodes - 1):
        world.start(world.add())
        pass_time(world, spacing)
    joined_s = world.time_s
    # The interval begins after all nodes have joined; then pauses are 1, 2, 4 and 8 minutes.
    begins = joined_s + _JOIN_S + 7 * FIRST_REPUBLISH_S * (1 + JITTER) + _CALM_S
    ends = 15 * FIRST_REPUBLISH_S * (1 - JITTER)
    if begins >= ends:
        raise ValueError("the nodes joined too slowly for a time without periodic tasks")
    pass_time(world, begins - world.time_s)
    before = world.network.sent
    _check_busy_before(world)
    pass_time(world, ends - begins)
    return world.network.sent - before, ends - begins


_JOIN_S: Final = 10.0


def _check_busy_before(world: World) -> None:
    views = [machine.inspection for machine in world.machines]
    held = sum(view.record_count for view in views if view is not None)
    if held < len(world.machines):
        raise ValueError("no record was stored, so an idle overlay proves nothing")


def _regressions(progress: Progress) -> tuple[list[CheckedValue], str]:
    """Run the tests of every defect, on the classes of the package and on the product's."""
    files = sorted(str(path) for path in _ROOT.glob(_TESTS))
    if not files:
        return [], f"{_TESTS} is not here: the regressions were not run"
    progress("E9: every defect of the package, on its classes and on ours")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *files],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    outcomes = re.findall(r"::test_k(\d+)\S*?_(parent|ours)\S* (\w+)", done.stdout)
    shown = {
        int(row) for row, half, outcome in outcomes if half == "parent" and outcome == "PASSED"
    }
    held = {int(row) for row, half, outcome in outcomes if half == "ours" and outcome == "PASSED"}
    bad = sum(outcome not in ("PASSED", "SKIPPED") for *_, outcome in outcomes)
    points = [
        exactly("defects shown on the package", 0, len(shown), _ROWS),
        exactly("defects absent here", 1, len(held), _ROWS),
        exactly("tests that did not pass", 2, bad, 0),
    ]
    return points, f"{len(outcomes)} tests of the {_ROWS} defects"


E9 = Experiment(
    "E9",
    "Regressions K1 to K30, and silence when idle",
    "every row holds; 0 messages a second 60 s after the last periodic task, exactly",
    "0 shown, 1 absent, 2 failed; or seed",
    "count, or messages a second",
    Idle(),
    Idle(nodes=150),
    _measure,
)
