"""Build an underlay of hosts in separate networks with one router, connected by veth pairs.

::

    alice 10.1.0.2/16 ──┐                 ┌── bob 203.0.113.10/24
    mix1  10.2.0.2/16 ──┤ core (forwards) ├── ...
    mix2  10.3.0.2/16 ──┘                 └──

Host *k* is in 10.k.0.0/16 and fd00:k::/32, so that no two hosts share a prefix that path selection
compares. Only the core forwards. Router solicitations and duplicate address detection are off. So
nearly every captured packet was sent by the test.
"""

from __future__ import annotations

import ipaddress
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Final, Self

from lab.capture import Capture
from lab.namespaces import LabError, Namespace, netem_missing

__all__ = ["LaboratoryHost", "Underlay", "numbered_addresses"]

_MAX_HOSTS: Final = 255
_INTERFACE: Final = "eth0"
_QUIET: Final = {
    "ipv6__conf__default__accept_dad": 0,
    "ipv6__conf__default__accept_ra": 0,
    "ipv6__conf__default__router_solicitations": 0,
}
_DEFAULT_MTU: Final = 1500


@dataclass(frozen=True, slots=True)
class LaboratoryHost:
    """One host: its namespace, its addresses, and the two ends of its cable.

    ``interface`` is the end inside the host, ``core_interface`` the one inside the core.
    """

    name: str
    namespace: Namespace
    core: Namespace
    ipv4: IPv4Interface
    ipv6: IPv6Interface
    interface: str
    core_interface: str

    def capture(
        self, path: Path, *, snaplen_bytes: int = 128, most_packets: int = 200_000
    ) -> Capture:
        """Return a vantage point on this host's cable (not started)."""
        return Capture(
            self.namespace,
            self.interface,
            path,
            snaplen_bytes=snaplen_bytes,
            most_packets=most_packets,
        )


def numbered_addresses(number: int) -> tuple[IPv4Interface, IPv6Interface]:
    """Return the addresses of host ``number`` (1 to 255): 10.k.0.2/16 and fd00:k::2/32."""
    if not 1 <= number <= _MAX_HOSTS:
        raise LabError(f"an underlay numbers its hosts from 1 to {_MAX_HOSTS}, not {number}.")
    return (
        ipaddress.IPv4Interface(f"10.{number}.0.2/16"),
        ipaddress.IPv6Interface(f"fd00:{number:x}::2/32"),
    )


class Underlay:
    """Own the core and all hosts; a context manager that removes everything at its end.

    With ``wire_packets`` veths carry packets one by one, like a real wire. Without it the kernel
    passes several segments at once, which is faster.
    """

    def __init__(self, *, wire_packets: bool = False, mtu: int = _DEFAULT_MTU) -> None:
        self._stack = ExitStack()
        self._hosts: dict[str, LaboratoryHost] = {}
        self._segments = "gso_max_segs 1" if wire_packets else ""
        self._mtu = mtu
        self.core = self._stack.enter_context(Namespace("core"))
        self.core.set_kernel(**_QUIET, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)

    @property
    def hosts(self) -> tuple[LaboratoryHost, ...]:
        """All hosts in the order in which they were added."""
        return tuple(self._hosts.values())

    def add_host(
        self,
        name: str,
        *,
        ipv4: IPv4Interface | None = None,
        ipv6: IPv6Interface | None = None,
        delay_ms: float = 0.0,
    ) -> LaboratoryHost:
        """Add a host in the next numbered networks, or in the given ones.

        The first address of each network is that of the core. Each packet is delayed on the cable
        by ``delay_ms``, in both directions.

        Raises:
            LabError: the name or network is taken, or the kernel refused.
        """
        numbered4, numbered6 = numbered_addresses(len(self._hosts) + 1)
        ipv4, ipv6 = ipv4 or numbered4, ipv6 or numbered6
        self._check_free(name, ipv4, ipv6)
        namespace = self._stack.enter_context(Namespace(name))
        namespace.set_kernel(**_QUIET)
        core_interface = f"to{len(self._hosts) + 1}"
        host = LaboratoryHost(name, namespace, self.core, ipv4, ipv6, _INTERFACE, core_interface)
        self._connect(host)
        if delay_ms:
            _delay(host, delay_ms)
        self._hosts[name] = host
        return host

    def add_server(self, name: str, number: int = 10) -> LaboratoryHost:
        """Add a host outside the overlay: 203.0.113.N/24 and 2001:db8:113::N (one per underlay).

        Exits of a laboratory permit these addresses (RFC 5737, RFC 3849).
        """
        return self.add_host(
            name,
            ipv4=ipaddress.IPv4Interface(f"203.0.113.{number}/24"),
            ipv6=ipaddress.IPv6Interface(f"2001:db8:113::{number}/48"),
        )

    def close(self) -> None:
        """End every program and namespace of the underlay."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_free(self, name: str, ipv4: IPv4Interface, ipv6: IPv6Interface) -> None:
        for other in self._hosts.values():
            taken = other.ipv4.network.overlaps(ipv4.network)
            if other.name == name or taken or other.ipv6.network.overlaps(ipv6.network):
                raise LabError(f"host {name} shares its name or a network with {other.name}.")

    def _connect(self, host: LaboratoryHost) -> None:
        cable, mtu, segments = host.core_interface, self._mtu, self._segments
        router4, router6 = _first(host.ipv4), _first(host.ipv6)
        peer = f"peer name {host.interface} netns {host.namespace.pid}"
        self.core.configure(
            [
                f"link add {cable} mtu {mtu} {segments} type veth {peer}",
                f"address add {router4} dev {cable}",
                f"address add {router6} dev {cable} nodad",
                f"link set {cable} up",
            ]
        )
        host.namespace.configure(
            [
                f"address add {host.ipv4} dev {host.interface}",
                f"address add {host.ipv6} dev {host.interface} nodad",
                f"link set {host.interface} mtu {mtu} {segments} up",
                f"route add default via {router4.ip} src {host.ipv4.ip}",
                f"route add default via {router6.ip} src {host.ipv6.ip}",
            ]
        )


def _first(address: IPv4Interface | IPv6Interface) -> IPv4Interface | IPv6Interface:
    network = address.network
    return ipaddress.ip_interface(f"{network.network_address + 1}/{network.prefixlen}")


def _delay(host: LaboratoryHost, delay_ms: float) -> None:
    queue = ["root", "netem", "delay", f"{delay_ms}ms", "limit", "100000"]
    cable_ends = ((host.namespace, host.interface), (host.core, host.core_interface))
    for namespace, interface in cable_ends:
        done = namespace.run(["tc", "qdisc", "add", "dev", interface, *queue], check=False)
        if done.returncode != 0:
            raise LabError(netem_missing() or f"tc failed: {done.stderr.strip()}")
