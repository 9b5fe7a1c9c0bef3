"""The MTUs of paths if the backend sends no pieces inside links, as the kernel's does not.

::

    circuit was proved to carry large packets, and       that size
      the uplink carries the TCP packets of the path
    else                                                 what needs no fragments in any path

Large packets leave the source over a detour that ignores the MTU of the uplink. TCP packets do not
take it, so they must fit the uplink (docs/decisions/0054).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from overlay.addresses import Endpoint, IpNetwork
from overlay.errors import BackendError
from overlay.ipsec.mtu import inner_mtu
from overlay.ipsec.suites import Suite
from overlay.node.node_cores import NodeCores
from overlay.packet_sizes import SEGMENT_MTU
from overlay.paths.requested_path import RequestedPath

__all__ = ["PathMtus"]


@dataclass(frozen=True, slots=True)
class PathMtus:
    """How to find the MTU of a path.

    Attributes:
        usual: bytes of the largest packet that every circuit carries.
        onion: suite of the onion SAs.
        link: suite of the links.
        uplink_mtu: returns the bytes of the largest packet to an endpoint; raises BackendError.
    """

    usual: int
    onion: Suite
    link: Suite
    uplink_mtu: Callable[[Endpoint], int]

    def of(self, cores: NodeCores, path: RequestedPath) -> int:
        """Return the MTU of a path in bytes."""
        reports = {each.number: each for each in cores.circuits.circuits()}
        circuit = reports.get(path.circuit) if path.circuit is not None else None
        proved = circuit.packet_bytes if circuit is not None else None
        if circuit is None or proved is None or proved <= self.usual:
            return self.usual
        first = cores.neighbours.endpoint_of(circuit.hops[0])
        if first is None or not self._carries_segments(first, len(circuit.hops)):
            return self.usual
        return proved

    def to(self, cores: NodeCores, destination: IpNetwork) -> int:
        """Return the MTU in bytes of the path to a destination."""
        served = (each for each in cores.paths.all() if each.destination == destination)
        return next((self.of(cores, path) for path in served), self.usual)

    def _carries_segments(self, first: Endpoint, hops: int) -> bool:
        try:
            uplink = self.uplink_mtu(first)
        except BackendError:
            return False
        is_ipv6 = ":" in first.host
        largest = inner_mtu(uplink, hops=hops, onion=self.onion, link=self.link, ipv6=is_ipv6)
        return largest >= SEGMENT_MTU
