"""Compile the SAD and the SPD into the next steps of packets, so that each flow is looked up once.

A :class:`CompiledSa` is an inbound SA together with the chain of SAs through which a packet
reached it. Its plan maps next header, addresses and SPI of the inner packet to the next step::

    link SA --(C0->V1, SPI of f1)--> onion SA f1 --(C1->V2, SPI of f2)--> tunnels: link SA
                                         chain (f1, link)

Of inbound packets, only steps for ESP in IPv6 are stored, which every packet in transit is. Of
outbound packets, the SAs for each pair of addresses and protocol are stored. The steps are a copy
of SAD and SPD, so any change to these discards all steps. The number of steps is limited, because
a peer could otherwise fill the memory; at the limit all are discarded too.
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

__all__ = ["MAX_STEPS", "STEP_KEY", "CompiledSa", "Outlet", "PolicyCompiler", "Step", "Tunnels"]

STEP_KEY: Final = slice(6, 44)
"""Bytes of an IPv6 packet with ESP: next header, hop limit, addresses and SPI."""

MAX_STEPS: Final = 16_384
"""Maximum number of stored steps, about 4 MB.

If a relay has more circuits than half of this, it repeatedly discards steps and decides again.
"""

Tunnels = tuple[OutboundSa, ...]
"""The SAs that seal a packet, innermost first; the last one is a link SA."""


class Outlet(enum.Enum):
    """The place to which a packet leaves the engine without being sealed."""

    CONTROL = "control"
    HOST = "host"
    EXIT = "exit"


class CompiledSa:
    """An inbound SA, the chain of SAs by which packets reach it, and the steps known so far."""

    __slots__ = ("association", "chain", "steps")

    def __init__(self, association: InboundSa, before: Chain) -> None:
        self.association = association
        self.chain: Chain = (association.template_key, *before)
        self.steps: dict[bytes, CompiledSa | Tunnels] = {}


Step = CompiledSa | Tunnels | Outlet | Drop
"""Open the packet with the next SA, seal it, pass it to an outlet, or drop it."""


class PolicyCompiler:
    """Decide the steps of packets from SAD, SPD and local addresses, and store them.

    The engine owns it and calls :meth:`forget` whenever one of the three changes.
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
        """Discard all stored steps."""
        self._known_steps = 0
        self._outbound.clear()
        self.links.clear()

    def steps(self) -> int:
        """Return the number of stored steps, at most :data:`MAX_STEPS`."""
        return len(self._outbound) + sum(_steps_after(link) for link in self.links.values())

    def link(self, spi: bytes) -> CompiledSa | None:
        """Return the link SA for the first four bytes of a datagram; None if there is none."""
        association = self._sad.inbound_links.get(int.from_bytes(spi, "big"))
        if association is None or len(spi) != 4:
            return None
        passage = self.links[spi] = CompiledSa(association, ())
        return passage

    def step(self, packet: bytes, passage: CompiledSa) -> Step:
        """Return the next step of a packet that ``passage.association`` opened."""
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
        """Return the SAs of the OUT policy for a valid packet of this host, or a reason to drop."""
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
            # This holds for inner addresses of this exit too: its rules apply between circuits.
            return Outlet.EXIT
        onward = self._spd.find(PolicyDirection.OUT, source, destination, protocol)
        # The circuit may be partly removed. Its packets must not leave the overlay unprotected.
        return Drop.OUT_POL_BLOCK if onward is None else self._tunnels(onward)

    def _tunnels(self, chain: Chain) -> Tunnels | Drop:
        tunnels = []
        for template in chain:
            association = self._sad.current(template[0])
            if association is None or association.template_key != template:
                return Drop.OUT_NO_STATES
            tunnels.append(association)
        # Only the last SA may have an endpoint: there is no socket for ESP without UDP, and
        # inner tunnels have no UDP header.
        if any((sa.endpoint is None) == (sa is tunnels[-1]) for sa in tunnels):
            return Drop.OUT_NO_STATES
        return tuple(tunnels)

    def _remember(self, packet: bytes, passage: CompiledSa, step: CompiledSa | Tunnels) -> None:
        if len(packet) < STEP_KEY.stop:
            return
        self._count_step()
        passage.steps[packet[STEP_KEY]] = step

    def _count_step(self) -> None:
        if self._known_steps == MAX_STEPS:
            self.forget()
        self._known_steps += 1


def _steps_after(passage: CompiledSa) -> int:
    """Return the number of steps of an SA and of those after it, MAX_TEMPLATES deep or less."""
    following = (step for step in passage.steps.values() if isinstance(step, CompiledSa))
    return len(passage.steps) + sum(_steps_after(step) for step in following)


def _is_ours(address: bytes) -> bool:
    return is_overlay_address(address) or is_circuit_address(address)


def _flow(packet: bytes) -> tuple[bytes, bytes, int, int]:
    """Return source, destination, next header and header size of a packet with a valid header."""
    if packet[0] >> 4 == 6:
        return packet[8:24], packet[24:40], packet[6], 40
    return packet[12:16], packet[16:20], packet[9], (packet[0] & 15) << 2
