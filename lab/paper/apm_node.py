"""Run one node of the chain: the product's links, neighbours and APM with the kernel's IPsec.

::

    UDP 4500 ──non-ESP marker──> Links ──events──> Neighbours ──> SAs and policies of links
    ControlSockets <──KernelTransport──> SignallingManager(s) ──> SAs and policies of circuits

It is the product's code without what the experiment does not need: DHT, path selection, kill switch
and exit policy. ``overlay.node.assembly`` is not used, because it builds one SignallingManager, and
the source of the experiment has one for each suite. All nodes of a chain live in one process, so
that only the kernel runs while packets are measured.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from ipaddress import IPv4Network
from random import Random
from typing import Final

from lab.namespaces import LabError, Namespace
from overlay.addresses import Endpoint, OverlayAddress, format_address
from overlay.apm.events import CircuitFailed, CircuitLost, CircuitOpened, LinkSilent, LinkWanted
from overlay.apm.inner_addresses import InnerAddressPool
from overlay.apm.settings import ApmSettings
from overlay.apm.signalling import SignallingManager
from overlay.apm.spi import SpiAllocator
from overlay.demultiplexer import Channel, demultiplex, frame
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role
from overlay.identity import LocalIdentity
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.backend import XfrmBackend
from overlay.ipsec.xfrm.encapsulation import decapsulate_esp
from overlay.link.events import LinkEstablished, LinkPeer
from overlay.link.links import Links
from overlay.link.security import LinkSecurity
from overlay.link.settings import LinkSettings
from overlay.neighbours import Neighbours
from overlay.node.shells.kernel_transport import CONTROL_PORTS, KernelTransport
from overlay.system.control_sockets import ControlSocket
from overlay.system.udp import UdpSocket, bound_socket
from overlay.tfc.none import NoTfc, NoTfcSettings

__all__ = ["PORT", "ApmNode"]

PORT: Final = 4500
_NETWORK_ID: Final = "paper"
_DAY_S: Final = 86_400.0
_LINKS: Final = LinkSettings(allow_private_endpoints=True, rekey_after_s=_DAY_S)
"""Limits that are so high that no link is rekeyed during a measurement."""


def _settings(suite: int) -> ApmSettings:
    """Return settings without keep-alives, rekeying and expiry of circuits during a measurement.

    As always, the first keys are replaced directly after the confirmation, and the first PINGs
    measure the round trip. After that the nodes do not even read counters.
    """
    return ApmSettings(
        esp_suite=suite,
        keepalive_interval_s=_DAY_S / 8,
        watch_interval_s=_DAY_S,
        idle_expiry_s=_DAY_S / 2,
        rekey_after_s=_DAY_S,
        rekey_spread_s=0.1,
        max_source_circuits=1000,
        setup_timeout_s=60.0,
        link_timeout_s=30.0,
        allow_private_endpoints=True,
    )


class _Managers:
    """The managers of a node, which use its links together (implements ``LinkUser``).

    ``linked`` has the neighbours to which a link is usable.
    """

    def __init__(self, managers: Mapping[int, SignallingManager]) -> None:
        self._managers = managers
        self.linked: set[OverlayAddress] = set()

    def receive(self, packets: Sequence[bytes], now: float) -> None:
        """Let every manager process the packets; it ignores those of other managers' circuits."""
        for manager in self._managers.values():
            manager.receive(packets, now)

    def link_established(
        self, overlay_address: OverlayAddress, security: LinkSecurity, now: float
    ) -> None:
        """Let every manager use the link."""
        self.linked.add(overlay_address)
        for manager in self._managers.values():
            manager.link_established(overlay_address, security, now)

    def link_lost(self, overlay_address: OverlayAddress, now: float) -> None:
        """End the experiment, because its links must last.

        Raises:
            LabError: always.
        """
        raise LabError(f"the link to {format_address(overlay_address)} ended at {now:.0f}.")

    def uses_link(self, overlay_address: OverlayAddress) -> bool:
        """Tell whether the link is usable; no link of the experiment becomes idle."""
        return overlay_address in self.linked


