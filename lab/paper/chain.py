"""The paper's platform (Figure 6): five nodes in a chain, three fast links and a slow one.

::

    node 0 ──100── node 1 ──100── node 2 ──100── node 3 ──10── node 4 ──── destination
    source         mix 1          mix 2          mix 3         mix 4

Rates in Mbit/s. Each node reaches the next but one through the next one alone, so a circuit of
k hops ends k links away, and its packets go on to the destination in the clear. netem holds
each packet back as long as a cable of that rate would take to carry it; a token bucket would let
single packets pass at once. The destination hangs on the last node by a cable without limit.
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
    # Without ARP a frame carries its sender's address, so both ends have the same one.
    "link add cut address 02:00:00:00:00:01 type veth peer name whole address 02:00:00:00:00:01",
    "link set cut arp off up",
    "link set whole arp off up",
    "route add default via 10.6.0.2 table 100",
    "rule add iif whole lookup 100",
)
"""From where a program's packets are cut to where they go on, as if another host had sent them."""


def node_address(node: int) -> IPv4Address:
    """Return the underlay address of a node: where its links begin and end."""
    return IPv4Address(f"10.6.100.{node}")


def inner_pool(node: int) -> IPv4Network:
    """Return the inner addresses that an exit lends; the others route them back to it."""
    return IPv4Network(f"100.{64 + node}.0.0/16")


def destination_address(group: int, tunnels: int) -> IPv4Address:
    """Return one of the destination's addresses: each circuit has one of its own.

    From the range for benchmarks (RFC 2544), so that all circuits can be open at once and a
    packet's address alone says which of them carries it.
    """
    return IPv4Address(f"198.18.{group}.{tunnels + 1}")


_BENCHMARK_NETWORK: Final = IPv4Network("198.18.0.0/16")


class Chain:
    """Owner of the nodes' namespaces and cables; a context manager that leaves nothing."""

    def __init__(
        self, netem: Sequence[str] = PAPER_RATES, *, groups: int = 1, wire_packets: bool = False
    ) -> None:
        """Build it.

        Args:
            netem: what each link does to packets, in both directions; empty for nothing.
            groups: how many sets of destination addresses there are.
            wire_packets: whether cables show packets one by one; without it the kernel passes
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
        """How many nodes there are after the source."""
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
        """Let inner packets to these destinations be small enough for the tunnels.

        The kernel encrypts a local packet whole and fragments the outermost one; the next
        relay refuses what it finds inside, since it cannot go on in one piece. So packets are
        cut to the inner MTU (docs/decisions/0003) *before* they meet a policy: they pass a
        cable that leads from the source to itself, on whose near end IPsec is off. The
        destination's routes say the same MTU, as path MTU discovery would teach it.
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
