"""The userspace IPsec engine: RFC 4301's processing of batches, without any I/O.

Inbound, for each datagram of :meth:`UserspaceEngine.process_inbound`::

    1 link SA by SPI, open
    2 while the packet is ESP for an address of ours: onion SA by (destination, SPI), open
      (the SAs passed are the packet's chain, innermost first)
    3 for an address of ours: the IN policy must want exactly this chain
        -> to_control (overlay and circuit addresses) or to_host
    4 for any other: the FWD policy must want exactly this chain, then
        what is for no overlay or circuit address leaves the overlay -> to_exit
    5 the OUT policy's templates seal it, innermost first, the link last -> to_network
      (in pieces if one datagram of the link does not hold it; they are joined after 1)

Outbound packets (:meth:`UserspaceEngine.process_outbound`) begin at 5. What has no OUT
policy goes nowhere. What fits no stage is dropped and counted; nothing raises. The
databases are asked once per flow: :mod:`overlay.ipsec.userspace.compiled_policies` remembers.
Steps and ciphers are kept for flows in use: every few seconds those of idle flows are removed
(:mod:`overlay.ipsec.userspace.cipher_cache`).

No hop limit is decremented: the tunnels of a circuit are one hop to what they carry, and a
count would tell an observer at the exit how many Mix-nodes there were.
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
    PLAN_KEY,
    CompiledSa,
    Outlet,
    PolicyCompiler,
    Step,
    Tunnels,
)
from overlay.ipsec.userspace.sad import SecurityAssociationDatabase, check_association
from overlay.ipsec.userspace.spd import SecurityPolicyDatabase, check_policy

__all__ = ["AttackedLink", "Processed", "UserspaceEngine"]


class AttackedLink(NamedTuple):
    """A link SA of which many packets were forged.

    ``peer`` is where its authentic packets come from, ``highest`` their highest sequence number.
    """

    spi: int
    peer: Endpoint
    highest: int


@dataclass(slots=True)
class Processed:
    """What a batch became; every list keeps the batch's order.

    ``to_network`` are ESP datagrams; ``to_control`` are IPv6 packets for an overlay or
    circuit address of this host, ``to_host`` are for its other addresses, ``to_exit`` leave
    the overlay here; ``deferred`` are ESP datagrams as they came. ``moved`` tells, for the SPI
    of a link SA, from where else than the peer's endpoint an authentic packet came last.
    """

    to_network: list[tuple[bytes, Endpoint]] = field(default_factory=list)
    to_control: list[bytes] = field(default_factory=list)
    to_host: list[bytes] = field(default_factory=list)
    to_exit: list[bytes] = field(default_factory=list)
    deferred: list[tuple[bytes, Endpoint]] = field(default_factory=list)
    moved: dict[int, Endpoint] = field(default_factory=dict)


class UserspaceEngine:
    """An :class:`~overlay.ipsec.interface.IpsecBackend` that is its own data path.

    Args:
        rng: ``random.SystemRandom()`` except in simulations; draws IVs.
        experiment: accept the suites that serve experiments alone (3DES).

    It owns both databases, the local addresses and the counters. Seconds of an SA's lifetime
    count from the first batch after its installation, for the engine has no clock.
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
        self._planner = PolicyCompiler(self._sad, self._spd, self._local)
        self._next_cooling = -math.inf
        self._attacked: dict[bytes, InboundSa] = {}
        self._rng = rng
        self._pieces = Pieces()

    # What IpsecBackend asks for.

    def capabilities(self) -> BackendCapabilities:
        """Tell what this backend can do."""
        return BackendCapabilities("userspace", self._suites, MAX_TEMPLATES, in_kernel=False)

    def install(self, configuration: IpsecConfiguration) -> None:
        """Install SAs, policies and addresses, all or nothing.

        Key material must be fresh: an SA's sequence numbers start anew with it.

        Raises:
            ValueError: an SA or policy with the same identity is installed, or a suite, key
                size, address or template count does not fit.
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
        self._planner.forget()
        for association in configuration.associations:
            self._sad.add(association)
        self._spd.add(configuration.policies)
        for address in configuration.local_addresses:
            self._local[address] = self._local.get(address, 0) + 1

    def remove(self, configuration: IpsecConfiguration) -> None:
        """Remove what :meth:`install` of the same value installed; absent parts are no error.

        An address stays while another configuration holds it. It is released if any SA or
        policy of this one was still there (or if it has none), so that removing twice is
        harmless.
        """
        self._planner.forget()
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
        """Let the link SAs of some configurations go on with another endpoint of the peer.

        Keys, sequence numbers and counters stay. Policies name the SAs by their addresses as
        before: only datagrams go elsewhere.

        Args:
            pairs: what :meth:`install` or this installed.
            local: where this node is now.
            remote: where the peer is now.

        Returns:
            What is installed now, in the same order.

        Raises:
            ValueError: an outbound SA to that endpoint is the same. The configurations before the
                one concerned have moved then.
        """
        self._planner.forget()
        return [
            replace(pair, associations=self._sad.relocate(pair.associations, remote))
            for pair in pairs
        ]

    def limit_link(self, reqid: int, datagram_bytes: int) -> None:
        """Let the installed link SAs of this reqid make no larger datagrams (SPI to ICV)."""
        self._sad.limit(reqid, datagram_bytes)

    def query(self, identity: SaIdentity) -> SaCounters | None:
        """Return the counters of an SA, or None if it is not installed."""
        association = self._sad.get(identity)
        return None if association is None else association.counters()

    def flush(self) -> None:
        """Remove every SA, policy and address; the drop counters stay."""
        self._planner.forget()
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

    # What the node drains.

    def drops(self) -> dict[Drop, int]:
        """Return how many packets were dropped so far, by reason."""
        return dict(self._drops)

    def association_counts(self) -> dict[str, int]:
        """Return how many SAs are installed, by kind, for the node's owner."""
        return {
            "link SAs": self._sad.count(links=True),
            "onion SAs": self._sad.count(links=False),
        }

    @property
    def has_soft_expired(self) -> bool:
        """Whether :meth:`soft_expired` has news: to be asked after every batch."""
        return bool(self._soft_expired)

    def soft_expired(self) -> list[SaIdentity]:
        """Return, once each, the SAs that want to be replaced since the last call."""
        expired = self._soft_expired.copy()
        self._soft_expired.clear()
        return expired

    # The data path.

    def process_inbound(
        self,
        datagrams: Sequence[tuple[bytes, Endpoint]],
        now: float,
        *,
        defer_doubtful: bool = False,
    ) -> Processed:
        """Process ESP datagrams of the network.

        Where a datagram came from proves nothing: its SPI and ICV tell (NAT may move a peer).

        Args:
            datagrams: with their senders.
            now: Unix seconds.
            defer_doubtful: return unopened what comes for a link SA under attack from another
                endpoint than its last authentic packet did, or with a number far from that
                packet's. It is probably garbage, and to find that out costs half as much as to
                carry a packet.
        """
        self._begin(now)
        processed = Processed()
        links = self._planner.links
        attacked = self._attacked if defer_doubtful else {}
        for datagram, source in datagrams:
            spi = datagram[:4]
            passage = links.get(spi) or self._planner.link(spi)
            if passage is None:
                self._drop(Drop.IN_NO_STATES)
                continue
            link = passage.association
            # Without an attack this costs the common packet one test of an empty dictionary.
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
        """Return the link SAs under attack that are installed."""
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
        """Seal plain IP packets of this host into the tunnels that their OUT policy names."""
        self._begin(now)
        processed = Processed()
        for packet in packets:
            length = packet_length(packet, len(packet))
            tunnels = self._planner.outbound(packet) if length else Drop.OUT_ERROR
            if isinstance(tunnels, Drop):
                self._drop(tunnels)
            else:
                self._leave(packet[:length], tunnels, processed, now)
        return processed

    def dummy(self, reqid: int, now: float) -> tuple[bytes, Endpoint] | None:
        """Return one dummy packet (RFC 4303, 2.6) for a link, None if the link cannot send."""
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
        """What the first batch after a while does beforehand."""
        self._sad.start_lifetimes(now)
        if now >= self._next_cooling:
            self._next_cooling = now + COOLING_S
            self._sad.cool_idle(now)
            self._planner.forget()

    def _enter(self, packet: bytes, passage: CompiledSa, processed: Processed, now: float) -> None:
        """Stages 2 to 4: follow the plan through this host."""
        while True:
            step: Step | None = None
            if packet[0] >> 4 == 6:
                header = 40
                step = passage.plan.get(packet[PLAN_KEY])
            else:
                header = (packet[0] & 15) << 2
            if step is None:
                # The entry of a link cuts, so what an onion SA brings is no piece. Whoever makes
                # such packets could otherwise fill this host's memory from afar.
                association = passage.association
                if association.home is not None and is_piece(packet):
                    whole = self._pieces.add(association.value.reqid, packet, now)
                    if whole is None:
                        return None
                    packet = whole
                    continue
                step = self._planner.step(packet, passage)
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
        """Stages 3 and 5 for what leaves the engine unsealed."""
        if isinstance(outlet, Drop):
            self._drop(outlet)
        elif outlet is Outlet.CONTROL:
            processed.to_control.append(packet)
        elif outlet is Outlet.HOST:
            processed.to_host.append(packet)
        else:
            processed.to_exit.append(packet)

    def _leave(self, packet: bytes, tunnels: Tunnels, processed: Processed, now: float) -> None:
        """Stage 5."""
        next_header = IPV6 if packet[0] >> 4 == 6 else IPV4
        for association in tunnels:
            if len(packet) > association.largest:  # a link's, which is the last one
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
        """Seal the pieces of a packet that one datagram of the link does not hold."""
        size = len(pieces[0])
        for piece in pieces:
            # TFC padding (RFC 4303, section 2.7) lets all datagrams have one size.
            sealed = link.seal(piece.ljust(size, b"\0"), IPV6, now)
            if not isinstance(sealed, bytes):
                return self._drop(sealed)
            if link.endpoint is not None:
                processed.to_network.append((sealed, link.endpoint))
        return None

    def _drop(self, drop: Drop) -> None:
        self._drops[drop] = self._drops.get(drop, 0) + 1
