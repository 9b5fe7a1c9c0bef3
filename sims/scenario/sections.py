"""Declare the tables of a scenario: each setting with its default, kind and meaning.

A section that a program builds is checked like one from a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from overlay.errors import ConfigurationError
from overlay.hop_limit import MAX_HOPS
from overlay.plugins import load_plugin, plugin_names
from overlay.settings import Settings, number, one_of, seconds, setting, some_of, whole
from overlay.settings.shown import sentence
from sims.scenario.values import LABEL, LINE, TEXT, optional

__all__ = [
    "ARRIVALS",
    "ATTACKS",
    "BEHAVIOURS",
    "LATENCIES",
    "Adversary",
    "Arrival",
    "Churn",
    "Circuits",
    "LatencySection",
    "ScenarioSettings",
]

ARRIVALS: Final = (
    "equilibrium",
    "mass-join",
    "mass-failure",
    "flash-crowd",
    "partition",
    "bootstrap-dies",
)

ATTACKS: Final = "sims.attacks"
"""The entry-point group of attacks. Their interface is ``sims.world.adversary.attack``."""

BEHAVIOURS: Final = tuple(plugin_names(ATTACKS))
"""The names of all installed attacks."""

LATENCIES: Final = ("constant", "uniform", "geographic")

_DAY_S: Final = 86_400.0


class ScenarioSettings(Settings):
    """Base of the tables of a scenario: a mistake is told with the heading of the table.

    Raises:
        ConfigurationError: a value is not permitted, or two contradict each other.
    """

    __slots__ = ()
    heading: ClassVar[str] = ""

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except ValueError as error:
            raise ConfigurationError(f"{self.heading}{sentence(error)}") from error


@dataclass(frozen=True, slots=True)
class Churn(ScenarioSettings):
    """[churn]: how long nodes are on line and off line."""

    heading: ClassVar[str] = "[churn] "

    model: str = setting(
        "kad2007",
        LINE,
        'Session model: a preset such as "kad2007", or distributions of sessions and absences such '
        'as "weibull(170min, 0.6) / exponential(5h)", or "trace(FILE)". A relative FILE starts at '
        "the directory of the scenario file.",
    )


_SHARES: Final = {"mass-join": 0.5, "mass-failure": 0.3, "flash-crowd": 1.0, "partition": 0.5}
_LASTS_S: Final = {"mass-join": 60.0, "flash-crowd": 60.0, "partition": 600.0}


@dataclass(frozen=True, slots=True)
class Arrival(ScenarioSettings):
    """[arrival]: an event that affects many nodes at once.

    Every run starts in equilibrium: nodes on line have ages as after a long time of churn.
    ``mass-join`` keeps ``share`` of the nodes off line and lets them start within ``lasts_s``.
    ``mass-failure`` stops ``share`` of the nodes on line for good, without a message.
    ``flash-crowd`` adds ``share`` x nodes new nodes within ``lasts_s``, which look up one key.
    ``partition`` separates ``share`` of the nodes from the others for ``lasts_s``.
    ``bootstrap-dies`` stops the node through which all others join, for good.
    """

    heading: ClassVar[str] = "[arrival] "

    kind: str = setting("equilibrium", one_of(*ARRIVALS), "Event that affects many nodes at once.")
    at_s: float = setting(
        600.0, seconds(0, 30 * _DAY_S), "Simulated time of the event, after the warm-up."
    )
    share: float | None = setting(
        None,
        optional(number(0.001, 10), "depends on kind"),
        "Fraction of the nodes that the event affects; above 1 only for a flash crowd.",
    )
    lasts_s: float | None = setting(
        None,
        optional(seconds(0, 30 * _DAY_S), "depends on kind"),
        "Duration of the joins, or of the partition.",
    )

    def check(self) -> None:
        """Check settings that depend on each other."""
        for name, defaults in (("share", _SHARES), ("lasts_s", _LASTS_S)):
            self._fill(name, defaults)
        if self.share is not None and self.share >= 1 and self.kind in ("partition",):
            raise ValueError(
                f"share = {self.share:g} leaves no node on the other side of the "
                "partition; write a share below 1"
            )
        if self.share is not None and self.share > 1 and self.kind != "flash-crowd":
            raise ValueError(f"share = {self.share:g} is more than all nodes; write at most 1")

    def _fill(self, name: str, defaults: Mapping[str, float]) -> None:
        value = getattr(self, name)
        if value is None:
            object.__setattr__(self, name, defaults.get(self.kind))
        elif self.kind not in defaults:
            raise ValueError(
                f"{name} has no meaning for {self.kind!r}; leave it out, or choose one "
                f"of {', '.join(defaults)}"
            )


@dataclass(frozen=True, slots=True)
class LatencySection(ScenarioSettings):
    """[latency]: one-way delay and loss of datagrams."""

    heading: ClassVar[str] = "[latency] "

    model: str = setting(
        "uniform",
        one_of(*LATENCIES),
        "Distribution of delays: constant (low_s), uniform (low_s to high_s), or geographic "
        "(regions and a matrix).",
    )
    low_s: float = setting(
        0.025, seconds(0, 10), "Shortest one-way delay; every delay if constant."
    )
    high_s: float = setting(0.075, seconds(0, 10), "Longest one-way delay, if uniform.")
    matrix: str = setting(
        "",
        TEXT,
        "File of the matrix of one-way delays between regions, if geographic. The empty text "
        "stands for the shipped file. A relative path starts at the directory of the scenario.",
    )
    loss: float = setting(0.0, number(0, 0.99), "Fraction of datagrams that are lost.")

    def check(self) -> None:
        """Check settings that depend on each other."""
        if self.model == "uniform" and self.low_s > self.high_s:
            raise ValueError(f"low_s = {self.low_s:g} exceeds high_s = {self.high_s:g}; swap them")
        if self.matrix and self.model != "geographic":
            raise ValueError(
                f"matrix is set, but the model {self.model!r} reads none; "
                'write model = "geographic" or leave the matrix out'
            )


@dataclass(frozen=True, slots=True)
class Adversary(ScenarioSettings):
    """[adversary]: the number of malicious nodes, and what they do.

    A behaviour is the name of an attack (``sims.world.adversary.attack``). Those of this package:
    ``drop`` does not answer requests (with ``drop_probability``). ``lie`` names nodes of the
    adversary as the nearest ones. ``forge`` returns forged records, ``replay`` old records.
    ``eclipse`` places ``eclipse_ids`` identities near one key. ``sybil`` creates ``sybils``
    identities in one /24. ``deny-circuits`` breaks every circuit unless the adversary has both
    its first and its last hop.
    """

    heading: ClassVar[str] = "[adversary] "

    share: float = setting(0.0, number(0, 0.9), "Fraction of the nodes that are malicious.")
    behaviours: tuple[str, ...] = setting((), some_of(*BEHAVIOURS), "What malicious nodes do.")
    drop_probability: float = setting(
        1.0, number(0, 1), "Probability that a request is dropped, for drop."
    )
    eclipse_ids: int = setting(20, whole(1, 10_000), "Identities near the key, for eclipse.")
    sybils: int = setting(256, whole(1, 100_000), "Identities in one /24, for sybil.")

    def check(self) -> None:
        """Check settings that depend on each other."""
        if self.share > 0 and not self.behaviours:
            raise ValueError(
                f"share = {self.share:g} but no behaviour is named; write "
                'behaviours = ["drop"], or another of ' + ", ".join(BEHAVIOURS)
            )
        if self.share == 0 and any(_needs_share(name) for name in self.behaviours):
            raise ValueError(
                f"behaviours = {list(self.behaviours)} but no node is malicious; "
                "write share = 0.2, or leave the behaviours out"
            )

    @property
    def is_there(self) -> bool:
        """Whether there are malicious nodes or additional malicious identities."""
        return bool(self.share or self.behaviours)


def _needs_share(attack: str) -> bool:
    """Tell whether an attack needs malicious nodes in the population."""
    needs_share: bool = load_plugin(ATTACKS, attack).needs_share
    return needs_share


@dataclass(frozen=True, slots=True)
class Circuits(ScenarioSettings):
    """[circuits]: clients that keep an anonymous path each."""

    heading: ClassVar[str] = "[circuits] "

    clients: int = setting(
        0, whole(0, 1_000_000), "Nodes that keep a path open. They are always on-line."
    )
    hops: int = setting(3, whole(1, MAX_HOPS), "Number of Mix-nodes of a path.")
    strategy: str = setting("uniform", LABEL, "Name of the path selection strategy.")
    lifetime_s: float = setting(
        600.0,
        seconds(1, 30 * _DAY_S),
        "Time for which a client uses a circuit before it opens a new one.",
    )
