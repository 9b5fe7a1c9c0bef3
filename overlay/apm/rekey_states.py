"""States and inputs of an exchange of new keys, at the source and at a hop."""

from __future__ import annotations

import enum
from typing import TypeVar

from overlay.errors import InternalError

__all__ = ["HopRekeyInput", "HopRekeyState", "SourceRekeyInput", "SourceRekeyState", "present"]

_T = TypeVar("_T")


def present(value: _T | None) -> _T:
    """Return a value that must be set in the current state of an exchange.

    Raises:
        InternalError: the value is None, which is a fault of the program.
    """
    if value is None:
        raise InternalError("an exchange lacks a value that its state requires")
    return value


class SourceRekeyState(enum.Enum):
    """What the source has for one hop besides the SAs in use."""

    SETTLED = "nothing"
    OFFERED = "an offer without an answer"
    AGREED = "new keys, and the inbound SA that has them"
    SWITCHING = "the replaced SAs: the hop may not have switched"
    SWITCHING_AND_DUE = "the replaced SAs, while the new ones have reached a soft limit"


class SourceRekeyInput(enum.Enum):
    """Inputs to the source's side of an exchange."""

    DUE = "the keys in use are to be replaced"
    ANSWERED = "the hop has the new keys, and the source receives with them"
    SWITCH_DUE = "the wait before the switch is over"
    CANNOT_SWITCH = "this host refused the new outbound SA"
    SWITCHED = "the hop has proved that it switched"
    REPEAT_DUE = "the hop has not answered so far"
    GIVE_UP = "the hop has not answered within the timeout"


class HopRekeyState(enum.Enum):
    """What a hop has for one circuit besides the SAs in use."""

    SETTLED = "nothing"
    ANSWERED = "new keys, and the inbound SA that has them"


class HopRekeyInput(enum.Enum):
    """Inputs to a hop's side of an exchange."""

    OFFER = "the source offers new keys"
    OFFER_AGAIN = "the source repeats the offer that was answered"
    SWITCH = "the source has proved that it has the new keys"
    SWITCH_AGAIN = "the source repeats a proof that was accepted"
