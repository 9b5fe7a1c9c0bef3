"""The UDP ports of a node, one for each endpoint in ``listen``, as one network."""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from random import Random
from typing import Final, Self

from overlay.addresses import Endpoint, version_of
from overlay.errors import BackendError
from overlay.logs import EventLog
from overlay.node.shells.port_forms import Marks, port_forms
from overlay.system.kill_switch import NODE_MARK
from overlay.system.local_address import local_address_towards
from overlay.system.port_program import PortForms, Suspect
from overlay.system.return_addresses import ReturnAddresses
from overlay.system.udp import UdpPort, UdpSocket, VersionMissing, bound_socket

__all__ = ["Sockets"]

_log = EventLog(__name__)

_MOST_APART: Final = 8
"""Ports of probes that stay open; at most 20 probes are sent in a second."""


class Sockets:
    """All ports; a datagram leaves through the first one of its IP version.

    ``ports`` lists them in the order of the configuration. ``marks`` are the marks of SPIs and
    other numbers that this node draws, by which the kernel recognises them.
    """

    def __init__(self, listen: Sequence[Endpoint], network_id: str, rng: Random) -> None:
        self.marks = Marks.draw(rng)
        forms = port_forms(network_id, self.marks)
        self._stack = ExitStack()
        self._apart: deque[socket.socket] = deque()
        self.ports: list[UdpPort] = []
        self._by_version: dict[bool, UdpSocket] = {}
        self._addresses = {version: ReturnAddresses(version) for version in (4, 6)}
        try:
            for endpoint in listen:
                self._open(endpoint, forms, is_last=endpoint == listen[-1])
        except BaseException:
            self._stack.close()
            raise

    def _open(self, endpoint: Endpoint, forms: PortForms, *, is_last: bool) -> None:
        try:
            addresses = self._addresses[version_of(endpoint)]
            wildcard = endpoint.address.is_unspecified
            port = UdpPort(
                endpoint,
                forms,
                mark=NODE_MARK,
                addresses=addresses if wildcard else None,
            )
        except VersionMissing:
            if not endpoint.address.is_unspecified or (is_last and not self.ports):
                raise
            return  # a kernel without this IP version has nothing to listen on
        self.ports.append(self._stack.enter_context(port))
        self._by_version.setdefault(_is_ipv6(endpoint), port.esp)

    def __iter__(self) -> Iterator[UdpSocket]:
        """Iterate over every socket: one or four for each port."""
        return (each for port in self.ports for each in port.sockets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._apart:
            self._apart.popleft().close()
        self._stack.close()

    def steer(self, suspects: Sequence[Suspect]) -> None:
        """Let doubtful ESP of links under attack wait in the queue of unknown senders."""
        for port in self.ports:
            port.steer(suspects)

    def send_batch(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send without waiting, each datagram through a socket of its IP version."""
        for ipv6, each in self._by_version.items():
            each.send_batch([item for item in batch if (":" in item[1].host) is ipv6])

    def send_whole(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send datagrams that neither this host nor a router may fragment, without waiting."""
        for ipv6, each in self._by_version.items():
            each.send_whole([item for item in batch if (":" in item[1].host) is ipv6])

    def send_apart(self, datagram: bytes, to: Endpoint) -> None:
        """Send two copies of a datagram from a port of its own, because one may be lost.

        The port is closed after the next few ports of this kind. An answer to a port that is
        closed at once would make this host send an ICMP error. A datagram that the host refuses is
        not sent.
        """
        local = self._by_version.get(_is_ipv6(to))
        if local is None:
            return
        try:
            once = bound_socket(Endpoint(local.local.host, 0), mark=NODE_MARK)
            if len(self._apart) >= _MOST_APART:
                self._apart.popleft().close()
            self._apart.append(once)
            for _ in range(2):
                once.sendto(datagram, to)
        except (BackendError, OSError):
            _log.debug("reachability.probe_not_sent")

    def local_endpoint(self, peer: Endpoint) -> Endpoint:
        """Return the local endpoint of datagrams to ``peer``.

        Raises:
            BackendError: no route leads there, or the node listens on the other IP version only.
        """
        local = self._by_version.get(_is_ipv6(peer))
        if local is None:
            raise BackendError(
                "reaching a peer failed: this node listens on no such address family."
            )
        bound = local.local
        if not bound.address.is_unspecified:
            return bound
        chosen = self._addresses[version_of(peer)].towards(peer)
        if chosen is not None:
            return Endpoint.from_packed(chosen, bound.port)
        return Endpoint(str(local_address_towards(peer, mark=NODE_MARK)), bound.port)

    def follow(self, own: Collection[Endpoint], advertised: Sequence[Endpoint]) -> None:
        """Use the endpoints of this host: a wildcard port answers from the one that was asked.

        Datagrams to a peer that has not sent any leave from the first of ``advertised`` that is an
        address of this host.
        """
        for version, addresses in self._addresses.items():
            here = {
                each.packed
                for each in own
                if version_of(each) == version
                and not (each.address.is_loopback or each.address.is_link_local)
            }
            usual = (each.packed for each in advertised if version_of(each) == version)
            addresses.follow(here, next((each for each in usual if each in here), None))
        for each in self:
            each.follow_addresses()

    def bound(self) -> list[Endpoint]:
        """Return the endpoints that the ports are bound to."""
        return [port.esp.local for port in self.ports]

    def counters(self) -> Counter[str]:
        """Return the sums over all sockets."""
        total: Counter[str] = Counter()
        for each in self:
            total.update({f"udp_{name}": count for name, count in each.counters.items()})
            total["udp_dropped_by_kernel"] += each.kernel_drops
        return +total  # without counters that are zero


def _is_ipv6(endpoint: Endpoint) -> bool:
    return ":" in endpoint.host
