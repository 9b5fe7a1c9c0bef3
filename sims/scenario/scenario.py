"""A scenario: all settings of a simulation as one frozen value.

The same value comes from a TOML file, from options of ``overlay sim churn`` and from Python::

    Scenario(nodes=500, churn=Churn("ipfs2022"), adversary=Adversary(0.2, ("drop",)))

Times of a run::

    0 ........ warm_up_s ................................. warm_up_s + duration_s
    |  init,   |  measured; [arrival] at_s counts from here  |
    | settling |                                             end
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.settings import FLAG, number, one_of, seconds, setting, whole
from sims.scenario.expectation import EXPECTATIONS, Expectation
from sims.scenario.parameters import Parameters
from sims.scenario.sections import (
    Adversary,
    Arrival,
    Churn,
    Circuits,
    LatencySection,
    ScenarioSettings,
)
from sims.scenario.values import LABEL, PARAMETERS, SEEDS, TEXT, of_table

__all__ = [
    "AUTHOR_ONLINE_S",
    "Adversary",
    "Arrival",
    "Churn",
    "Circuits",
    "Expectation",
    "LatencySection",
    "Parameters",
    "Scenario",
]

AUTHOR_ONLINE_S: Final = 90.0
"""Time for which an author of a followed record (``records``) is on line, in seconds, so that it
joins and stores. The second publication would follow a minute after the first."""

_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Scenario(ScenarioSettings):
    """One simulated overlay, what happens in it, and the expectations.

    Raises:
        ConfigurationError: a setting is wrong; the message says what to write instead.
    """

    name: str = setting("churn", LABEL, "Name of the scenario, in reports and files.")
    question: str = setting(
        "", TEXT, "The question that the scenario answers, in a sentence for the report."
    )
    nodes: int = setting(
        1000,
        whole(2, 10_000_000),
        "Number of nodes, whether on-line or off-line.",
    )
    duration_s: float = setting(
        6 * 3600.0,
        seconds(1, 60 * _DAY_S),
        "Simulated time that is measured, after the warm-up.",
    )
    warm_up_s: float = setting(
        1800.0,
        seconds(0, 30 * _DAY_S),
        "Simulated time before it, in which the overlay settles. It counts in no statistic.",
    )
    lookups_per_hour: float = setting(
        6.0, number(0, 3600), "Lookups of published records by each on-line node."
    )
    records: int = setting(
        0,
        whole(0, 100_000),
        "Records that are published only once, when the warm-up ends, to measure their survival.",
    )
    sample_interval_s: float = setting(
        60.0, seconds(1, _DAY_S), "Pause between two samples of the overlay's state."
    )
    crawls: str = setting(
        "clients",
        one_of("clients", "all"),
        "Nodes that crawl the whole overlay, as every real node does. If all of N nodes crawl, "
        "they send 6 N^2 datagrams each crawl_interval_s, so that value is for hundreds of nodes.",
    )
    fidelity: str = setting(
        "full",
        one_of("full", "model"),
        "Code that is simulated: full runs the product's own code in every node, and model is a "
        "vectorised approximation for up to millions of nodes.",
    )
    verify_signatures: bool = setting(
        False,
        FLAG,
        "Compute and verify every signature, instead of only counting its time.",
    )
    seeds: tuple[int, ...] = setting(
        10, SEEDS, "Number of seeds (1, 2, ...), or the seeds themselves. Each seed is one run."
    )
    expectations: tuple[Expectation, ...] = setting(
        (),
        EXPECTATIONS,
        'Conditions such as "lookup_success mean >= 0.95". The exit status says whether all held.',
    )
    dht: Parameters = setting(
        {},
        PARAMETERS,
        "Settings of the DHT that differ from the product's own (overlay.dht.settings).",
    )
    churn: Churn = setting({}, of_table("churn", Churn), "Length of the sessions of nodes.")
    arrival: Arrival = setting({}, of_table("arrival", Arrival), "Event for many nodes at once.")
    latency: LatencySection = setting({}, of_table("latency", LatencySection), "Delay and loss.")
    adversary: Adversary = setting({}, of_table("adversary", Adversary), "Malicious nodes.")
    circuits: Circuits = setting({}, of_table("circuits", Circuits), "Clients with paths.")

    def check(self) -> None:
        """Check tables that depend on each other."""
        if self.arrival.kind != "equilibrium" and self.arrival.at_s >= self.duration_s:
            raise ValueError(
                f"[arrival] at_s = {self.arrival.at_s:g} lies after the end of the run; write less "
                f"than duration_s = {self.duration_s:g}"
            )
        if self.circuits.clients >= self.nodes:
            raise ValueError(
                f"[circuits] clients = {self.circuits.clients} leaves no relay among "
                f"{self.nodes} nodes; write fewer clients or more nodes"
            )
        if self.verify_signatures and self.fidelity == "model":
            raise ValueError(
                'verify_signatures has no meaning at fidelity = "model", which sends no message; '
                'write fidelity = "full" or leave it out'
            )

    @property
    def total_s(self) -> float:
        """Simulated time of a whole run, the warm-up included."""
        return self.warm_up_s + self.duration_s
