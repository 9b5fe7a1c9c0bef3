"""Decide when each node is on line, by one script for real and simulated nodes.

The bootstrap node, the exits and the clients stay on-line. Relays come and go, with exponential
sessions and absences. A relay leaves without a message, as after a crash. The last node is the
prober, which publishes nothing and looks up records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from overlay.addresses import Endpoint
from overlay.dht.settings import DhtSettings
from overlay.settings import Settings, declared, seconds, setting

__all__ = [
    "FAST",
    "FULL",
    "NETWORK_ID",
    "PORT",
    "ChurnScript",
    "ScriptTiming",
    "Switch",
    "endpoint_of",
]

NETWORK_ID: Final = "laboratory"
PORT: Final = 4500
HOPS: Final = 3
_EXITS: Final = 3
_CLIENTS: Final = 5
_NODES: Final = 30
_LEAST_SESSION_S: Final = 5.0
"""In seconds. The start of a process takes about one second of this time."""


def _of_dht(name: str, default: float) -> Any:  # noqa: ANN401 - the kind decides
    """Declare a setting of the DHT with a default for this laboratory."""
    known = declared(DhtSettings)[name]
    return setting(default, known.kind, known.meaning)


@dataclass(frozen=True, slots=True)
class ScriptTiming(Settings):
    """Durations of the parts of the script. The defaults are those of the full run."""

    warm_up_s: float = setting(120.0, seconds(0, 3600), "Time before the measurement begins.")
    duration_s: float = setting(1200.0, seconds(1, 86_400), "Time of the measurement.")
    mean_session_s: float = setting(300.0, seconds(1, 86_400), "Mean session of a relay.")
    mean_absence_s: float = setting(120.0, seconds(1, 86_400), "Mean absence of a relay.")
    path_pause_s: float = setting(
        5.0, seconds(0.01, 3600), "Pause of a client between two paths that it opens."
    )
    probe_interval_s: float = setting(1.0, seconds(0.01, 3600), "Interval of the prober's lookups.")
    settled_s: float = setting(
        5.0, seconds(0, 3600), "Time on-line after which a node counts as settled."
    )
    crawl_interval_s: float = _of_dht("crawl_interval_s", 60.0)
    republish_interval_s: float = _of_dht("republish_interval_s", 120.0)
    refresh_interval_s: float = _of_dht("refresh_interval_s", 300.0)
    liveness_interval_s: float = _of_dht("liveness_interval_s", 30.0)

    @property
    def end_s(self) -> float:
        """The end of the script, in seconds after its beginning."""
        return self.warm_up_s + self.duration_s

    def dht_settings(self) -> DhtSettings:
        """Return the settings of every node's DHT."""
        return DhtSettings(
            allow_private_endpoints=True,
            k=8,
            alpha=4,
            disjoint_paths=2,
            crawl_first_interval_s=2.0,
            crawl_interval_s=self.crawl_interval_s,
            republish_interval_s=self.republish_interval_s,
            refresh_interval_s=self.refresh_interval_s,
            liveness_interval_s=self.liveness_interval_s,
        )


FAST: Final = ScriptTiming(
    warm_up_s=30.0,
    duration_s=110.0,
    mean_session_s=45.0,
    mean_absence_s=20.0,
    path_pause_s=1.0,
    probe_interval_s=0.5,
    crawl_interval_s=30.0,
    republish_interval_s=30.0,
    refresh_interval_s=60.0,
    liveness_interval_s=10.0,
)
"""Shorter intervals, for a run of less than two and a half minutes."""

FULL: Final = ScriptTiming()
"""A run of 22 minutes, whose results are published."""


@dataclass(frozen=True, slots=True)
class Switch:
    """A relay that starts or ends, ``time_s`` seconds after the beginning of the script."""

    time_s: float
    node: int
    online: bool


@dataclass(frozen=True, slots=True)
class ChurnScript:
    """All switches of a run; equal seeds and timings give equal scripts."""

    seed: int
    timing: ScriptTiming
    nodes: int = _NODES
    switches: tuple[Switch, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        rng = Random(f"churn script {self.seed}")
        switches = [one for node in self.relays for one in self._life(node, rng)]
        object.__setattr__(self, "switches", tuple(sorted(switches, key=lambda s: s.time_s)))

    bootstrap = 0

    @property
    def exits(self) -> range:
        """The numbers of the exits."""
        return range(1, 1 + _EXITS)

    @property
    def clients(self) -> range:
        """The numbers of the nodes that open paths."""
        return range(1 + _EXITS, 1 + _EXITS + _CLIENTS)

    @property
    def relays(self) -> range:
        """The numbers of the nodes that come and go."""
        return range(1 + _EXITS + _CLIENTS, self.nodes)

    @property
    def prober(self) -> int:
        """The number of the node that looks up records."""
        return self.nodes

    def settled(self, time_s: float) -> list[int]:
        """Return the nodes that have been on-line for ``settled_s`` at this time."""
        since = dict.fromkeys(range(1 + _EXITS + _CLIENTS), 0.0)
        for switch in self.switches:
            if switch.time_s > time_s:
                break
            if switch.online:
                since[switch.node] = switch.time_s
            else:
                since.pop(switch.node, None)
        settled_s = self.timing.settled_s
        return sorted(node for node, began in since.items() if time_s - began >= settled_s)

    def _life(self, node: int, rng: Random) -> list[Switch]:
        timing = self.timing
        share = timing.mean_session_s / (timing.mean_session_s + timing.mean_absence_s)
        online = rng.random() < share
        # They start one after another, because thirty processes on a few cores do so too.
        now, life = 2.0 + 0.25 * (node - self.relays.start), []
        if not online:
            now += rng.expovariate(1 / timing.mean_absence_s)
        online = True
        while now < timing.end_s:
            life.append(Switch(round(now, 3), node, online))
            mean = timing.mean_session_s if online else timing.mean_absence_s
            now += max(_LEAST_SESSION_S if online else 1.0, rng.expovariate(1 / mean))
            online = not online
        return life


def endpoint_of(node: int) -> Endpoint:
    """Return the endpoint of a real and simulated node; each node has its own /16."""
    return Endpoint(f"10.{node + 1}.0.2", PORT)
