"""The Security Association Database (RFC 4301, section 4.4.2), with one key per kind of lookup.

=============== ============================ ============================================
table           key                          reason
=============== ============================ ============================================
inbound links   SPI                          this node chose it; NAT may change addresses
inbound onions  destination + SPI            they are adjacent bytes of an IPv6 packet
outbound        SPI, destination, endpoint   peers choose the SPIs, so two may be equal
current         reqid                        a template uses the SA that was installed last
=============== ============================ ============================================
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace
from random import Random
from typing import TypeVar

from overlay.addresses import Endpoint
from overlay.ipsec.esp import InboundSa, OutboundSa, Report
from overlay.ipsec.headers import MAX_IP_BYTES
from overlay.ipsec.interface import MIN_SPI, SaIdentity, SecurityAssociation
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.cipher_cache import CachedCiphers

__all__ = ["Sa", "SecurityAssociationDatabase", "check_association"]

_WINDOW_RANGE = range(32, 8193)
"""RFC 4303, section 3.4.3 requires support for 32; the upper limit bounds memory."""

Sa = InboundSa | OutboundSa
K = TypeVar("K", bound=Hashable)

_Address = tuple[int, bytes]
"""SPI and destination, which identify an SA in RFC 4301. Outbound SAs may share them."""

_Key = tuple[int, bytes, Endpoint | None] | bytes | int
"""The unique key of an SA: outbound, inbound onion SA, inbound link SA."""


def check_association(sa: SecurityAssociation, suites: frozenset[int]) -> None:
    """Check the fields of an SA.

    Raises:
        ValueError: a field is invalid. The message names the field and contains no key material.
    """
    if sa.suite not in suites:
        raise ValueError(f"The ESP suite {sa.suite} is not one of those supported.")
    if len(sa.keymat) != SUITES[sa.suite].keymat_bytes:
        raise ValueError(f"The key material of ESP suite {sa.suite} has another size.")
    if not MIN_SPI <= sa.spi < 2**32:
        raise ValueError(f"An SPI must lie between {MIN_SPI} and 2**32 - 1.")
    if len(sa.source) != len(sa.destination) or len(sa.source) not in (4, 16):
        raise ValueError("The addresses of an SA must be two packed ones of the same family.")
    if sa.replay_window not in _WINDOW_RANGE:
        raise ValueError("A replay window must hold 32 to 8192 packets.")
    if not 0 <= sa.tfc_pad_to <= MAX_IP_BYTES:
        raise ValueError(f"TFC padding must not exceed {MAX_IP_BYTES} bytes.")


def _onion_key(identity: SaIdentity) -> bytes:
    return identity.destination + identity.spi.to_bytes(4, "big")


def _endpoint(sa: SecurityAssociation) -> Endpoint | None:
    return None if sa.encapsulation is None else sa.encapsulation.destination


def _key(sa: SecurityAssociation) -> _Key:
    if not sa.inbound:
        return (sa.spi, sa.destination, _endpoint(sa))
    return _onion_key(sa.identity) if sa.encapsulation is None else sa.spi


class SecurityAssociationDatabase:
    """All SAs of this host; the engine owns it, and the engine's caller limits their number.

    The engine reads ``inbound_links``, ``inbound_onions`` and ``ciphers`` directly.
    """

    def __init__(self, rng: Random, report: Report) -> None:
        self._rng = rng
        self._report = report
        self._undated: set[Sa] = set()
        self.ciphers = CachedCiphers()
        self._warmed = self.ciphers.add
        self._outbound: dict[_Address, tuple[OutboundSa, ...]] = {}
        self._current: dict[int, tuple[OutboundSa, ...]] = {}
        self.inbound_links: dict[int, InboundSa] = {}
        self.inbound_onions: dict[bytes, InboundSa] = {}

    def check_new(self, associations: Iterable[SecurityAssociation]) -> None:
        """Raise ValueError if an SA is installed already, or is twice in one configuration."""
        seen: set[_Key] = set()
        for sa in associations:
            key = _key(sa)
            if key in seen or self._find(sa) is not None:
                raise ValueError("A security association with the same identity is installed.")
            seen.add(key)

    def add(self, value: SecurityAssociation) -> None:
        """Install one SA that :meth:`check_new` has accepted."""
        sa: Sa
        warmed = self._warmed if value.encapsulation is None else None
        if not value.inbound:
            sa = OutboundSa(value, self._rng, self._report, warmed)
            _append(self._outbound, (value.spi, value.destination), sa)
            _append(self._current, value.reqid, sa)
        else:
            sa = InboundSa(value, self._rng, self._report, warmed)
            if value.encapsulation is None:
                self.inbound_onions[_onion_key(value.identity)] = sa
            else:
                self.inbound_links[value.spi] = sa
        if value.lifetime.soft_s is not None or value.lifetime.hard_s is not None:
            self._undated.add(sa)

    def discard(self, value: SecurityAssociation) -> bool:
        """Remove the SA that was installed from an equal value; return whether there was one."""
        sa = self._find(value)
        if sa is None or sa.value != value:
            return False
        self._undated.discard(sa)
        self.ciphers.discard(sa)
        if isinstance(sa, OutboundSa):
            _take(self._outbound, (value.spi, value.destination), sa)
            _take(self._current, value.reqid, sa)
        elif value.encapsulation is None:
            del self.inbound_onions[_onion_key(value.identity)]
        else:
            del self.inbound_links[value.spi]
        return True

    def relocate(
        self, associations: Iterable[SecurityAssociation], remote: Endpoint
    ) -> tuple[SecurityAssociation, ...]:
        """Move link SAs to another endpoint of the peer; return their new values.

        Raises:
            ValueError: another outbound SA has the same identity; nothing has changed then.
        """
        moves = [(self._find(value), value, _at(value, remote)) for value in associations]
        for sa, _, new in moves:
            if not new.inbound and self._find(new) not in (None, sa):
                raise ValueError("A security association with the same identity is installed.")
        for sa, value, new in moves:
            if sa is None or sa.value != value:
                continue
            sa.value = new
            if isinstance(sa, OutboundSa):
                sa.endpoint = remote
            else:
                sa.home = sa.peer = remote
        return tuple(new for _, _, new in moves)

    def clear(self) -> None:
        """Remove every SA."""
        for table in (self._outbound, self._current, self.inbound_links, self.inbound_onions):
            table.clear()
        self._undated.clear()
        self.ciphers.clear()

    def count(self, *, links: bool) -> int:
        """Return the number of link SAs, or of onion SAs, in both directions together."""
        inbound = len(self.inbound_links if links else self.inbound_onions)
        outbound = (sa for installed in self._outbound.values() for sa in installed)
        return inbound + sum((sa.endpoint is not None) is links for sa in outbound)

    def associations(self) -> Iterator[SecurityAssociation]:
        """Return the values of all SAs: inbound link SAs, inbound onion SAs, outbound SAs."""
        inbound = (*self.inbound_links.values(), *self.inbound_onions.values())
        outbound = itertools.chain.from_iterable(self._outbound.values())
        return (sa.value for sa in itertools.chain(inbound, outbound))

    def current(self, reqid: int) -> OutboundSa | None:
        """Return the outbound SA with this ``reqid`` that was installed last."""
        installed = self._current.get(reqid)
        return installed[-1] if installed else None

    def limit(self, reqid: int, datagram_bytes: int) -> None:
        """Limit the size of the ESP packets of all outbound SAs with this ``reqid``."""
        for sa in self._current.get(reqid, ()):
            sa.limit(datagram_bytes)

    def get(self, identity: SaIdentity) -> Sa | None:
        """Return an SA by its identity; inbound SAs have precedence."""
        link = self.inbound_links.get(identity.spi)
        if link is not None and link.value.destination == identity.destination:
            return link
        onion = self.inbound_onions.get(_onion_key(identity))
        outbound = self._outbound.get((identity.spi, identity.destination))
        return onion or (outbound[-1] if outbound else None)

    def start_lifetimes(self, now: float) -> None:
        """Start the lifetimes in seconds of SAs that were installed since the last call."""
        while self._undated:
            self._undated.pop().start(now)

    def cool_idle(self, now: float) -> None:
        """Release the ciphers of onion SAs that were not used recently."""
        self.ciphers.cool_idle(now)

    def _find(self, value: SecurityAssociation) -> Sa | None:
        """Return the installed SA with the same unique key as ``value``."""
        if value.inbound:
            if value.encapsulation is None:
                return self.inbound_onions.get(_onion_key(value.identity))
            return self.inbound_links.get(value.spi)
        endpoint = _endpoint(value)
        installed = self._outbound.get((value.spi, value.destination), ())
        return next((sa for sa in installed if sa.endpoint == endpoint), None)


def _at(value: SecurityAssociation, remote: Endpoint) -> SecurityAssociation:
    """Return a link SA with another endpoint of the peer; its outer addresses stay the same."""
    if value.encapsulation is None:
        return value
    if value.inbound:
        return replace(value, encapsulation=replace(value.encapsulation, source=remote))
    return replace(value, encapsulation=replace(value.encapsulation, destination=remote))


def _append(table: dict[K, tuple[OutboundSa, ...]], key: K, sa: OutboundSa) -> None:
    table[key] = (*table.get(key, ()), sa)


def _take(table: dict[K, tuple[OutboundSa, ...]], key: K, sa: OutboundSa) -> None:
    remaining = tuple(other for other in table[key] if other is not sa)
    if remaining:
        table[key] = remaining
    else:
        del table[key]
