"""Probe the datagram sizes that links carry, with padded notices and their answers.

::

    PROBE    size (2) | nonce (24) in the token's place, padded with zeros to that size
    PROBED   the same token, not padded

A size is the number of bytes of the whole UDP payload. The tag covers it, and the receiver compares
it with the bytes that arrived. So a truncated probe gets no answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from typing import Final

from overlay.addresses import Endpoint, OverlayAddress
from overlay.demultiplexer import Channel, frame
from overlay.link.events import LinkSizeFound
from overlay.link.handshake import GEOMETRY, MessageType, Notice
from overlay.link.keymat import make_notice
from overlay.link.pair import SaPair
from overlay.link.services import Outbox
from overlay.link.size_search import MAX_PROBES, SizeSearch

__all__ = ["MtuProbes"]

_LINE_BYTES: Final = 1500
"""The largest IP packet to probe: the MTU of Ethernet, which hardly any network exceeds."""

_FRAME_BYTES: Final = len(frame(Channel.LINK, b""))
_SIZE: Final = slice(0, 2)


@dataclass(slots=True)
class _Probed:
    """The search of one link.

    ``told`` is the size that was announced last, and ``sent`` has the tokens of the last probes.
    """

    pair: SaPair
    endpoint: Endpoint
    search: SizeSearch
    told: int = 0
    sent: list[bytes] = field(default_factory=list)


class MtuProbes:
    """One search for each link in use, owned by ``Links``.

    Without ``probes`` it neither probes nor answers. An answer tells the peer that this node joins
    the pieces of packets, which not every backend does.
    """

    def __init__(self, rng: Random, outbox: Outbox, *, probes: bool) -> None:
        self._active = probes
        self._rng = rng
        self._outbox = outbox
        self._links: dict[OverlayAddress, _Probed] = {}

    def follow(self, overlay_address: OverlayAddress, pair: SaPair | None, now: float) -> None:
        """Probe on the current pair of a link, and stop if ``pair`` is None.

        If the endpoint of the peer has changed, the search begins again.
        """
        known = self._links.get(overlay_address)
        if not self._active:
            return
        if pair is None:
            self._links.pop(overlay_address, None)
        elif known is None or known.endpoint != pair.endpoint:
            search = SizeSearch(_largest(pair.endpoint), now)
            if known is not None:  # the same peer, reached over another network
                search.is_answered = known.search.is_answered
            told = known.told if known is not None else 0
            known = self._links[overlay_address] = _Probed(pair, pair.endpoint, search, told)
            self._tell(overlay_address, known)
        else:
            known.pair = pair

    def answer(self, pair: SaPair, probe: Notice, received: int) -> None:
        """Answer an authentic probe if all of it arrived.

        The answer is never larger than the probe, so it cannot amplify an attack.

        Args:
            pair: the pair of the probe.
            probe: the message, which contains its own size.
            received: number of bytes that arrived, without framing.
        """
        if self._active and int.from_bytes(probe.token[_SIZE], "big") == received + _FRAME_BYTES:
            notice = make_notice(MessageType.PROBED, pair.agreement.secrets, probe.token)
            self._outbox.send(notice.encode(), pair.endpoint)

    def answered(self, overlay_address: OverlayAddress, token: bytes, now: float) -> None:
        """Process an authentic answer. It has no effect if it answers none of the last probes."""
        known = self._links.get(overlay_address)
        if known is not None and token in known.sent:
            known.sent.remove(token)
            known.search.answered(int.from_bytes(token[_SIZE], "big"), now)
            self._tell(overlay_address, known)

    def found(self, overlay_address: OverlayAddress) -> int | None:
        """Return the UDP payload in bytes that a link carries, None if it is not known."""
        known = self._links.get(overlay_address)
        if known is None or not known.search.is_answered:
            return None
        is_measured = known.search.has_lost or known.search.is_complete
        return known.search.usable if is_measured else None

    def next_deadline(self) -> float:
        """Return when the next probe of any link is due."""
        return min((each.search.deadline for each in self._links.values()), default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Send the probes that are due."""
        for overlay_address, known in self._links.items():
            size = known.search.probe(now)
            if size is not None:
                self._send(known, size)
            self._tell(overlay_address, known)

    def _send(self, known: _Probed, size: int) -> None:
        token = size.to_bytes(2, "big") + self._rng.randbytes(GEOMETRY.token - 2)
        known.sent = [*known.sent[1 - MAX_PROBES :], token]
        notice = make_notice(MessageType.PROBE, known.pair.agreement.secrets, token)
        message = notice.encode().ljust(size - _FRAME_BYTES, b"\0")
        self._outbox.send_whole(message, known.endpoint)

    def _tell(self, overlay_address: OverlayAddress, known: _Probed) -> None:
        """Announce a size that differs from the last one announced.

        Nothing is announced for a peer that has never answered, because it may be unable to join
        the pieces of packets. While no probe is lost, only the result of the complete search is
        announced, so that padded packets keep one size.
        """
        search = known.search
        if search.usable == known.told or not search.is_answered:
            return
        if search.has_lost or search.is_complete:
            known.told = search.usable
            self._outbox.announce(LinkSizeFound(overlay_address, known.told))


def _largest(endpoint: Endpoint) -> int:
    return _LINE_BYTES - (48 if ":" in endpoint.host else 28)
