"""Look up steps in tables of transitions: state and input, then action and next state.

Links (``overlay.link.machine``) and both sides of rekeying (``overlay.apm.rekey_source``,
``overlay.apm.rekey_hop``) use it. In the table of ``overlay.link.endpoint_proof`` a missing
combination has no effect, so that module asks its table itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from overlay.errors import InternalError

__all__ = ["required_step"]

State = TypeVar("State", bound=Enum)
Input = TypeVar("Input", bound=Enum)
Action = TypeVar("Action")


def required_step(
    table: Mapping[tuple[State, Input], tuple[Action, State]],
    state: State,
    happened: Input,
    machine: str,
) -> tuple[Action, State]:
    """Return the action and the next state for an input that must be possible in this state.

    Args:
        table: all possible combinations.
        state: the state before the input.
        happened: the input.
        machine: what has the state, with its article, for the error.

    Raises:
        InternalError: the combination is not in the table, which is a bug.
    """
    step = table.get((state, happened))
    if step is None:
        raise InternalError(f"{machine} in state {state.name} met {happened.name}")
    return step
