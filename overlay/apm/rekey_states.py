"""The states of an exchange of new keys, at the source and at a hop, and what may happen to it."""

from __future__ import annotations

import enum
from typing import TypeVar

from overlay.errors import InternalError

__all__ = ["HopRekeyInput", "HopRekeyState", "SourceRekeyInput", "SourceRekeyState", "present"]

_T = TypeVar("_T")


def present(value: _T | None) -> _T:
    """Return what the state of an exchange promises that it holds.

    Raises:
        InternalError: it does not.
    """
    if value is None:
        raise InternalError("the state of an exchange promises what it does not hold")
    return value


class SourceRekeyState(enum.Enum):
    """What the source holds towards one hop, besides the SAs in use."""

    SETTLED = "nothing"
    OFFERED = "an offer without an answer"
    AGREED = "new keys, and the inbound SA that has them"
    SWITCHING = "the replaced SAs: the hop may not have switched"
    SWITCHING_AND_DUE = "the replaced SAs, while the new ones want to be replaced already"


class SourceRekeyInput(enum.Enum):
    """What may happen to the source's side of an exchange."""

    DUE = "the keys in use are to be replaced"
    ANSWERED = "the hop has the new keys, and we receive with them"
    SWITCH_DUE = "the wait before the switch is over"
    CANNOT_SWITCH = "this host refused the new outbound SA"
    SWITCHED = "the hop has proved that it switched"
    REPEAT_DUE = "no word of the hop so far"
    GIVE_UP = "no word of the hop at all"


class HopRekeyState(enum.Enum):
    """What a hop holds of one circuit, besides the SAs in use."""

    SETTLED = "nothing"
    ANSWERED = "new keys, and the inbound SA that has them"


class HopRekeyInput(enum.Enum):
    """What may happen to a hop's side of an exchange."""

    OFFER = "the source offers new keys"
    OFFER_AGAIN = "the source repeats the offer that was answered"
    SWITCH = "the source has proved that it has the new keys"
    SWITCH_AGAIN = "the source repeats a proof that was accepted"
