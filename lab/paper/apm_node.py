"""Run one node of the chain: the product's links and APM with the kernel's IPsec.

::

    UDP 4500 ──non-ESP marker──> Links ──events──> SAs and policies of links
    UDP 6978, 4501 over IPv6 <──in and out of IPsec──> SignallingManager(s)
    kernel <── XfrmBackend <── SAs and policies of circuits

The code is that of a node without the parts that the experiment does not need: DHT, path selection
and exit policy. All nodes of a chain are in one process, so that only the kernel runs while packets
are measured.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network
from random import Random
from typing import Final

from lab.namespaces import LabError, Namespace
from overlay.addresses import Endpoint, OverlayAddress
from overlay.apm.carrier import SIGNALLING_PORT
from overlay.apm.control import CONTROL_PORT
from overlay.apm.datagram import UdpDatagram, build_datagram, parse_datagram
from overlay.apm.events import CircuitFailed, CircuitLost, CircuitOpened, LinkSilent, LinkWanted
from overlay.apm.inner_addresses import InnerAddressPool
from overlay.apm.settings import ApmSettings
from overlay.apm.signalling import SignallingManager
from overlay.apm.spi import SpiAllocator
from overlay.demultiplexer import Channel, demultiplex, frame
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role
from overlay.identity import LocalIdentity
from overlay.ipsec.interface import IpsecConfiguration, Spi
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.backend import XfrmBackend
from overlay.ipsec.xfrm.encapsulation import decapsulate_esp
from overlay.link.events import LinkEstablished, LinkEvent, LinkPeer
from overlay.link.links import Links
from overlay.link.security import LinkSecurity, link_associations, link_policies
from overlay.link.settings import LinkSettings
from overlay.system.udp import bound_socket

__all__ = ["PORT", "ApmNode"]

PORT: Final = 4500
_NETWORK_ID: Final = "paper"
_DAY_S: Final = 86_400.0
_IPV6_RECVPKTINFO: Final = 49
_IPV6_PKTINFO: Final = 50
_RECEIVE_BYTES: Final = 65_536

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


@dataclass(slots=True)
class _LinkUp:
    security: LinkSecurity
    inbound_spi: Spi
    installed: set[bool]
    usable: bool = False


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
        self._links_up: dict[OverlayAddress, _LinkUp] = {}
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._port = stack.enter_context(namespace.call(lambda: bound_socket(endpoint)))
            decapsulate_esp(self._port)
            self.backend = stack.enter_context(
                namespace.call(
                    lambda: XfrmBackend(rng=rng, experiment=True, routed=[pool] if pool else [])
                )
            )
            self._inside = {
                port: stack.enter_context(namespace.call(partial(_inside_socket, port)))
                for port in (SIGNALLING_PORT, CONTROL_PORT)
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
        link = self._links_up.get(peer.identity.overlay_address)
        return link is not None and link.usable

    def sockets(self) -> list[socket.socket]:
        """Return the descriptors that become readable when there is work to do."""
        return [self._port, *self._inside.values()]

    def close(self) -> None:
        """Remove everything from the kernel."""
        self._resources.close()

    # Input.

    def receive(self, now: float) -> None:
        """Process everything that waits in the sockets, then settle."""
        for data, sender in _datagrams(self._port):
            self.links.receive(demultiplex([(data, Endpoint(*sender[:2]))]).link, now)
        self.settle(now)  # what follows may come over a link that was confirmed just now
        for port, inside in self._inside.items():
            for message in _messages(inside, port):
                for manager in self.managers.values():
                    manager.receive([build_datagram(message)], now)
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
            self._link_event(event, now)
        # Before what follows over the link: the peer takes that once the link is confirmed.
        for payload, to in self.links.datagrams_to_send(now):
            self._port.sendto(frame(Channel.LINK, payload), tuple(to))
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
            for packet in manager.packets_to_send(now):
                busy = True
                self._send(parse_datagram(packet))
        return busy

    def _link_event(self, event: LinkEvent, now: float) -> None:
        if not isinstance(event, LinkEstablished):
            raise LabError(f"a link of the experiment failed: {event}")
        link = self._links_up.get(event.overlay_address)
        if link is None:
            link = self._links_up[event.overlay_address] = self._new_link(event)
        self._install(link, event)
        if event.usable and not link.usable:
            link.usable = True
            for manager in self.managers.values():
                manager.link_established(event.overlay_address, link.security, now)

    def _new_link(self, event: LinkEstablished) -> _LinkUp:
        reqid = 1 + len(self._links_up)
        security = LinkSecurity(reqid, self.endpoint.packed, event.endpoint.packed)
        own = self.identity.overlay_address
        policies = link_policies(own, event.overlay_address, security)
        self.backend.install(IpsecConfiguration((), policies, (own,)))
        return _LinkUp(security, event.keys.inbound_spi, set())

    def _install(self, link: _LinkUp, event: LinkEstablished) -> None:
        """Install the inbound SA, and the outbound SA if the link is usable."""
        pair = link_associations(
            local=self.endpoint,
            remote=event.endpoint,
            keys=event.keys,
            reqid=link.security.reqid,
        )
        wanted = [sa for sa in pair if sa.inbound or event.usable]
        fresh = tuple(sa for sa in wanted if sa.inbound not in link.installed)
        self.backend.install(IpsecConfiguration(fresh, ()))
        link.installed.update(sa.inbound for sa in fresh)

    def _send(self, message: UdpDatagram) -> None:
        source = (socket.IPPROTO_IPV6, _IPV6_PKTINFO, message.source + bytes(4))
        to = (socket.inet_ntop(socket.AF_INET6, message.destination), message.destination_port)
        self._inside[message.source_port].sendmsg([message.payload], [source], 0, to)


def _inside_socket(port: int) -> socket.socket:
    """Return a UDP socket for control traffic inside IPsec."""
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    made.bind(("::", port))
    made.settimeout(0)
    return made


def _datagrams(bound: socket.socket) -> list[tuple[bytes, tuple[str, int]]]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(bound.recvfrom(_RECEIVE_BYTES))
    return found


def _messages(inside: socket.socket, port: int) -> list[UdpDatagram]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            payload, ancillary, _, sender = inside.recvmsg(_RECEIVE_BYTES, 64)
            destination = next(data[:16] for _, kind, data in ancillary if kind == _IPV6_PKTINFO)
            source = socket.inet_pton(socket.AF_INET6, sender[0])
            found.append(UdpDatagram(source, destination, sender[1], port, payload))
    return found
