"""Test with a probe packet whether an exit's host forwards the packets of circuits.

Other programs may drop forwarded packets. Examples are ``iptables -P FORWARD DROP`` of a container
engine, the zones of a firewall, and rules of an administrator. Their effect cannot be predicted
reliably from the rules, so a packet is sent into the exit's device. It is the first segment of a
TCP connection, from a pool address that no circuit gets. The exit's own filter counts it after
forwarding and drops it there, so nothing leaves this host::

    exit's device ──> marked ──> routed like packets of circuits
                  ──> forward: ours accepts, others may refuse ──> postrouting: counted, dropped
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from overlay.addresses import IpAddress, IpNetwork
from overlay.exit_policy import ExitPolicy
from overlay.system.exit_firewall import unknown_connections
from overlay.system.packet_filter import Hook, Rule, Verdict

__all__ = ["probe_address", "probe_packet", "probe_rules"]

_SINKS: Final = {
    4: ipaddress.ip_address("192.175.48.1"),
    6: ipaddress.ip_address("2620:4f:8000::1"),
}
"""Addresses of AS112 (RFC 7534), because they are public and routed like any other address."""

_PORT: Final = 443
_TCP: Final = 6
_SYN: Final = 0x02
_HOP_LIMIT: Final = 64


def probe_address(pool: IpNetwork) -> IpAddress:
    """Return the pool's last host address, which must not be lent to a circuit."""
    return pool.broadcast_address - 1


def probe_rules(pool: IpNetwork, device: str, outward: Sequence[str]) -> list[Rule]:
    """Return rules that accept a pool's probes from the exit's device, then count and drop them.

    They must precede all other rules of their hooks. A probe gets the same mark as packets of
    circuits, so that the same routing rules apply. It is counted if it would leave over one of the
    ``outward`` devices. A NOTRACK rule of another program stops it as it stops circuits.
    """
    source = ipaddress.ip_network(probe_address(pool))
    end = Rule(hook=Hook.POSTROUTING, verdict=Verdict.DROP, source=source)
    return [
        Rule(hook=Hook.PREROUTING, verdict=Verdict.MARK, source=source, in_device=device),
        Rule(hook=Hook.PREROUTING, verdict=Verdict.ACCEPT, source=source, in_device=device),
        unknown_connections(source),
        Rule(hook=Hook.FORWARD, verdict=Verdict.ACCEPT, source=source, in_device=device),
        *(replace(end, out_device=each, counted=True) for each in outward),
        end,
    ]


def probe_packet(pool: IpNetwork, policy: ExitPolicy | None) -> bytes:
    """Return the probe packet of a pool, addressed to the first network that the policy accepts."""
    source = probe_address(pool)
    destination, port = _target(pool.version, policy)
    segment = struct.pack("!HHIIBBHHH", _PORT, port, 1, 0, 5 << 4, _SYN, 65535, 0, 0)
    pseudo = source.packed + destination.packed + struct.pack("!II", len(segment), _TCP)
    checksum = _checksum(pseudo + segment)
    segment = segment[:16] + struct.pack("!H", checksum) + segment[18:]
    addresses = source.packed + destination.packed
    if pool.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(segment), _TCP, _HOP_LIMIT) + addresses + segment
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, _HOP_LIMIT, _TCP, 0)
    checksum = _checksum(head + addresses)
    return head[:10] + struct.pack("!H", checksum) + addresses + segment


def _target(version: int, policy: ExitPolicy | None) -> tuple[IpAddress, int]:
    for rule in policy.rules if policy is not None else ():
        if rule.accept and rule.network.version == version:
            port = _PORT if rule.first_port <= _PORT <= rule.last_port else rule.first_port
            if not rule.network.prefixlen:
                return _SINKS[version], port
            return rule.network[min(1, rule.network.num_addresses - 1)], port
    return _SINKS[version], _PORT


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
