"""Who runs when: one script that real and simulated nodes play alike.

The cast, by number: the bootstrap node, the exits and the clients stay; relays come and go,
with exponential sessions and absences; the member after them is the prober, which publishes
nothing and asks for records. A relay leaves as a crash would, without a word.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from overlay.addresses import Endpoint
from overlay.dht.settings import DhtSettings

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
"""A process needs about a second to be there at all."""


@dataclass(frozen=True, slots=True)
class ScriptTiming:
    """How long everything takes, in seconds, and what the DHT is told about it."""

    warm_up_s: float
    duration_s: float
    mean_session_s: float
    mean_absence_s: float
    path_pause_s: float
    probe_interval_s: float
    settled_s: float
    dht: dict[str, float]

    @property
    def end_s(self) -> float:
        """When the script is over."""
        return self.warm_up_s + self.duration_s

    def dht_settings(self) -> DhtSettings:
        """Return the settings of every node's DHT."""
        return DhtSettings(allow_private_endpoints=True, **self.dht)  # type: ignore[arg-type]  # ints and floats


_DHT: Final = {"k": 8, "alpha": 4, "disjoint_paths": 2, "crawl_first_interval_s": 2.0}

FAST: Final = ScriptTiming(
    warm_up_s=30.0,
    duration_s=110.0,
    mean_session_s=45.0,
    mean_absence_s=20.0,
    path_pause_s=1.0,
    probe_interval_s=0.5,
    settled_s=5.0,
    dht=_DHT
    | {
        "crawl_interval_s": 30.0,
        "republish_interval_s": 30.0,
        "refresh_interval_s": 60.0,
        "liveness_interval_s": 10.0,
    },
)
"""Everything sped up, for a run of less than two and a half minutes."""

FULL: Final = ScriptTiming(
    warm_up_s=120.0,
    duration_s=1200.0,
    mean_session_s=300.0,
    mean_absence_s=120.0,
    path_pause_s=5.0,
    probe_interval_s=1.0,
    settled_s=5.0,
    dht=_DHT
    | {
        "crawl_interval_s": 60.0,
        "republish_interval_s": 120.0,
        "refresh_interval_s": 300.0,
        "liveness_interval_s": 30.0,
    },
)
"""Twenty minutes that count."""


@dataclass(frozen=True, slots=True)
class Switch:
    """At ``time_s`` a relay starts or is gone."""

    time_s: float
    node: int
    online: bool


@dataclass(frozen=True, slots=True)
class ChurnScript:
    """The whole play; equal for equal seed and timing."""

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
        """The numbers of those who ask for paths."""
        return range(1 + _EXITS, 1 + _EXITS + _CLIENTS)

    @property
    def relays(self) -> range:
        """The numbers of those who come and go."""
        return range(1 + _EXITS + _CLIENTS, self.nodes)

    @property
    def prober(self) -> int:
        """The number of the member that looks records up."""
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
        # The first ones start one after the other, as thirty processes on a few cores do.
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
    """Return where a node is, really and simulated: a /16 of its own (``lab.underlay``)."""
    return Endpoint(f"10.{node + 1}.0.2", PORT)
