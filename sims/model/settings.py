"""What of a scenario the model can express, and the numbers that it derives from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.errors import ConfigurationError
from sims.scenario.model import Scenario

__all__ = ["Bounds", "check_expressible"]

ARRIVALS: Final = ("equilibrium", "mass-failure")
BEHAVIOURS: Final = ("drop",)
LATENCIES: Final = ("constant", "uniform")
CRAWLS: Final = ("clients",)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is drawn for a sample: enough for the statistics, whatever the population.

    ``lookups`` a sample of the state, ``clients`` whose topology tables are followed,
    ``tables`` routing tables and ``records`` whose holders are looked at.
    """

    lookups: int = 200
    clients: int = 20
    tables: int = 300
    records: int = 100


def check_expressible(scenario: Scenario) -> None:
    """Refuse what the model does not know.

    Raises:
        ConfigurationError: one sentence: what, and to use the full simulation for it.
    """
    _one_of("[arrival] kind", scenario.arrival.kind, ARRIVALS)
    _one_of("[latency] model", scenario.latency.model, LATENCIES)
    _one_of("crawls", scenario.crawls, CRAWLS)
    if scenario.latency.loss:
        raise ConfigurationError(
            f'[latency] loss = {scenario.latency.loss:g} is not known to fidelity = "model"; write '
            'fidelity = "full" for it.'
        )
    for behaviour in scenario.adversary.behaviours:
        _one_of("[adversary] behaviours", behaviour, BEHAVIOURS)


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigurationError(
            f'{what} = "{value}" is not known to fidelity = "model", only {" and ".join(known)}; '
            'write fidelity = "full" for it.'
        )
