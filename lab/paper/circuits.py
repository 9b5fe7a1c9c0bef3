"""Open every circuit of an experiment by onion messages through the chain's nodes."""

from __future__ import annotations

import contextlib
import ipaddress
import selectors
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from random import Random, SystemRandom
from typing import Final

from lab.namespaces import LabError
from lab.paper.apm_node import PORT, ApmNode
from lab.paper.chain import Chain, destination_address, inner_pool, node_address
from overlay.addresses import Endpoint
from overlay.hop_limit import MAX_HOPS
from overlay.ipsec.mtu import inner_mtu
from overlay.ipsec.suites import SUITES
from overlay.selection.selector import MixPath

__all__ = ["MeasuredCircuit", "Overlay", "chain_overlay", "path_mtu"]

_UNDERLAY_MTU: Final = 1500
_QUIET_S: Final = 5.0
"""In seconds. It is longer than pauses between repetitions, and shorter than idle timeouts."""

LINK_SUITE: Final = 3
"""AES-256-GCM, whatever the circuits' cipher, because links negotiate only AEADs."""


@dataclass(frozen=True, slots=True)
class MeasuredCircuit:
    """The two ends of a cell's measurement: of a circuit, or in the clear if ``tunnels`` is 0."""

    tunnels: int
    source: IPv4Address
    destination: IPv4Address


def path_mtu(suite: int) -> int:
    """Return the inner MTU of every circuit with this suite (docs/decisions/0003)."""
    return inner_mtu(
        _UNDERLAY_MTU, hops=MAX_HOPS, onion=SUITES[suite], link=SUITES[LINK_SUITE], ipv6=True
    )


class Overlay:
    """The nodes of a chain in this process; :meth:`drive` runs them."""

    def __init__(self, chain: Chain, suites: Sequence[int], rng: Random) -> None:
        self.chain = chain
        self._suites = tuple(suites)
        self._stack = contextlib.ExitStack()
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        self.nodes: list[ApmNode] = []
        try:
            for number, _namespace in enumerate(chain.nodes):
                self._add(number, namespace_node(chain, number, self._suites, rng))
        except BaseException:
            self._stack.close()
            raise

    def _add(self, _number: int, node: ApmNode) -> None:
        self._stack.callback(node.close)
        self.nodes.append(node)
        for each in node.sockets():
            self._selector.register(each, selectors.EVENT_READ, node)

    def close(self) -> None:
        """Remove everything from the kernel."""
        self._stack.close()

    def drive(self, until: Callable[[], bool], *, timeout_s: float) -> None:
        """Run the nodes until a condition is true.

        Raises:
            LabError: it was not true within ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > deadline:
                raise LabError(f"the chain's nodes did not come to an end in {timeout_s:.0f} s.")
            due = min(node.next_deadline() for node in self.nodes)
            ready = self._selector.select(min(max(0.0, due - time.time()), 1.0))
            now = time.time()
            for node in dict.fromkeys(key.data for key, _ in ready):
                node.receive(now)
            for node in self.nodes:
                if node.next_deadline() <= now:
                    node.handle_deadline(now)

    def rest(self, *, timeout_s: float = 60.0) -> None:
        """Run the nodes until no timer is due soon, so that the first keys are replaced."""
        self.drive(
            lambda: min(node.next_deadline() for node in self.nodes) > time.time() + _QUIET_S,
            timeout_s=timeout_s,
        )

    def connect(self, *, timeout_s: float = 60.0) -> None:
        """Open every link of the chain."""
        pairs = list(zip(self.nodes, self.nodes[1:], strict=False))
        now = time.time()
        for left, right in pairs:
            left.links.connect(right.peer, now)
            left.settle(now)
        self.drive(
            lambda: all(a.has_link(b) and b.has_link(a) for a, b in pairs), timeout_s=timeout_s
        )

    def open(
        self, suite: int, hops: int, destination: IPv4Address, *, timeout_s: float = 60.0
    ) -> IPv4Address:
        """Open a circuit over the first ``hops`` nodes; return its inner address.

        Raises:
            LabError: it could not be opened.
        """
        source = self.nodes[0]
        path = MixPath(tuple(node.descriptor for node in self.nodes[1 : hops + 1]))
        now = time.time()
        target = ipaddress.IPv4Network(destination)
        number = source.managers[suite].anonymous_connection(path, target, now)
        source.settle(now)
        key = (suite, number)
        self.drive(lambda: key in source.opened, timeout_s=timeout_s)
        inner = source.opened[key].inner_addresses.ipv4
        if inner is None:
            raise LabError("the exit gave no IPv4 address.")
        return IPv4Address(inner)

    def open_all(
        self, most_hops: int, *, limit_mtu: bool = True
    ) -> dict[tuple[int, int], MeasuredCircuit]:
        """Open a circuit for each suite and each number of hops; all stay open.

        Returns:
            The ends of the measurement for each (suite, tunnels), including 0 tunnels.
        """
        routes, mtus = {}, []
        for group, suite in enumerate(self._suites):
            plain = destination_address(group, 0)
            routes[suite, 0] = MeasuredCircuit(0, node_address(0), plain)
            for hops in range(1, most_hops + 1):
                destination = destination_address(group, hops)
                inner = self.open(suite, hops, destination)
                routes[suite, hops] = MeasuredCircuit(hops, inner, destination)
                mtus.append((destination, path_mtu(suite)))
        self.rest()
        if limit_mtu:
            self.chain.limit_mtu(mtus)
        return routes


def namespace_node(chain: Chain, number: int, suites: Sequence[int], rng: Random) -> ApmNode:
    """Build node ``number``; the first is the source, and all others are relays and exits."""
    return ApmNode(
        chain.nodes[number],
        Endpoint(str(node_address(number)), PORT),
        pool=inner_pool(number) if number else None,
        suites=suites if number == 0 else suites[:1],
        rng=rng,
    )


@contextlib.contextmanager
def chain_overlay(
    chain: Chain, suites: Sequence[int], rng: Random | None = None
) -> Iterator[Overlay]:
    """Run the nodes of a chain; afterwards all of their state is removed from the kernel."""
    overlay = Overlay(chain, suites, rng or SystemRandom())
    try:
        yield overlay
    finally:
        overlay.close()
