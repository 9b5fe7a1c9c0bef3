"""Declare the tables of a scenario: each setting with its default, range and meaning.

A section that a program builds is checked like one from a file. Every setting passes its parser.
Then rules between two settings are checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

from overlay.errors import ConfigurationError
from overlay.hop_limit import MAX_HOPS
from sims.scenario import values

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "ARRIVALS",
    "BEHAVIOURS",
    "LATENCIES",
    "Adversary",
    "Arrival",
    "Churn",
    "Circuits",
    "LatencySection",
    "check_settings",
    "meaning",
    "setting",
]

ARRIVALS: Final = (
    "equilibrium",
    "mass-join",
    "mass-failure",
    "flash-crowd",
    "partition",
    "bootstrap-dies",
)

BEHAVIOURS: Final = ("drop", "lie", "forge", "replay", "eclipse", "sybil", "deny-circuits")

LATENCIES: Final = ("constant", "uniform", "geographic")

T = TypeVar("T")
_PARSER: Final = "parser"
_MEANING: Final = "meaning"
_DAY_S: Final = 86_400.0


def setting(default: object, parser: Any, meaning: str) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Declare a setting. ``default`` has the form of the file and is parsed like other values."""
    return field(default=default, metadata={_PARSER: parser, _MEANING: meaning})


def meaning(declared: Any) -> str:  # noqa: ANN401 - a dataclasses.Field of any type
    """Return the meaning of a setting."""
    return str(declared.metadata[_MEANING])


def check_settings(section: DataclassInstance, where: str) -> None:
    """Apply the parser of every setting to a frozen section.

    Raises:
        ConfigurationError: a value is not permitted; the message names the setting.
    """
    for declared in fields(section):
        value = getattr(section, declared.name)
        try:
            parsed = declared.metadata[_PARSER](value)
        except ValueError as error:
            raise ConfigurationError(f"{where}{declared.name} {error}.") from error
        object.__setattr__(section, declared.name, parsed)


@dataclass(frozen=True, slots=True)
class Churn:
    """[churn]: how long nodes are on line and off line."""

    model: str = setting(
        "kad2007",
        values.line,
        "Session model as sims.churn reads it: a preset such as kad2007, or distributions of "
        'sessions and absences such as "weibull(170min, 0.6) / exponential(5h)", or '
        '"trace(FILE)", relative to the scenario file.',
    )

    def __post_init__(self) -> None:
        check_settings(self, "[churn] ")


_SHARES: Final = {"mass-join": 0.5, "mass-failure": 0.3, "flash-crowd": 1.0, "partition": 0.5}
_LASTS_S: Final = {"mass-join": 60.0, "flash-crowd": 60.0, "partition": 600.0}


@dataclass(frozen=True, slots=True)
class Arrival:
    """[arrival]: an event that affects many nodes at once.

    Every run starts in equilibrium: nodes on line have ages as after a long time of churn.
    ``mass-join`` keeps ``share`` of the nodes off line and lets them start within ``lasts_s``.
    ``mass-failure`` stops ``share`` of the nodes on line for good, without a message.
    ``flash-crowd`` adds ``share`` x nodes new nodes within ``lasts_s``, which look up one key.
    ``partition`` separates ``share`` of the nodes from the others for ``lasts_s``.
    ``bootstrap-dies`` stops the node through which all others join, for good.
    """

    kind: str = setting("equilibrium", values.one_of(*ARRIVALS), "What happens.")
    at_s: float = setting(
        600.0, values.duration(0, 30 * _DAY_S), "When, in simulated time after the warm-up."
    )
    share: float | None = setting(
        None,
        values.optional(values.number(0.001, 10)),
        "Share of the nodes to which it happens (a flash crowd may exceed 1).",
    )
    lasts_s: float | None = setting(
        None,
        values.optional(values.duration(0, 30 * _DAY_S)),
        "How long it takes (joins) or lasts (partition).",
    )

    def __post_init__(self) -> None:
        check_settings(self, "[arrival] ")
        for name, defaults in (("share", _SHARES), ("lasts_s", _LASTS_S)):
            self._fill(name, defaults)
        if self.share is not None and self.share >= 1 and self.kind in ("partition",):
            raise ConfigurationError(
                f"[arrival] share = {self.share:g} leaves nobody on the other side of the "
                "partition; write a share below 1."
            )
        if self.share is not None and self.share > 1 and self.kind != "flash-crowd":
            raise ConfigurationError(
                f"[arrival] share = {self.share:g} is more than all nodes; write at most 1."
            )

    def _fill(self, name: str, defaults: Mapping[str, float]) -> None:
        value = getattr(self, name)
        if value is None:
            object.__setattr__(self, name, defaults.get(self.kind))
        elif self.kind not in defaults:
            raise ConfigurationError(
                f"[arrival] {name} says nothing about {self.kind!r}; leave it out, or choose one "
                f"of {', '.join(defaults)}."
            )


