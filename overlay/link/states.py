"""The states and inputs of the state machine of a link (:mod:`overlay.link.machine`)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from overlay.link.events import LinkFailure, LinkPeer
from overlay.link.pair import SaPair

__all__ = ["Cause", "LinkInput", "LinkState"]


class LinkState(enum.Enum):
    """Which of a handshake, an offered pair and a current pair a link has."""

    CLOSED = "nothing"
    CONNECTING = "handshake"
    ANSWERED = "offered"
    CROSSED = "handshake, offered"
    UP = "current"
    REKEYING = "handshake, current"
    REANSWERED = "offered, current"
    REKEY_CROSSED = "handshake, offered, current"


class LinkInput(enum.Enum):
    """The inputs of the state machine; each value says what happened."""

    CONNECT = "we want a link"
    REKEY_DUE = "the current pair is to be replaced"
    OFFER = "the peer's initiation is valid"
    OUTRANKED = "the peer's initiation is valid, and its address is lower than ours"
    RESPONSE = "the peer answered our initiation"
    PROVEN = "the peer proved that it holds the offered pair, and where it is"
    RETRY_DUE = "no answer so far"
    GIVE_UP = "no answer to the handshake, or from another node than the one that was meant"
    SILENT = "no answer to the handshake, nor to the probes beside it on the current pair"
    OFFER_LOST = "the offered pair was not confirmed, or closed by the peer"
    CURRENT_LOST = "the current pair was not acknowledged, or closed by the peer"
    CLOSE = "we close the link"


@dataclass(frozen=True, slots=True)
class Cause:
    """The parameters of an input.

    Attributes:
        now: Unix seconds.
        reason: why a link fails or closes.
        peer: the peer to connect to.
        pair: the pair that was offered or completed.
    """

    now: float
    reason: LinkFailure = LinkFailure.TIMED_OUT
    peer: LinkPeer | None = None
    pair: SaPair | None = None
