"""Every acceptance experiment, in order."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from sims.accept.buckets import E3, E4
from sims.accept.caps import E14
from sims.accept.churn import E1, E2
from sims.accept.determinism import E25
from sims.accept.disjoint import E11
from sims.accept.eclipse import E13
from sims.accept.experiment import Experiment
from sims.accept.failures import E10
from sims.accept.fidelity import M1
from sims.accept.poisoning import E12
from sims.accept.records import E8
from sims.accept.regressions import E9
from sims.accept.routing import E5, E6, E7

__all__ = ["EXPERIMENTS"]

_ALL: Final[tuple[Experiment[Any], ...]] = (
    E1, E2, E3, E4, E5, E6, E7, E8, E9, E10, E11, E12, E13, E14, E25, M1,
)  # fmt: skip

EXPERIMENTS: Final[Mapping[str, Experiment[Any]]] = MappingProxyType(
    {one.name: one for one in _ALL}
)
