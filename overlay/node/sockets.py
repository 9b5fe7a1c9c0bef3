"""The node's UDP ports, one for each listening endpoint, as one network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from random import Random
from typing import Self

from overlay.addresses import Endpoint
from overlay.errors import BackendError
from overlay.node.port_forms import Marks, port_forms
from overlay.system.destination_guard import NODE_MARK
from overlay.system.local_address import local_address_towards
from overlay.system.port_program import Suspect
from overlay.system.udp import UdpPort, UdpSocket

__all__ = ["Sockets"]


class Sockets:
    """Owner of the ports; datagrams leave by the first one of their address family.

    ``ports`` lists them in the order of the configuration; ``marks`` are what the numbers that
    this node draws must have in common.
    """

    def __init__(self, listen: Sequence[Endpoint], network_id: str, rng: Random) -> None:
        self.marks = Marks.draw(rng)
        forms = port_forms(network_id, self.marks)
        self._stack = ExitStack()
        self.ports: list[UdpPort] = []
        self._by_version: dict[bool, UdpSocket] = {}
        try:
            for endpoint in listen:
                opened = self._stack.enter_context(UdpPort(endpoint, forms, mark=NODE_MARK))
                self.ports.append(opened)
                self._by_version.setdefault(_is_ipv6(endpoint), opened.esp)
        except BaseException:
            self._stack.close()
            raise

    def __iter__(self) -> Iterator[UdpSocket]:
        """Iterate over every socket: one or four for each port."""
        return (each for port in self.ports for each in port.sockets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def steer(self, suspects: Sequence[Suspect]) -> None:
        """Let doubtful ESP of these links under attack wait among the strangers."""
        for port in self.ports:
            port.steer(suspects)

    def send_batch(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send without waiting, each datagram by a socket of its address family."""
        for ipv6, each in self._by_version.items():
            each.send_batch([item for item in batch if (":" in item[1].host) is ipv6])

    def local_endpoint(self, peer: Endpoint) -> Endpoint:
        """Return our end of the UDP flow to ``peer``.

        Raises:
            BackendError: no route leads there, or we listen on the other address family only.
        """
        local = self._by_version.get(_is_ipv6(peer))
        if local is None:
            raise BackendError(
                "reaching a peer failed: this node listens on no such address family."
            )
        bound = local.local
        if not bound.address.is_unspecified:
            return bound
        return Endpoint(str(local_address_towards(peer, mark=NODE_MARK)), bound.port)

    def endpoints_towards(self, peers: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        """Return the endpoint under which the first reachable peer sees this node, if any."""
        for peer in peers:
            try:
                return (self.local_endpoint(peer),)
            except BackendError:
                continue
        return ()

    def counters(self) -> Counter[str]:
        """Return the sums over all sockets."""
        total: Counter[str] = Counter()
        for each in self:
            total.update({f"udp_{name}": count for name, count in each.counters.items()})
            total["udp_dropped_by_kernel"] += each.kernel_drops
        return +total  # without what is zero


def _is_ipv6(endpoint: Endpoint) -> bool:
    return ":" in endpoint.host
