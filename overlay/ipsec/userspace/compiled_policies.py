"""Plans: what the databases mean for one kind of packet, decided once and then looked up.

A packet's way through this host is a walk over *passages*. A passage is an inbound SA as
reached through the SAs before it, so it stands for one chain; its plan maps the next header
and addresses, and the SPI of the packet inside, to the next step::

    link SA --(C0->V1, SPI of f1)--> onion SA f1 --(C1->V2, SPI of f2)--> tunnels: link SA
                                         chain (f1, link)

Inbound, only ESP in IPv6 is remembered: that is every packet in transit. Outbound, the SAs
that a pair of addresses and its protocol ask for are. A plan is a copy of what SAD and SPD
say, so any change to these makes the planner forget all, and so does the bound on its size,
which a peer could otherwise fill.
"""

from __future__ import annotations

import enum
from collections.abc import Container
from typing import Final

from overlay.addresses import is_circuit_address, is_overlay_address
from overlay.ipsec.esp import InboundSa, OutboundSa
from overlay.ipsec.headers import ESP, is_ipv4_fragment
from overlay.ipsec.interface import MAX_TEMPLATES, Drop, PolicyDirection
from overlay.ipsec.userspace.sad import SecurityAssociationDatabase
from overlay.ipsec.userspace.spd import Chain, SecurityPolicyDatabase

__all__ = ["PLAN_KEY", "CompiledSa", "Outlet", "PolicyCompiler", "Step", "Tunnels"]

PLAN_KEY: Final = slice(6, 44)
"""Next header, hop limit, addresses and SPI of an IPv6 packet that carries ESP."""

_MAX_STEPS: Final = 16_384
"""About 4 MB; a relay with more circuits than half of this forgets and decides again."""

Tunnels = tuple[OutboundSa, ...]
"""The SAs that seal a packet, innermost first; the last one is a link's."""


class Outlet(enum.Enum):
    """Where a packet leaves the engine unsealed."""

    CONTROL = "control"
    HOST = "host"
    EXIT = "exit"


class CompiledSa:
    """An inbound SA as reached by one chain of SAs, and the next steps known so far."""

    __slots__ = ("association", "chain", "plan")

    def __init__(self, association: InboundSa, before: Chain) -> None:
        self.association = association
        self.chain: Chain = (association.template_key, *before)
        self.plan: dict[bytes, CompiledSa | Tunnels] = {}


Step = CompiledSa | Tunnels | Outlet | Drop
"""Open it with the next SA, seal it, hand it over, or drop it."""


class PolicyCompiler:
    """Decide the steps of packets by SAD, SPD and local addresses, and remember them.

    It belongs to the engine, which calls :meth:`forget` whenever one of the three changes.
    """

    def __init__(
        self,
        sad: SecurityAssociationDatabase,
        spd: SecurityPolicyDatabase,
        local: Container[bytes],
    ) -> None:
        self._sad = sad
        self._spd = spd
        self._local = local
        self._known_steps = 0
        self._outbound: dict[tuple[bytes, bytes, int], Tunnels] = {}
        self.links: dict[bytes, CompiledSa] = {}

    def forget(self) -> None:
        """Drop every plan."""
        self._known_steps = 0
        self._outbound.clear()
        self.links.clear()

    def link(self, spi: bytes) -> CompiledSa | None:
        """Return the passage of the link SA with this SPI, as it stands in the datagram."""
        association = self._sad.inbound_links.get(int.from_bytes(spi, "big"))
        if association is None or len(spi) != 4:
            return None
        passage = self.links[spi] = CompiledSa(association, ())
        return passage

    def step(self, packet: bytes, passage: CompiledSa) -> Step:
        """Decide the next step of a packet that :attr:`CompiledSa.association` opened."""
        source, destination, protocol, header = _flow(packet)
        local = destination in self._local
        step: Step
        if protocol == ESP and local:
            step = self._onion(packet, passage, source, destination + packet[header : header + 4])
        elif local:
            return self._delivery(passage.chain, source, destination, protocol)
        else:
            step = self._forwarding(passage.chain, source, destination, protocol)
        if protocol == ESP and len(destination) == 16 and isinstance(step, CompiledSa | tuple):
            self._remember(packet, passage, step)
        return step

    def outbound(self, packet: bytes) -> Tunnels | Drop:
        """Return the SAs that the OUT policy of a sound packet of this host names."""
        flow = _flow(packet)[:3]
        known = self._outbound.get(flow)
        if known is not None:
            return known
        chain = self._spd.find(PolicyDirection.OUT, *flow)
        tunnels = Drop.OUT_POL_BLOCK if chain is None else self._tunnels(chain)
        if isinstance(tunnels, tuple):
            self._count_step()
            self._outbound[flow] = tunnels
        return tunnels

    def _onion(self, packet: bytes, passage: CompiledSa, source: bytes, key: bytes) -> Step:
        association = self._sad.inbound_onions.get(key)
        if association is None or (packet[0] >> 4 == 4 and is_ipv4_fragment(packet)):
            return Drop.IN_NO_STATES
        if association.value.source != source or len(passage.chain) == MAX_TEMPLATES:
            return Drop.IN_TMPL_MISMATCH
        return CompiledSa(association, passage.chain)

    def _delivery(self, chain: Chain, source: bytes, destination: bytes, protocol: int) -> Step:
        wanted = self._spd.find(PolicyDirection.IN, source, destination, protocol)
        if wanted != chain:
            return Drop.IN_NO_POLS if wanted is None else Drop.IN_TMPL_MISMATCH
        return Outlet.CONTROL if _is_ours(destination) else Outlet.HOST

    def _forwarding(self, chain: Chain, source: bytes, destination: bytes, protocol: int) -> Step:
        wanted = self._spd.find(PolicyDirection.FWD, source, destination, protocol)
        if wanted != chain:
            return Drop.IN_NO_POLS if wanted is None else Drop.IN_TMPL_MISMATCH
        if not _is_ours(destination):
            # Though it were an inner address lent here: the exit's rules stand between circuits.
            return Outlet.EXIT
        onward = self._spd.find(PolicyDirection.OUT, source, destination, protocol)
        # A circuit half torn down: what belongs inside the overlay never leaves it.
        return Drop.OUT_POL_BLOCK if onward is None else self._tunnels(onward)

    def _tunnels(self, chain: Chain) -> Tunnels | Drop:
        tunnels = []
        for template in chain:
            association = self._sad.current(template[0])
            if association is None or association.template_key != template:
                return Drop.OUT_NO_STATES
            tunnels.append(association)
        # There is no socket for ESP without UDP, and no UDP inside another tunnel.
        if any((sa.endpoint is None) == (sa is tunnels[-1]) for sa in tunnels):
            return Drop.OUT_NO_STATES
        return tuple(tunnels)

    def _remember(self, packet: bytes, passage: CompiledSa, step: CompiledSa | Tunnels) -> None:
        if len(packet) < PLAN_KEY.stop:
            return
        self._count_step()
        passage.plan[packet[PLAN_KEY]] = step

    def _count_step(self) -> None:
        if self._known_steps == _MAX_STEPS:
            self.forget()
        self._known_steps += 1


def _is_ours(address: bytes) -> bool:
    return is_overlay_address(address) or is_circuit_address(address)


def _flow(packet: bytes) -> tuple[bytes, bytes, int, int]:
    """Return source, destination, next header and header size of a packet with a sound header."""
    if packet[0] >> 4 == 6:
        return packet[8:24], packet[24:40], packet[6], 40
    return packet[12:16], packet[16:20], packet[9], (packet[0] & 15) << 2
