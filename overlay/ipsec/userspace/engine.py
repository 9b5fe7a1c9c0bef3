"""The userspace IPsec engine: process batches of packets as in RFC 4301, without any I/O.

Inbound, for each datagram of :meth:`UserspaceEngine.process_inbound`::

    1 link SA by SPI, open
    2 while the packet is ESP for a local address: find onion SA by (destination, SPI), open
      (the SAs used so far are the chain of the packet, innermost first)
    3 packet for a local address: the chain must equal that of the IN policy
        -> to_control (overlay and circuit addresses) or to_host
    4 any other packet: the chain must equal that of the FWD policy, then
        a packet for no overlay or circuit address leaves the overlay -> to_exit
    5 seal with the templates of the OUT policy, innermost first, the link last -> to_network
      (in pieces if one datagram of the link is too small; the peer joins them after 1)

Outbound packets (:meth:`UserspaceEngine.process_outbound`) begin at 5. A packet without an OUT
policy, or one that fails in a stage, is dropped and counted; no packet raises an exception. The
databases are searched once per flow, because :mod:`overlay.ipsec.userspace.compiled_policies`
stores the result. Every few seconds all stored steps are discarded, and the ciphers of idle onion
SAs are released (:mod:`overlay.ipsec.userspace.cipher_cache`).

The hop limit is not decremented. The tunnels of a circuit count as one hop for inner packets, and
the hop limit would tell an observer at the exit the number of Mix-nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import NamedTuple

from overlay.addresses import Endpoint
from overlay.ipsec.esp import InboundSa, OutboundSa
from overlay.ipsec.headers import IPV4, IPV6, packet_length
from overlay.ipsec.interface import (
    MAX_TEMPLATES,
    BackendCapabilities,
    Drop,
    IpsecConfiguration,
    SaCounters,
    SaIdentity,
)
from overlay.ipsec.pieces import Pieces, cut, is_piece
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.cipher_cache import COOLING_S
from overlay.ipsec.userspace.compiled_policies import (
    STEP_KEY,
    CompiledSa,
    Outlet,
    PolicyCompiler,
    Step,
    Tunnels,
)
from overlay.ipsec.userspace.contents import EngineContents
from overlay.ipsec.userspace.sad import SecurityAssociationDatabase, check_association
from overlay.ipsec.userspace.spd import SecurityPolicyDatabase, check_policy

__all__ = ["AttackedLink", "Processed", "UserspaceEngine"]


class AttackedLink(NamedTuple):
    """A link SA for which many forged packets came.

    ``peer`` is the endpoint of the last authentic packet, ``highest`` the highest authentic
    sequence number.
    """

    spi: int
    peer: Endpoint
    highest: int


@dataclass(slots=True)
class Processed:
    """The results of a batch; every list keeps the order of the batch.

    ``to_network`` has ESP datagrams to send. ``to_control`` has IPv6 packets for an overlay or
    circuit address of this host, and ``to_host`` has packets for its other addresses. Packets in
    ``to_exit`` leave the overlay here. ``deferred`` has unopened ESP datagrams. ``moved`` maps
    the SPI of a link SA to the source of its last authentic packet, if that was not the peer's
    configured endpoint.
    """

    to_network: list[tuple[bytes, Endpoint]] = field(default_factory=list)
    to_control: list[bytes] = field(default_factory=list)
    to_host: list[bytes] = field(default_factory=list)
    to_exit: list[bytes] = field(default_factory=list)
    deferred: list[tuple[bytes, Endpoint]] = field(default_factory=list)
    moved: dict[int, Endpoint] = field(default_factory=dict)


# Large: the protocol PacketEngine has these methods.
class UserspaceEngine:
    """An :class:`~overlay.ipsec.interface.IpsecBackend` that processes packets itself.

    Args:
        rng: source of randomness, for IVs among others; ``random.SystemRandom()`` except in
            simulations.
        experiment: accept suites that are only for experiments (3DES).

    It owns both databases, the local addresses and the counters. The lifetime of an SA in seconds
    starts at the first batch after its installation, because the engine has no clock.
    """

    def __init__(self, *, rng: Random, experiment: bool = False) -> None:
        self._suites = frozenset(
            number for number, suite in SUITES.items() if experiment or not suite.experiment
        )
        self._soft_expired: list[SaIdentity] = []
        self._sad = SecurityAssociationDatabase(rng, self._soft_expired.append)
        self._spd = SecurityPolicyDatabase()
        self._local: dict[bytes, int] = {}
        self._drops: dict[Drop, int] = {}
        self._compiler = PolicyCompiler(self._sad, self._spd, self._local)
        self._next_cooling = -math.inf
        self._attacked: dict[bytes, InboundSa] = {}
        self._rng = rng
        self._pieces = Pieces()

    # Methods of IpsecBackend.

    def capabilities(self) -> BackendCapabilities:
        """Return the capabilities of this backend."""
        return BackendCapabilities(
            "userspace",
            self._suites,
            MAX_TEMPLATES,
            sends_pieces=True,
            separates_directions=True,
        )

    def install(self, configuration: IpsecConfiguration) -> None:
        """Install all SAs, policies and addresses, or none of them.

        Key material must be new, because the sequence numbers of an SA start again with it.

        Raises:
            ValueError: an SA or policy with the same identity is installed, or a suite, key
                size, address or number of templates is not valid.
        """
        for association in configuration.associations:
            check_association(association, self._suites)
        for policy in configuration.policies:
            check_policy(policy)
        for address in configuration.local_addresses:
            if len(address) not in (4, 16):
                raise ValueError("A local address must be a packed one, of 4 or 16 bytes.")
        self._sad.check_new(configuration.associations)
        self._spd.check_new(configuration.policies)
        self._compiler.forget()
        for association in configuration.associations:
            self._sad.add(association)
        self._spd.add(configuration.policies)
        for address in configuration.local_addresses:
            self._local[address] = self._local.get(address, 0) + 1

    def remove(self, configuration: IpsecConfiguration) -> None:
        """Remove what :meth:`install` installed for the same value; absent parts are no error.

        An address stays while another configuration has it. To make a second removal harmless,
        addresses are released only if an SA or policy was removed, or if there are none.
        """
        self._compiler.forget()
        removed = [self._sad.discard(association) for association in configuration.associations]
        removed += [self._spd.discard(policy) for policy in configuration.policies]
        if any(removed) or not removed:
            for address in configuration.local_addresses:
                self._release(address)

    def relocate(
        self,
        pairs: Sequence[IpsecConfiguration],
        local: Endpoint,  # noqa: ARG002 - the node's socket chooses it for each datagram
        remote: Endpoint,
    ) -> list[IpsecConfiguration]:
        """Move the link SAs of some configurations to another endpoint of the peer.

        Keys, sequence numbers and counters stay. Policies still name the SAs by the same outer
        addresses; only the endpoint of the datagrams changes.

        Args:
            pairs: configurations as :meth:`install` or this method installed them.
            local: the current endpoint of this node.
            remote: the current endpoint of the peer.

        Returns:
            The configurations that are installed now, in the same order.

        Raises:
            ValueError: another outbound SA has the same identity and this endpoint. The
                configurations before that one have moved already.
        """
        self._compiler.forget()
        return [
            replace(pair, associations=self._sad.relocate(pair.associations, remote))
            for pair in pairs
        ]

    def limit_link(self, reqid: int, datagram_bytes: int) -> None:
        """Limit the ESP packets (SPI to ICV) of the installed link SAs with this ``reqid``."""
        self._sad.limit(reqid, datagram_bytes)

    def query(self, identity: SaIdentity) -> SaCounters | None:
        """Return the counters of an SA, or None if it is not installed."""
        association = self._sad.get(identity)
        return None if association is None else association.counters()

    def flush(self) -> None:
        """Remove every SA, policy and address; the drop counters stay."""
        self._compiler.forget()
        self._sad.clear()
        self._spd.clear()
        self._local.clear()
        self._soft_expired.clear()

    def _release(self, address: bytes) -> None:
        holders = self._local.get(address, 0)
        if holders > 1:
            self._local[address] = holders - 1
        else:
            self._local.pop(address, None)

    # Counters and events for the node.

    def drops(self) -> dict[Drop, int]:
        """Return the number of packets dropped so far for each reason."""
        return dict(self._drops)

    def association_counts(self) -> dict[str, int]:
        """Return the number of installed SAs of each kind, for reports to the operator."""
        return {
            "link SAs": self._sad.count(links=True),
            "onion SAs": self._sad.count(links=False),
        }

    def contents(self) -> EngineContents:
        """Return everything that the engine holds, for the examination of a node."""
        return EngineContents(
            associations=tuple(self._sad.associations()),
            local_addresses=tuple(self._local),
            policies=len(self._spd),
            policy_links=self._spd.links(),
            ciphers=len(self._sad.ciphers),
            compiled_links=len(self._compiler.links),
            steps=self._compiler.steps(),
        )

    @property
    def has_soft_expired(self) -> bool:
        """Whether :meth:`soft_expired` has SAs to return; check it after every batch."""
        return bool(self._soft_expired)

    def soft_expired(self) -> list[SaIdentity]:
        """Return the SAs that passed a soft limit since the last call, each only once."""
        expired = self._soft_expired.copy()
        self._soft_expired.clear()
        return expired

    # Processing of packets.

    def process_inbound(
        self,
        datagrams: Sequence[tuple[bytes, Endpoint]],
        now: float,
        *,
        defer_doubtful: bool = False,
    ) -> Processed:
        """Process ESP datagrams from the network.

        The SA is found by SPI alone and the ICV authenticates the datagram. The source endpoint
        proves nothing, and it may change if the peer is behind NAT.

        Args:
            datagrams: datagrams with the endpoints of their senders.
            now: Unix seconds.
            defer_doubtful: do not open doubtful datagrams for a link SA under attack, but return
                them in ``deferred``. A datagram is doubtful if its source is not that of the last
                authentic packet, or if its sequence number is far from the highest one. Most such
                datagrams are forged, and opening one costs half as much as carrying a packet.
        """
        self._begin(now)
        processed = Processed()
        links = self._compiler.links
        attacked = self._attacked if defer_doubtful else {}
        for datagram, source in datagrams:
            spi = datagram[:4]
            passage = links.get(spi) or self._compiler.link(spi)
            if passage is None:
                self._drop(Drop.IN_NO_STATES)
                continue
            link = passage.association
            # Without an attack this costs each packet only the test of an empty dictionary.
            if attacked and spi in attacked and (source != link.peer or not link.is_near(datagram)):
                processed.deferred.append((datagram, source))
                continue
            packet = link.open(datagram, 0, now)
            if isinstance(packet, bytes):
                link.peer = source
                if source != link.home:
                    processed.moved[link.value.spi] = source
                self._enter(packet, passage, processed, now)
            else:
                self._drop(packet)
                if packet is Drop.IN_STATE_PROTO_ERROR and link.is_attacked:
                    self._attacked[spi] = link
        return processed

    def attacked_links(self) -> list[AttackedLink]:
        """Return the installed link SAs that are under attack."""
        if not self._attacked:
            return []
        installed = self._sad.inbound_links
        self._attacked = {
            spi: link
            for spi, link in self._attacked.items()
            if installed.get(link.value.spi) is link
        }
        return [
            AttackedLink(link.value.spi, link.peer, link.highest)
            for link in self._attacked.values()
            if link.peer is not None
        ]

    def process_outbound(self, packets: Sequence[bytes], now: float) -> Processed:
        """Seal IP packets of this host into the tunnels of their OUT policy."""
        self._begin(now)
        processed = Processed()
        for packet in packets:
            length = packet_length(packet, len(packet))
            tunnels = self._compiler.outbound(packet) if length else Drop.OUT_ERROR
            if isinstance(tunnels, Drop):
                self._drop(tunnels)
            else:
                self._leave(packet[:length], tunnels, processed, now)
        return processed

    def dummy(self, reqid: int, now: float) -> tuple[bytes, Endpoint] | None:
        """Return one dummy packet (RFC 4303, 2.6) for a link; None if the link cannot send."""
        self._begin(now)
        link = self._sad.current(reqid)
        if link is None or link.endpoint is None:
            self._drop(Drop.OUT_NO_STATES)
            return None
        sealed = link.seal_dummy(now)
        if isinstance(sealed, bytes):
            return sealed, link.endpoint
        self._drop(sealed)
        return None

    def _begin(self, now: float) -> None:
        """Start lifetimes of new SAs, and every :data:`COOLING_S` release what is idle."""
        self._sad.start_lifetimes(now)
        if now >= self._next_cooling:
            self._next_cooling = now + COOLING_S
            self._sad.cool_idle(now)
            self._compiler.forget()

    def _enter(self, packet: bytes, passage: CompiledSa, processed: Processed, now: float) -> None:
        """Process stages 2 to 4: follow the compiled steps of an opened packet."""
        while True:
            step: Step | None = None
            if packet[0] >> 4 == 6:
                header = 40
                step = passage.steps.get(packet[STEP_KEY])
            else:
                header = (packet[0] & 15) << 2
            if step is None:
                # Join pieces only if a link SA brought them, because only the entry of a link
                # cuts packets. Otherwise remote nodes could fill the memory through onion SAs.
                association = passage.association
                if association.home is not None and is_piece(packet):
                    whole = self._pieces.add(association.value.reqid, packet, now)
                    if whole is None:
                        return None
                    packet = whole
                    continue
                step = self._compiler.step(packet, passage)
            if isinstance(step, tuple):
                return self._leave(packet, step, processed, now)
            if not isinstance(step, CompiledSa):
                return self._hand_over(packet, step, processed)
            passage = step
            opened = passage.association.open(packet, header, now)
            if not isinstance(opened, bytes):
                return self._drop(opened)
            packet = opened

    def _hand_over(self, packet: bytes, outlet: Outlet | Drop, processed: Processed) -> None:
        """Pass a packet that leaves the engine unsealed to its outlet, or drop it (3 and 4)."""
        if isinstance(outlet, Drop):
            self._drop(outlet)
        elif outlet is Outlet.CONTROL:
            processed.to_control.append(packet)
        elif outlet is Outlet.HOST:
            processed.to_host.append(packet)
        else:
            processed.to_exit.append(packet)

    def _leave(self, packet: bytes, tunnels: Tunnels, processed: Processed, now: float) -> None:
        """Process stage 5: seal a packet, and send it to the endpoint of the link."""
        next_header = IPV6 if packet[0] >> 4 == 6 else IPV4
        for association in tunnels:
            if len(packet) > association.largest:  # only link SAs have a limit below 65,535
                pieces = cut(packet, association.largest, self._rng.getrandbits(32))
                if pieces is not None:
                    return self._send_pieces(pieces, association, processed, now)
            sealed = association.seal(packet, next_header, now)
            if not isinstance(sealed, bytes):
                return self._drop(sealed)
            packet = sealed
            next_header = association.outer_next_header
        if association.endpoint is not None:
            processed.to_network.append((packet, association.endpoint))
        return None

    def _send_pieces(
        self, pieces: list[bytes], link: OutboundSa, processed: Processed, now: float
    ) -> None:
        """Seal the pieces of a packet that is too large for one datagram of the link."""
        size = len(pieces[0])
        for piece in pieces:
            # TFC padding (RFC 4303, section 2.7) gives all these datagrams the same size.
            sealed = link.seal(piece.ljust(size, b"\0"), IPV6, now)
            if not isinstance(sealed, bytes):
                return self._drop(sealed)
            if link.endpoint is not None:
                processed.to_network.append((sealed, link.endpoint))
        return None

    def _drop(self, drop: Drop) -> None:
        self._drops[drop] = self._drops.get(drop, 0) + 1