class ApmNode:
    """A node in a network namespace; :meth:`close` removes all of its state.

    The suite of circuits is a setting of the node. The source of the experiment uses several
    suites, so it has a manager for each, as if it had been restarted with another setting.
    """

    def __init__(
        self,
        namespace: Namespace,
        endpoint: Endpoint,
        *,
        pool: IPv4Network | None,
        suites: Sequence[int],
        rng: Random,
    ) -> None:
        """Build it.

        ``pool`` has the addresses that it lends as an exit, ``suites`` are those of its circuits.
        """
        self.identity = LocalIdentity.generate(rng)
        self.endpoint = endpoint
        self.opened: dict[tuple[int, int], CircuitOpened] = {}
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._bound = namespace.call(lambda: bound_socket(endpoint))
            self._port = stack.enter_context(UdpSocket(self._bound, aggregates=False))
            self._port.prepare(decapsulate_esp)
            self.backend = stack.enter_context(
                namespace.call(
                    lambda: XfrmBackend(rng=rng, experiment=True, routed=[pool] if pool else [])
                )
            )
            self._control = {
                port: stack.enter_context(namespace.call(partial(ControlSocket, port)))
                for port in CONTROL_PORTS
            }
            self._resources = stack.pop_all()
        spis = SpiAllocator(rng)
        lent = InnerAddressPool(pool, None, rng) if pool else None
        self.managers = {
            suite: SignallingManager(
                self.identity, self.backend, spis, _settings(suite), rng, lent, relay=True
            )
            for suite in suites
        }
        self.links = Links(self.identity, _NETWORK_ID, _LINKS, rng, spis.allocate, spis.release)
        self._transport = KernelTransport(self._control)
        self._users = _Managers(self.managers)
        self._neighbours = Neighbours(
            own_address=self.identity.overlay_address,
            links=self.links,
            backend=self.backend,
            circuits=self._users,
            tfc=NoTfc(NoTfcSettings(), rng),
            local_address=lambda _: endpoint,
            link_payload_bytes=0,  # it matters for padding, which this strategy does not do
        )

    @property
    def descriptor(self) -> MixDescriptor:
        """Return the node's descriptor, as a topology table would have it."""
        return MixDescriptor(
            network_id=_NETWORK_ID,
            identity_key=self.identity.identity_key,
            onion_keys=(OnionKey(1, self.identity.onion_key),),
            link_key=self.identity.link_key,
            esp_suites=tuple(SUITES),
            endpoints=(self.endpoint,),
            roles=frozenset({Role.RELAY, Role.EXIT}),
            exit_policy=None,
            bandwidth_kbit=0,
            sequence=1,
            valid_from=0,
            expires=2**31,
            encoded=b"",
        )

    @property
    def peer(self) -> LinkPeer:
        """The data that another node needs to open a link."""
        address = self.identity.overlay_address
        return LinkPeer(address, self.identity.link_key, self.endpoint)

    def has_link(self, peer: ApmNode) -> bool:
        """Tell whether a link is up and usable at this end."""
        return peer.identity.overlay_address in self._users.linked

    def sockets(self) -> list[socket.socket | ControlSocket]:
        """Return the sockets that are readable if :meth:`receive` has something to do."""
        return [self._bound, *self._control.values()]

    def close(self) -> None:
        """Remove everything from the kernel."""
        self._resources.close()

    # Input.

    def receive(self, now: float) -> None:
        """Process everything that has arrived at the sockets."""
        while batch := self._port.read_batch():
            self.links.receive(demultiplex(batch).link, now)
        self.settle(now)  # control traffic may come over a link that was confirmed just now
        for port, control in self._control.items():
            while datagrams := control.read_batch():
                arrived = self._transport.received(port, datagrams)
                self._users.receive(self._neighbours.ready(arrived.to_control), now)
        self.settle(now)

    # Timers and output.

    def next_deadline(self) -> float:
        """Return the time at which :meth:`handle_deadline` is due."""
        managers = min(manager.next_deadline() for manager in self.managers.values())
        return min(self.links.next_deadline(), managers)

    def handle_deadline(self, now: float) -> None:
        """Run the timers, then settle."""
        self.links.handle_deadline(now)
        for manager in self.managers.values():
            manager.handle_deadline(now)
        self.settle(now)

    def settle(self, now: float) -> None:
        """Process events and send datagrams until there are no more."""
        while self._round(now):
            pass

    def _round(self, now: float) -> bool:
        busy = False
        for event in self.links.events():
            busy = True
            if not isinstance(event, LinkEstablished):
                raise LabError(f"a link of the experiment failed: {event}")
            self._neighbours.handle(event, now)
        # Before packets over the link, because the peer accepts them once the link is confirmed.
        sent = [(frame(Channel.LINK, data), to) for data, to in self.links.datagrams_to_send(now)]
        if sent:
            self._port.send_batch(sent)
        for suite, manager in self.managers.items():
            for happened in manager.events():
                busy = True
                match happened:
                    case LinkWanted(peer=peer):
                        self.links.connect(peer, now)
                    case CircuitOpened():
                        self.opened[suite, happened.circuit] = happened
                    case CircuitFailed() | CircuitLost() | LinkSilent():
                        raise LabError(f"a circuit of the experiment failed: {happened}")
            packets = manager.packets_to_send(now)
            if packets:
                busy = True
                self._transport.send(packets, now)
        return busy
