"""The ``standard`` forwarding rules: normalise at the source, apply the policy at the exit.

::

    source   parse -> allowed protocol -> rebuilt headers -> circuit
    exit     circuit -> parse -> not this host -> exit policy (cached) -> the network

A packet that fails a step is dropped and counted; it causes no exception and no log message. These
rules do not change the source address, because the exit's address translation does. The node
removes the entries of connection tracking when a circuit ends.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import ClassVar, Final

from overlay.addresses import IpAddress
from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.forwarding.headers import (
    TCP,
    UDP,
    DropReason,
    IpHeaders,
    destination_of,
    parse_headers,
)
from overlay.forwarding.identification import IDENTIFICATION_KEY_BYTES
from overlay.forwarding.normalise import Normaliser
from overlay.packet_sizes import INNER_MTU, SEGMENT_MTU
from overlay.sensitive import SecretBytes
from overlay.settings import Settings, setting, whole

__all__ = ["MAX_CACHED_DECISIONS", "StandardRules", "StandardSettings"]

MAX_CACHED_DECISIONS: Final = 4096
"""A decision takes about 200 bytes, so sources cannot make an exit store more than 1 MB."""

_FRAGMENT: Final = -1
"""Used instead of a port for a later fragment, which has none: all ports must be permitted."""

_NO_PORT: Final = -2
"""Used instead of a port if the protocol has no ports."""

_NORMALISED: Final = "normalised"
_PERMITTED: Final = "permitted"


@dataclass(frozen=True, slots=True)
class StandardSettings(Settings):
    """Settings of the ``standard`` rules.

    The sizes do not depend on the number of hops, so the exit cannot infer it from packet sizes
    (docs/decisions/0003, docs/decisions/0054).
    """

    path_mtu: int = setting(
        INNER_MTU,
        whole(576, 65_535, "bytes"),
        "Largest inner packet. It is the MTU of the routes into circuits. Packets with TCP "
        "segments have at most 1,038 bytes even if it is larger, so that links with an MTU of "
        "1,500 bytes need no fragments. IPv6 packets of up to 1,280 bytes pass even if it is "
        "smaller. On the kernel backend it is at most 1,300, and 1,038 until a path was proved to "
        "carry more.",
    )

    @property
    def mss_ipv4(self) -> int:
        """The largest TCP segment over IPv4: the packet without 20 + 20 bytes of headers."""
        return min(self.path_mtu, SEGMENT_MTU) - 40

    @property
    def mss_ipv6(self) -> int:
        """The largest TCP segment over IPv6: the packet without 40 + 20 bytes of headers."""
        return min(self.path_mtu, SEGMENT_MTU) - 60


class StandardRules:
    """Forwarding rules of one node (implements ``ForwardingRules``).

    It has counters and a cache of exit decisions. The cache holds at most
    :data:`MAX_CACHED_DECISIONS` entries, and a new entry replaces the oldest.

    If ``exit_policy`` is None, the exit drops every packet. ``local_addresses`` returns the packed
    addresses of all interfaces of this host, and is called once per batch. ``rng`` draws the
    secret that permutes fragment identifications.
    """

    settings_type: ClassVar[type[StandardSettings]] = StandardSettings

    def __init__(
        self,
        settings: StandardSettings,
        exit_policy: ExitPolicy | None,
        local_addresses: Callable[[], frozenset[bytes]],
        *,
        rng: Random | None = None,
    ) -> None:
        key = SecretBytes((rng or SystemRandom()).randbytes(IDENTIFICATION_KEY_BYTES))
        self._normaliser = Normaliser(settings.mss_ipv4, settings.mss_ipv6, key)
        self._exit_policy = exit_policy
        self._local_addresses = local_addresses
        self._decisions: dict[tuple[bytes, int], bool] = {}
        self._counts: Counter[str] = Counter()

    def at_source(self, packets: Sequence[bytes]) -> list[bytes]:
        """Return normalised packets; :mod:`overlay.forwarding.normalise` lists the changes."""
        passed: list[bytes] = []
        for packet in packets:
            result = self._normaliser.normalise(packet)
            if isinstance(result, DropReason):
                self._counts[result.value] += 1
                continue
            if result is not packet:
                self._counts[_NORMALISED] += 1
            passed.append(result)
        return passed

    def at_exit(self, packets: Sequence[bytes]) -> list[bytes]:
        """Return, unchanged, the packets whose destination and port the exit policy permits.

        The policy cannot permit addresses of this host. A fragment without ports passes only if
        all ports of its destination are permitted. Packets with IP options or routing headers are
        dropped: an honest source sends none, and they could affect routing in the exit's kernel.
        """
        local = self._local_addresses()
        passed: list[bytes] = []
        for packet in packets:
            refusal = self._refusal_at_exit(packet, local)
            if refusal is None:
                passed.append(packet)
            else:
                self._counts[refusal.value] += 1
        self._counts[_PERMITTED] += len(passed)
        return passed

    def counters(self) -> dict[str, int]:
        """Return the number of packets that were ``normalised``, ``permitted``, ``dropped_...``."""
        return dict(self._counts)

    def _refusal_at_exit(self, packet: bytes, local: frozenset[bytes]) -> DropReason | None:
        headers = parse_headers(packet)
        if isinstance(headers, DropReason):
            return headers
        if headers.has_options:
            return DropReason.IP_OPTIONS
        destination = destination_of(packet, headers.version)
        if destination in local:
            return DropReason.LOCAL_ADDRESS
        if not self._permits(destination, _port_of(packet, headers)):
            return DropReason.EXIT_POLICY
        return None

    def _permits(self, destination: bytes, port: int) -> bool:
        known = self._decisions.get((destination, port))
        if known is not None:
            return known
        if len(self._decisions) >= MAX_CACHED_DECISIONS:
            del self._decisions[next(iter(self._decisions))]
        decision = self._exit_policy is not None and _decide(self._exit_policy, destination, port)
        self._decisions[destination, port] = decision
        return decision


def _port_of(packet: bytes, headers: IpHeaders) -> int:
    if headers.fragment_offset:
        return _FRAGMENT
    if headers.protocol in (TCP, UDP):
        return int.from_bytes(packet[headers.upper + 2 : headers.upper + 4], "big")
    return _NO_PORT


def _decide(policy: ExitPolicy, packed: bytes, port: int) -> bool:
    destination = ipaddress.ip_address(packed)
    if port == _FRAGMENT:
        return policy.permits(destination) and _permits_every_port(policy.rules, destination)
    return policy.permits(destination, None if port == _NO_PORT else port)


def _permits_every_port(rules: Sequence[ExitRule], destination: IpAddress) -> bool:
    """Tell whether a rule accepts all ports of ``destination`` and no earlier rule rejects one."""
    for rule in rules:
        if rule.covers(destination, None):
            return rule.accept
        if not rule.accept and rule.covers(destination, rule.first_port):
            return False
    return False
