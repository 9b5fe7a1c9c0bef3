"""Turn the events of links into SAs and policies, and tell circuits which links are usable.

Each neighbour has one ``reqid`` as long as a link to it exists, so that rekeying adds and removes
SAs but changes no policy (docs/decisions/0004). The responder's outbound SA is installed only after
the initiator has proved its keys and its endpoint. The initiator's first packets often arrive
before this proof, so they wait here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from overlay.addresses import Endpoint, OverlayAddress
from overlay.errors import BackendError
from overlay.ipsec.interface import IpsecBackend, IpsecConfiguration, Lifetime, SaIdentity, Spi
from overlay.ipsec.lifetimes import hard_lifetime
from overlay.link.events import (
    LinkClosed,
    LinkEstablished,
    LinkEvent,
    LinkFailed,
    LinkFailure,
    LinkSaRemoved,
    LinkSaRetired,
    LinkSizeFound,
)
from overlay.link.links import Links
from overlay.link.security import (
    FIRST_CIRCUIT_REQID,
    LinkSecurity,
    link_associations,
    link_policies,
)
from overlay.logs import EventLog
from overlay.tfc.strategy import LinkHandle, TfcStrategy

__all__ = ["LinkUser", "Neighbours"]

_log = EventLog(__name__)

_FAULTS: Final = frozenset(
    (
        LinkFailure.TIMED_OUT,
        LinkFailure.NOT_AUTHENTIC,
        LinkFailure.REFUSED,
        LinkFailure.LIMIT,
    )
)
"""Reasons that are logged at the default level when a link ends."""

_IDLE_S: Final = 60.0
"""Time for which a link without circuits is kept, because the next circuit often uses it."""

_MAX_EARLY: Final = 16
"""Packets of one neighbour that wait until its link is usable; one message in fragments fits."""

_SOURCE: Final = slice(8, 24)
"""Position of the source address in an IPv6 packet (RFC 8200, section 3)."""


class LinkBackend(IpsecBackend, Protocol):
    """A backend whose link SAs may follow a peer."""

    def relocate(
        self, pairs: Sequence[IpsecConfiguration], local: Endpoint, remote: Endpoint
    ) -> list[IpsecConfiguration] | None:
        """Move link SAs to other endpoints and return the new SAs; None if it is not supported."""
        ...

    def limit_link(self, reqid: int, datagram_bytes: int) -> None:
        """Limit the datagrams of link SAs with this reqid, if this backend supports it."""
        ...


class LinkUser(Protocol):
    """What uses links: the circuits of this node."""

    def receive(self, packets: Sequence[bytes], now: float) -> None:
        """Process control packets that came over links."""
        ...

    def link_established(
        self, overlay_address: OverlayAddress, security: LinkSecurity, now: float
    ) -> None:
        """Use the link to a neighbour from now on."""
        ...

    def link_lost(self, overlay_address: OverlayAddress, now: float) -> None:
        """Stop using the link to a neighbour, which has ended."""
        ...

    def uses_link(self, overlay_address: OverlayAddress) -> bool:
        """Tell whether a circuit uses the link to a neighbour."""
        ...


@dataclass(slots=True)
class _Neighbour:
    """The state of one link.

    ``here`` and ``endpoint`` are the present endpoints of this node and of the peer. ``local`` and
    ``nominal`` are the endpoints in the SAs. If the backend moves outer addresses, they are the
    present endpoints. Otherwise they are those with which the link began.
    """

    security: LinkSecurity
    local: Endpoint
    nominal: Endpoint
    endpoint: Endpoint
    here: Endpoint
    policies: IpsecConfiguration
    pairs: dict[Spi, IpsecConfiguration] = field(default_factory=dict)
    early: list[bytes] = field(default_factory=list)
    datagram_bytes: int | None = None
    usable: bool = False
    idle_since: float | None = None


class Neighbours:
    """Own the SAs and policies of links; the limit of the links core bounds their number.

    ``refused`` counts links that the host or the IPsec backend could not install.
    """

    def __init__(
        self,
        *,
        own_address: OverlayAddress,
        links: Links,
        backend: LinkBackend,
        circuits: LinkUser,
        tfc: TfcStrategy,
        local_address: Callable[[Endpoint], Endpoint],
        link_payload_bytes: int,
        lifetime: Callable[[int], Lifetime] = hard_lifetime,
    ) -> None:
        self._own_address = own_address
        self._links = links
        self._backend = backend
        self._moves_addresses = backend.capabilities().moves_outer_addresses
        self._circuits = circuits
        self._tfc = tfc
        self._reqids = itertools.cycle(range(1, FIRST_CIRCUIT_REQID))
        self._local_address = local_address
        self._lifetime = lifetime
        self._pad_to = tfc.pad_to(link_payload_bytes)
        self._neighbours: dict[OverlayAddress, _Neighbour] = {}
        self.refused = 0

    def __len__(self) -> int:
        return len(self._neighbours)

    def __iter__(self) -> Iterator[OverlayAddress]:
        """Yield the overlay addresses of the nodes to which there are links."""
        return iter(self._neighbours)

    def __contains__(self, overlay_address: object) -> bool:
        return overlay_address in self._neighbours

    def handle(self, event: LinkEvent, now: float) -> None:
        """Install, change or remove SAs and policies as an event of the links core requires."""
        match event:
            case LinkEstablished():
                self._established(event, now)
            case LinkSaRetired():
                self._sa_retired(event)
            case LinkSaRemoved():
                self._sa_removed(event)
            case LinkSizeFound():
                self._limited(event)
            case LinkFailed():
                # Peers can cause these lines, because links for circuits of others fail as well.
                _log.warning("link.failed", peer_triggered=True, reason=event.reason)
                self._circuits.link_lost(event.overlay_address, now)
            case LinkClosed():
                tell = _log.warning if event.reason in _FAULTS else _log.debug
                tell("link.closed", peer_triggered=True, reason=event.reason)
                self._closed(event.overlay_address, now)

    def heard_at(self, address: OverlayAddress) -> float | None:
        """Return when the last packet arrived over the link from a neighbour, in Unix seconds.

        None if there was none, or if the backend does not report it (Linux before 6.2).
        """
        neighbour = self._neighbours.get(address)
        pairs = neighbour.pairs.values() if neighbour is not None else ()
        inbound = [sa.identity for pair in pairs for sa in pair.associations if sa.inbound]
        try:
            counters = [self._backend.query(identity) for identity in inbound]
        except BackendError:
            return None
        used = (each.last_used for each in counters if each is not None and each.packets)
        return max((when for when in used if when is not None), default=None)

    def endpoint_of(self, address: OverlayAddress) -> Endpoint | None:
        """Return the present endpoint of a neighbour, None if there is no link to it."""
        neighbour = self._neighbours.get(address)
        return neighbour.endpoint if neighbour is not None else None

    def ready(self, packets: Sequence[bytes]) -> list[bytes]:
        """Return the control packets that circuits can process now.

        Packets over a link that is not usable yet wait, and circuits get them when it is.
        """
        taken = []
        for packet in packets:
            neighbour = self._neighbours.get(OverlayAddress(packet[_SOURCE]))
            if neighbour is None or neighbour.usable:
                taken.append(packet)
            elif len(neighbour.early) < _MAX_EARLY:
                neighbour.early.append(packet)
        return taken

    def close_idle(self, now: float) -> None:
        """Close links that no circuit has used for a while."""
        for address, neighbour in list(self._neighbours.items()):
            if not neighbour.usable or self._circuits.uses_link(address):
                neighbour.idle_since = None
            elif neighbour.idle_since is None:
                neighbour.idle_since = now
            elif now - neighbour.idle_since >= _IDLE_S:
                self._links.close(address, now)

    def renew_moved(self, now: float) -> None:
        """Rekey the links to which this host would now send from another local address.

        The handshake comes from the new address, so the peer moves its end of the link.
        """
        for address, neighbour in list(self._neighbours.items()):
            if self._has_moved(neighbour):
                self._links.rekey(address, now)

    def published(
        self,
        address: OverlayAddress,
        before: Collection[Endpoint],
        after: Collection[Endpoint],
        now: float,
    ) -> None:
        """Rekey the link to a node whose new descriptor no longer names the link's endpoint.

        Such a peer has moved. If this host is behind NAT, only its own packets reach the peer's new
        endpoint, and the peer's packets arrive only after them.
        """
        neighbour = self._neighbours.get(address)
        if neighbour is None or neighbour.endpoint in after:
            return
        if neighbour.endpoint in before:
            self._links.rekey(address, now)

    def _has_moved(self, neighbour: _Neighbour) -> bool:
        try:
            return self._local_address(neighbour.endpoint) != neighbour.here
        except BackendError:
            return False  # there is no route at present, and a link may survive that

    def soft_expired(self, identity: SaIdentity, now: float) -> bool:
        """Rekey the link whose SA reached a soft limit; return False if no link has this SA."""
        for address, neighbour in self._neighbours.items():
            for inbound_spi, pair in neighbour.pairs.items():
                if any(sa.identity == identity for sa in pair.associations):
                    self._links.rekey(address, now, worn=inbound_spi)
                    return True
        return False

    def _established(self, event: LinkEstablished, now: float) -> None:
        neighbour = self._neighbours.get(event.overlay_address)
        early: list[bytes] = []
        if neighbour is not None and (
            neighbour.endpoint != event.endpoint or self._has_moved(neighbour)
        ):
            if not neighbour.usable:
                # The initiation came from another endpoint than the one that is proved now.
                early = neighbour.early
                self._uninstall(self._neighbours.pop(event.overlay_address))
                neighbour = None
            elif not self._relocate(neighbour, event.endpoint):
                # Closing tells the peer, so that it and its circuits need not wait for a timeout.
                self._links.close(event.overlay_address, now)
                return
            else:
                self._renew_moved_keys(event, neighbour, now)
        try:
            neighbour = neighbour or self._add(event, early)
            self._install_pair(neighbour, event)
        except (BackendError, ValueError):
            # The route to the peer is gone, or the SPI that the peer chose is in use. Only this
            # link ends, and LinkClosed removes its SAs and policies.
            self.refused += 1
            self._links.close(event.overlay_address, now)
            return
        if event.usable:
            self._usable(event.overlay_address, neighbour, now)

    def _add(self, event: LinkEstablished, early: list[bytes]) -> _Neighbour:
        local = self._local_address(event.endpoint)
        security = LinkSecurity(self._free_reqid(), local.packed, event.endpoint.packed)
        policies = IpsecConfiguration(
            associations=(),
            policies=link_policies(self._own_address, event.overlay_address, security),
            local_addresses=(self._own_address,),
        )
        self._backend.install(policies)
        neighbour = _Neighbour(
            security, local, event.endpoint, event.endpoint, local, policies, early=early
        )
        self._neighbours[event.overlay_address] = neighbour
        return neighbour

    def _relocate(self, neighbour: _Neighbour, endpoint: Endpoint) -> bool:
        """Continue a link between other endpoints; return False if the backend cannot."""
        pairs = neighbour.pairs
        try:
            here = self._local_address(endpoint)
            moved = self._backend.relocate(list(pairs.values()), here, endpoint)
        except (BackendError, ValueError):
            return False
        if moved is None:
            return False
        neighbour.pairs = dict(zip(pairs, moved, strict=True))
        neighbour.here, neighbour.endpoint = here, endpoint
        if self._moves_addresses:
            neighbour.local, neighbour.nominal = here, endpoint
        return True

    def _renew_moved_keys(self, event: LinkEstablished, neighbour: _Neighbour, now: float) -> None:
        """Replace inbound SAs that still have the former outer address of a peer.

        A backend that moves outer addresses reports each of their packets as one from elsewhere.
        """
        if self._moves_addresses and event.keys.inbound_spi in neighbour.pairs:
            self._links.rekey(event.overlay_address, now, moved=True)

    def _free_reqid(self) -> int:
        """Return the next reqid that no link uses; after the last one they begin again."""
        used = {neighbour.security.reqid for neighbour in self._neighbours.values()}
        return next(reqid for reqid in self._reqids if reqid not in used)

    def _install_pair(self, neighbour: _Neighbour, event: LinkEstablished) -> None:
        """Install the pair's inbound SA, and its outbound SA if the link is usable."""
        found = neighbour.pairs.get(event.keys.inbound_spi)
        installed = found.associations if found is not None else ()
        lifetime = installed[0].lifetime if installed else None
        pair = link_associations(
            local=neighbour.local,
            remote=neighbour.nominal,
            endpoint=neighbour.endpoint,
            keys=event.keys,
            reqid=neighbour.security.reqid,
            tfc_pad_to=self._pad_to,
            lifetime=lifetime or self._lifetime(event.keys.suite),
        )
        wanted = (sa for sa in pair if sa.inbound or event.usable)
        known = {(sa.identity, sa.inbound) for sa in installed}
        fresh = tuple(sa for sa in wanted if (sa.identity, sa.inbound) not in known)
        if fresh:
            self._backend.install(IpsecConfiguration(fresh, ()))
        neighbour.pairs[event.keys.inbound_spi] = IpsecConfiguration((*installed, *fresh), ())
        if neighbour.datagram_bytes is not None:
            self._backend.limit_link(neighbour.security.reqid, neighbour.datagram_bytes)

    def _limited(self, event: LinkSizeFound) -> None:
        neighbour = self._neighbours.get(event.overlay_address)
        if neighbour is not None:
            neighbour.datagram_bytes = event.datagram_bytes
            self._backend.limit_link(neighbour.security.reqid, event.datagram_bytes)

    def _usable(self, address: OverlayAddress, neighbour: _Neighbour, now: float) -> None:
        if not neighbour.usable:
            neighbour.usable = True
            self._tfc.link_opened(LinkHandle(neighbour.security.reqid), now)
            self._circuits.link_established(address, neighbour.security, now)
            early, neighbour.early = neighbour.early, []
            if early:
                self._circuits.receive(early, now)

    def _sa_retired(self, event: LinkSaRetired) -> None:
        neighbour = self._neighbours.get(event.overlay_address)
        pair = neighbour.pairs.get(event.inbound_spi) if neighbour is not None else None
        if neighbour is not None and pair is not None:
            kept = tuple(sa for sa in pair.associations if sa.inbound)
            outbound = tuple(sa for sa in pair.associations if not sa.inbound)
            neighbour.pairs[event.inbound_spi] = IpsecConfiguration(kept, ())
            self._backend.remove(IpsecConfiguration(outbound, ()))

    def _sa_removed(self, event: LinkSaRemoved) -> None:
        neighbour = self._neighbours.get(event.overlay_address)
        if neighbour is not None:
            pair = neighbour.pairs.pop(event.inbound_spi, None)
            if pair is not None:
                self._backend.remove(pair)

    def _closed(self, address: OverlayAddress, now: float) -> None:
        neighbour = self._neighbours.pop(address, None)
        if neighbour is None:
            self._circuits.link_lost(address, now)
            return
        self._circuits.link_lost(address, now)
        self._tfc.link_closed(LinkHandle(neighbour.security.reqid))
        self._uninstall(neighbour)

    def _uninstall(self, neighbour: _Neighbour) -> None:
        for pair in neighbour.pairs.values():
            self._backend.remove(pair)
        self._backend.remove(neighbour.policies)
