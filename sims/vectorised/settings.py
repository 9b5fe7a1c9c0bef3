"""Check that the model supports a scenario, and set the sizes of its samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.errors import ConfigurationError
from sims.scenario.scenario import Scenario

__all__ = ["Bounds", "check_expressible"]

ARRIVALS: Final = ("equilibrium", "mass-failure")
BEHAVIOURS: Final = ("drop",)
LATENCIES: Final = ("constant", "uniform")
CRAWLS: Final = ("clients",)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Sizes of the random samples, which are large enough for populations of any size.

    Each sample of the state has ``lookups`` lookups, ``tables`` routing tables and ``records``
    records. The topology tables of ``clients`` nodes are followed.
    """

    lookups: int = 200
    clients: int = 20
    tables: int = 300
    records: int = 100


def check_expressible(scenario: Scenario) -> None:
    """Refuse a scenario that the model does not support.

    Raises:
        ConfigurationError: a setting is not supported; the message names it and the remedy.
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
