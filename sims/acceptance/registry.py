"""Every acceptance experiment, in order."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from sims.acceptance.experiment import Experiment
from sims.acceptance.experiments.buckets import E3, E4
from sims.acceptance.experiments.caps import E14
from sims.acceptance.experiments.churn import E1, E2
from sims.acceptance.experiments.determinism import E25
from sims.acceptance.experiments.disjoint import E11
from sims.acceptance.experiments.eclipse import E13
from sims.acceptance.experiments.failures import E10
from sims.acceptance.experiments.fidelity import M1
from sims.acceptance.experiments.poisoning import E12
from sims.acceptance.experiments.records import E8
from sims.acceptance.experiments.regressions import E9
from sims.acceptance.experiments.routing import E5, E6, E7

__all__ = ["EXPERIMENTS"]

_ALL: Final[tuple[Experiment[Any], ...]] = (
    E1, E2, E3, E4, E5, E6, E7, E8, E9, E10, E11, E12, E13, E14, E25, M1,
)  # fmt: skip

EXPERIMENTS: Final[Mapping[str, Experiment[Any]]] = MappingProxyType(
    {one.name: one for one in _ALL}
)
