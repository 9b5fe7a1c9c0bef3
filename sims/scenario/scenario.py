"""A scenario: all settings of a simulation as one frozen value.

The same value comes from a TOML file, from options of ``overlay sim churn`` and from Python::

    Scenario(nodes=500, churn=Churn("ipfs2022"), adversary=Adversary(0.2, ("drop",)))

Times of a run::

    0 ........ warm_up_s ................................. warm_up_s + duration_s
    |  init,   |  measured; [arrival] at_s counts from here  |
    | settling |                                             end
"""

# ruff: noqa: RUF009 - setting() returns a dataclass field, as dataclasses.field() does
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from overlay.errors import ConfigurationError
from sims.scenario import values
from sims.scenario.expectation import Expectation, expectations
from sims.scenario.parameters import Parameters
from sims.scenario.sections import (
    Adversary,
    Arrival,
    Churn,
    Circuits,
    LatencySection,
    check_settings,
    setting,
)

__all__ = [
    "Adversary",
    "Arrival",
    "Churn",
    "Circuits",
    "Expectation",
    "LatencySection",
    "Parameters",
    "Scenario",
]

_DAY_S: Final = 86_400.0


def _instance(of: type[object]) -> object:
    def parse(value: object) -> object:
        if not isinstance(value, of):
            raise ValueError(f"must be a table, not {values.shown(value)}")  # noqa: TRY004 - the user's
        return value

    return parse


def _table(of: type[object], meaning: str) -> object:
    return field(default_factory=of, metadata={"parser": _instance(of), "meaning": meaning})


@dataclass(frozen=True, slots=True)
class Scenario:
    """One simulated overlay, what happens in it, and the expectations.

    Raises:
        ConfigurationError: a setting is wrong; the message says what to write instead.
    """

    name: str = setting("churn", values.label, "Name of the scenario, in reports and files.")
    question: str = setting(
        "", values.text, "The question that the scenario answers, in a sentence for the report."
    )
    nodes: int = setting(
        1000,
        values.integer(2, 10_000_000),
        "Nodes that take part, those that are off-line at the moment included.",
    )
    duration_s: float = setting(
        6 * 3600.0,
        values.duration(1, 60 * _DAY_S),
        "Simulated time that is measured, after the warm-up.",
    )
    warm_up_s: float = setting(
        1800.0,
        values.duration(0, 30 * _DAY_S),
        "Simulated time before that, in which the overlay settles; it counts in no statistic.",
    )
    lookups_per_hour: float = setting(
        6.0, values.number(0, 3600), "Lookups of published records by each on-line node."
    )
    records: int = setting(
        0,
        values.integer(0, 100_000),
        "Records that are published once, when the warm-up ends, and never again, to follow "
        "how they survive.",
    )
    sample_interval_s: float = setting(
        60.0, values.duration(1, _DAY_S), "Pause between two samples of the overlay's state."
    )
    crawls: str = setting(
        "clients",
        values.one_of("clients", "all"),
        "Who crawls the whole overlay, as every real node does: N nodes send 6 N^2 datagrams each "
        "crawl_interval_s for it, so all is for hundreds of nodes.",
    )
    fidelity: str = setting(
        "full",
        values.one_of("full", "model"),
        "full runs the product's own code in every node; model is a vectorised approximation "
        "for up to millions of nodes.",
    )
    verify_signatures: bool = setting(
        False,  # noqa: FBT003 - a default
        values.truth,
        "Make and check every signature for real, instead of only charging its time.",
    )
    seeds: tuple[int, ...] = setting(
        10, values.seeds, "How many seeds (1, 2, ...), or the list of them: one run for each."
    )
    expectations: tuple[Expectation, ...] = setting(
        (),
        expectations,
        'Promises such as "lookup_success mean >= 0.95"; whether they held is the exit status.',
    )
    dht: Parameters = setting(
        Parameters(),
        values.parameters,
        "Settings of the DHT that differ from the product's own (overlay.dht.settings).",
    )
    churn: Churn = _table(Churn, "How long nodes stay.")  # type: ignore[assignment]  # a field
    arrival: Arrival = _table(Arrival, "What happens to many at once.")  # type: ignore[assignment]  # likewise
    latency: LatencySection = _table(LatencySection, "Delay and loss.")  # type: ignore[assignment]  # likewise
    adversary: Adversary = _table(Adversary, "Who is against us.")  # type: ignore[assignment]  # likewise
    circuits: Circuits = _table(Circuits, "Clients with paths.")  # type: ignore[assignment]  # likewise

    def __post_init__(self) -> None:
        check_settings(self, "")
        if self.arrival.kind != "equilibrium" and self.arrival.at_s >= self.duration_s:
            raise ConfigurationError(
                f"[arrival] at_s = {self.arrival.at_s:g} lies after the end of the run; write less "
                f"than duration_s = {self.duration_s:g}."
            )
        if self.circuits.clients >= self.nodes:
            raise ConfigurationError(
                f"[circuits] clients = {self.circuits.clients} leaves no relay among "
                f"{self.nodes} nodes; write fewer clients or more nodes."
            )
        if self.verify_signatures and self.fidelity == "model":
            raise ConfigurationError(
                'verify_signatures has no meaning at fidelity = "model", which sends no message; '
                'write fidelity = "full" or leave it out.'
            )

    @property
    def total_s(self) -> float:
        """Simulated time of a whole run, the warm-up included."""
        return self.warm_up_s + self.duration_s
