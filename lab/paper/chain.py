"""Build the paper's platform (Figure 6): five nodes in a chain, three fast links and a slow one.

::

    node 0 ──100── node 1 ──100── node 2 ──100── node 3 ──10── node 4 ──── destination
    source         mix 1          mix 2          mix 3         mix 4

Rates are in Mbit/s. Each node has links only to its neighbours in the chain. So a circuit of k hops
ends k links away, and its packets continue to the destination in the clear. netem delays each
packet for the time that a cable of that rate needs to transmit it. A token bucket would let single
packets pass at once. The destination is connected to the last node by a cable without a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network
from typing import Final, Self

from lab.namespaces import LabError, Namespace, netem_missing

__all__ = ["PAPER_RATES", "Chain", "destination_address", "inner_pool", "node_address"]

PAPER_RATES: Final = ("rate 100mbit", "rate 100mbit", "rate 100mbit", "rate 10mbit")
"""netem's options for each link, the source's first."""

_QUIET: Final = {"ipv6__conf__default__accept_dad": 0, "ipv4__ip_forward": 1}
_FORWARD_V6: Final = {"ipv6__conf__all__forwarding": 1}
_QUEUE_PACKETS: Final = 10_000

_LOOP: Final = (
    # Without ARP, the sender uses its own address as the destination, so both ends have the same.
    "link add cut address 02:00:00:00:00:01 type veth peer name whole address 02:00:00:00:00:01",
    "link set cut arp off up",
    "link set whole arp off up",
    "route add default via 10.6.0.2 table 100",
    "rule add iif whole lookup 100",
)
"""A cable from the source to itself. Packets of programs are fragmented at ``cut``, and arrive at
``whole`` as if another host had sent them."""


def node_address(node: int) -> IPv4Address:
    """Return the underlay address of a node, at which its links begin and end."""
    return IPv4Address(f"10.6.100.{node}")


def inner_pool(node: int) -> IPv4Network:
    """Return the inner addresses that an exit lends; other nodes route them back to it."""
    return IPv4Network(f"100.{64 + node}.0.0/16")


def destination_address(group: int, tunnels: int) -> IPv4Address:
    """Return one of the destination's addresses; each circuit has a different one.

    They are from the range for benchmarks (RFC 2544). So all circuits can be open at once, and the
    address of a packet determines its circuit.
    """
    return IPv4Address(f"198.18.{group}.{tunnels + 1}")


_BENCHMARK_NETWORK: Final = IPv4Network("198.18.0.0/16")


class Chain:
    """Own the nodes' namespaces and cables; a context manager that removes them at its end."""

    def __init__(
        self, netem: Sequence[str] = PAPER_RATES, *, groups: int = 1, wire_packets: bool = False
    ) -> None:
        """Build it.

        Args:
            netem: options of netem for each link, in both directions; empty for none.
            groups: number of sets of destination addresses.
            wire_packets: whether cables carry packets one by one; otherwise the kernel passes
                several segments of a TCP stream at once.

        Raises:
            LabError: the kernel refused.
        """
        self._stack = ExitStack()
        self._segments = "gso_max_segs 1" if wire_packets else ""
        try:
            self.nodes = [self._namespace(f"node{number}") for number in range(len(netem) + 1)]
            self.destination = self._namespace("destination")
            for number, options in enumerate(netem):
                self._connect(self.nodes[number], self.nodes[number + 1], number, options)
            self._connect(self.nodes[-1], self.destination, len(netem), "")
            self._give_addresses(groups)
            self._route()
        except BaseException:
            self._stack.close()
            raise

    @property
    def hops(self) -> int:
        """The number of nodes after the source."""
        return len(self.nodes) - 1

    def close(self) -> None:
        """End every program and namespace."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _namespace(self, name: str) -> Namespace:
        made = self._stack.enter_context(Namespace(name))
        made.set_kernel(**_QUIET, **_FORWARD_V6)
        return made

    def _connect(self, left: Namespace, right: Namespace, number: int, options: str) -> None:
        peer = f"peer name left netns {right.pid}"
        left.configure([f"link add right {self._segments} type veth {peer}"])
        sides = ((left, "right", 1), (right, "left", 2))
        for namespace, device, last in sides:
            namespace.configure(
                [
                    f"address add 10.6.{number}.{last}/30 dev {device}",
                    f"link set {device} {self._segments} up",
                ]
            )
            if options:
                _shape(namespace, device, options)

    def _give_addresses(self, groups: int) -> None:
        for number, node in enumerate(self.nodes):
            node.configure([f"address add {node_address(number)}/32 dev lo"])
        self.destination.configure(
            [
                f"address add {destination_address(group, tunnels)}/32 dev lo"
                for group in range(groups)
                for tunnels in range(self.hops + 1)
            ]
        )

    def _route(self) -> None:
        for number, node in enumerate(self.nodes):
            onward = [node_address(other) for other in range(number + 1, len(self.nodes))]
            back = [node_address(other) for other in range(number)]
            right, left = f"10.6.{number}.2", f"10.6.{number - 1}.1"
            pools = [inner_pool(other) for other in range(1, number)]
            node.configure(
                [f"route add {each} via {right}" for each in (*onward, _BENCHMARK_NETWORK)]
                + [f"route add {each} via {left}" for each in (*back, *pools)]
            )
        self.destination.configure([f"route add default via 10.6.{self.hops}.1"])

    def limit_mtu(self, inner: Sequence[tuple[IPv4Address, int]]) -> None:
        """Fragment inner packets to these destinations to a size that fits the tunnels.

        The kernel encrypts a local packet whole and fragments the outermost packet. The next relay
        refuses the packet inside, because it cannot be forwarded in one piece. So packets are
        fragmented to the inner MTU (docs/decisions/0003) *before* policies apply. For this they
        pass a cable from the source to itself, with IPsec off at the near end. The destination's
        routes have the same MTU, as path MTU discovery would set it.
        """
        source = self.nodes[0]
        source.configure(_LOOP)
        source.set_kernel(
            ipv4__conf__cut__disable_xfrm=1,
            ipv4__conf__whole__accept_local=1,
            ipv4__conf__whole__rp_filter=0,
            ipv4__conf__all__rp_filter=0,
        )
        source.configure([f"route add {address} dev cut mtu {mtu}" for address, mtu in inner])
        smallest = min(mtu for _, mtu in inner)
        self.destination.configure(
            [
                f"route add {inner_pool(node)} via 10.6.{self.hops}.1 mtu {smallest}"
                for node in range(1, self.hops + 1)
            ]
        )


def _shape(namespace: Namespace, device: str, options: str) -> None:
    queue = f"qdisc add dev {device} root netem {options} limit {_QUEUE_PACKETS}"
    done = namespace.run(["tc", *queue.split()], check=False)
    if done.returncode != 0:
        raise LabError(netem_missing() or f"tc failed: {done.stderr.strip()}")
