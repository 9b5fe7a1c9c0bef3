"""What of a scenario the model can express, and the numbers that it derives from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from overlay.dht.settings import DhtSettings
from overlay.errors import ConfigurationError
from sims.scenario.model import Scenario

__all__ = ["Bounds", "check_expressible", "silence_s"]

ARRIVALS: Final = ("equilibrium", "mass-failure")
BEHAVIOURS: Final = ("drop",)
LATENCIES: Final = ("constant", "uniform")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is drawn for a sample: enough for the statistics, whatever the population.

    ``lookups`` a sample of the state, ``clients`` whose topology tables are followed,
    ``tables`` routing tables that are looked at.
    """

    lookups: int = 200
    clients: int = 20
    tables: int = 2000


def check_expressible(scenario: Scenario) -> None:
    """Refuse what the model does not know.

    Raises:
        ConfigurationError: one sentence: what, and to use the full simulation for it.
    """
    _one_of("[arrival] kind", scenario.arrival.kind, ARRIVALS)
    _one_of("[latency] model", scenario.latency.model, LATENCIES)
    for behaviour in scenario.adversary.behaviours:
        _one_of("[adversary] behaviours", behaviour, BEHAVIOURS)


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigurationError(
            f'{what} = "{value}" is not known to fidelity = "model", only {" and ".join(known)}; '
            'write fidelity = "full" for it.'
        )


def silence_s(settings: DhtSettings) -> float:
    """Return how long a query that nobody answers keeps its place: its first attempt.

    What follows holds up no lookup once k others have answered, and k nearly always have.
    """
    return settings.rpc_timeout_s


def notice_s(settings: DhtSettings, scenario: Scenario, online: int) -> float:
    """Return how long a departed node stands in others' tables, in the mean and in seconds.

    A contact is given up when it has not answered ``contact_max_failures`` calls, and it is
    called as often as its holder's calls are spread over the contacts it has: lookups begin
    with the alpha closest, each bucket is refreshed once in a refresh interval, and the one
    seen least recently of a full bucket is asked whenever somebody new comes along.
    """
    full = max(1.0, online / settings.k)
    depth = max(1.0, math.log2(full) + 1)
    contacts = settings.k * depth
    walks_per_s = (
        scenario.lookups_per_hour / 3600
        + depth / settings.refresh_interval_s
        + 1 / settings.republish_interval_s
    )
    return contacts / (settings.alpha * walks_per_s)