@dataclass(frozen=True, slots=True)
class LatencySection:
    """[latency]: one-way delay and loss of datagrams."""

    model: str = setting(
        "uniform",
        values.one_of(*LATENCIES),
        "constant (low_s), uniform (low_s to high_s), or geographic (regions and a matrix).",
    )
    low_s: float = setting(
        0.025, values.duration(0, 10), "Shortest one-way delay; the only one if constant."
    )
    high_s: float = setting(0.075, values.duration(0, 10), "Longest one-way delay, if uniform.")
    matrix: str = setting(
        "",
        values.text,
        "File of the matrix of one-way delays between regions, if geographic; empty for the "
        "shipped one. Relative to the scenario file.",
    )
    loss: float = setting(0.0, values.number(0, 0.99), "Share of datagrams that vanish.")

    def __post_init__(self) -> None:
        check_settings(self, "[latency] ")
        if self.model == "uniform" and self.low_s > self.high_s:
            raise ConfigurationError(
                f"[latency] low_s = {self.low_s:g} exceeds high_s = {self.high_s:g}; swap them."
            )
        if self.matrix and self.model != "geographic":
            raise ConfigurationError(
                f"[latency] names a matrix but the model {self.model!r}, which reads none; "
                'write model = "geographic" or leave the matrix out.'
            )


@dataclass(frozen=True, slots=True)
class Adversary:
    """[adversary]: the number of malicious nodes, and what they do.

    ``drop`` does not answer requests (with ``drop_probability``). ``lie`` names nodes of the
    adversary as the nearest ones. ``forge`` returns forged records, ``replay`` old records.
    ``eclipse`` places ``eclipse_ids`` identities near one key. ``sybil`` creates ``sybils``
    identities in one /24. ``deny-circuits`` breaks every circuit unless the adversary has both
    its first and its last hop.
    """

    share: float = setting(
        0.0, values.number(0, 0.9), "Share of the nodes that belong to the adversary."
    )
    behaviours: tuple[str, ...] = setting((), values.names(*BEHAVIOURS), "What they do.")
    drop_probability: float = setting(
        1.0, values.number(0, 1), "How often a request is dropped, for drop."
    )
    eclipse_ids: int = setting(
        20, values.integer(1, 10_000), "Identities next to the key, for eclipse."
    )
    sybils: int = setting(256, values.integer(1, 100_000), "Identities in one /24, for sybil.")

    def __post_init__(self) -> None:
        check_settings(self, "[adversary] ")
        crowd = {"eclipse", "sybil"}
        if self.share > 0 and not self.behaviours:
            raise ConfigurationError(
                f"[adversary] share = {self.share:g} but no behaviour is named; write "
                'behaviours = ["drop"], or another of ' + ", ".join(BEHAVIOURS) + "."
            )
        if self.share == 0 and set(self.behaviours) - crowd:
            raise ConfigurationError(
                f"[adversary] behaviours = {list(self.behaviours)} but nobody behaves so; "
                "write share = 0.2, or leave the behaviours out."
            )

    @property
    def is_there(self) -> bool:
        """Whether there are malicious nodes or additional malicious identities."""
        return bool(self.share or self.behaviours)


@dataclass(frozen=True, slots=True)
class Circuits:
    """[circuits]: clients that keep an anonymous path each."""

    clients: int = setting(
        0, values.integer(0, 1_000_000), "Nodes that keep a path open; they are always on-line."
    )
    hops: int = setting(3, values.integer(1, MAX_HOPS), "Mix-nodes of a path.")
    strategy: str = setting("uniform", values.label, "Path selection strategy, by its name.")
    lifetime_s: float = setting(
        600.0,
        values.duration(1, 30 * _DAY_S),
        "How long a client uses a circuit before it opens a new one.",
    )

    def __post_init__(self) -> None:
        check_settings(self, "[circuits] ")
