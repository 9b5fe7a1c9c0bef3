"""Check the network of the host: UDP ports, reachability, MTU, forwarding, source checks."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from overlay.addresses import Endpoint, IpAddress
from overlay.control.socket_file import node_answers
from overlay.dht.events import Standing
from overlay.doctor.findings import Finding, Outcome, Purpose, Setup, tried
from overlay.errors import BackendError
from overlay.system.devices import Device, outward_devices, up_devices
from overlay.system.kernel_settings import read_setting
from overlay.system.local_address import local_address_towards, own_addresses
from overlay.system.udp import VersionMissing, bound_socket

__all__ = [
    "device_mtu",
    "forwarding",
    "link_sizes",
    "reachability",
    "reverse_path",
    "udp_ports",
    "way_out",
]

Read = Callable[[str], str | None]

_USUAL_MTU: Final = 1500
"""The MTU that the node assumes for the underlay; larger ESP datagrams are sent in fragments."""

_LEAST_MTU: Final = 1280
_IPV6_AND_UDP: Final = 48
"""Bytes of the IPv6 and UDP headers of a datagram; those of IPv4 are shorter."""

_OWN_DEVICE: Final = re.compile(r"(anon[a-z]*|exit)\d+$")
"""Names of the devices of a running node, which carry no packets of links."""

_STRICT: Final = "1"
_FORWARDING: Final = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


# -- UDP -------------------------------------------------------------------------------


def udp_ports(
    setup: Setup,
    bind: Callable[[Endpoint], object] | None = None,
    runs: Callable[[Path], bool] = node_answers,
) -> list[Finding]:
    """Bind and release each UDP endpoint, unless the running node has it.

    A node starts without an address that its host does not have yet, so that is advice.
    """
    socket_path = setup.configuration.node.control_socket
    running = setup.path is not None and socket_path.is_socket() and runs(socket_path)
    return [_port(each, bind or _bind_once, running) for each in setup.configuration.network.listen]


def _port(endpoint: Endpoint, bind: Callable[[Endpoint], object], running: bool) -> Finding:
    subject = f"UDP {endpoint}"
    if running:
        said = "in use by the node that runs with this configuration"
        return Finding(subject, Outcome.WORKS, said)

    if not endpoint.address.is_unspecified and endpoint.address.packed not in own_addresses():
        said = (
            "this host does not have that address at present, so the node waits for it; name "
            'another in [network] listen, or all with: listen = ["0.0.0.0:4500", "[::]:4500"].'
        )
        return Finding(subject, Outcome.LACKS, said, (Purpose.ADVICE,))

    def attempt() -> str:
        try:
            bind(endpoint)
        except VersionMissing:
            if not endpoint.address.is_unspecified:
                raise
            return "left out, because this kernel does not support that IP version"
        return "free, and this user may listen there"

    return tried(subject, (Purpose.NODE,), attempt)


def _bind_once(endpoint: Endpoint) -> None:
    bound_socket(endpoint).close()


def reachability(
    setup: Setup,
    towards: Callable[[Endpoint], IpAddress] = local_address_towards,
    own: Callable[[], Collection[bytes]] = own_addresses,
) -> list[Finding]:
    """Check whether the node has an address to advertise. A node without roles needs none.

    If a node runs with this configuration, the results of tests by other nodes are included.
    """
    tested = setup.status.reachability.items() if setup.status is not None else ()
    return [*_own_address(setup, towards, own), *(_tested(*each) for each in tested)]


def _tested(endpoint: str, standing: str) -> Finding:
    subject = f"reached at {endpoint}"
    if standing == Standing.REACHABLE:
        return Finding(subject, Outcome.WORKS, "test messages of other nodes arrive there")
    if standing == Standing.UNREACHABLE:
        way = "forward this UDP port to the node at the router"
        if endpoint.startswith("["):  # a router translates no IPv6 addresses
            way = "permit this UDP port to the node in the router's packet filter"
        said = (
            "no test message of other nodes arrives there, so the node offers no role over it; "
            f"{way}, permit it in this host's packet filter, or set [roles] relay = false."
        )
        return Finding(subject, Outcome.LACKS, said, (Purpose.ADVICE,))
    said = "not tested yet; a test needs three other nodes in different networks"
    return Finding(subject, Outcome.UNKNOWN, said, (Purpose.ADVICE,))


def _wrongly_advertised(endpoint: Endpoint, setup: Setup, own: Collection[bytes]) -> Finding | None:
    """Return what may be wrong with an endpoint in ``advertise``, or None.

    An address that this host does not have may be that of a router, which may also translate the
    port.
    """
    subject, needed_for = f"advertised {endpoint}", (Purpose.ADVICE,)
    ports = sorted({each.port for each in setup.configuration.network.listen})
    tested = setup.status.reachability if setup.status is not None else {}
    if tested.get(str(endpoint)) == Standing.REACHABLE:
        return None
    if endpoint.address.packed not in own:
        said = (
            "this host does not have that address; if no router forwards that UDP port to port "
            f"{ports[0]} of this host, correct [network] advertise; addresses here: ip address"
        )
        return Finding(subject, Outcome.UNKNOWN, said, needed_for)
    if endpoint.port not in ports:
        said = (
            f"the node listens at port {', '.join(map(str, ports))}, so nothing answers there; "
            "write the same port in [network] listen and advertise."
        )
        return Finding(subject, Outcome.LACKS, said, needed_for)
    return None


def _own_address(
    setup: Setup,
    towards: Callable[[Endpoint], IpAddress],
    own: Callable[[], Collection[bytes]],
) -> list[Finding]:
    network, subject = setup.configuration.network, "own address"
    if network.advertised:
        wrong = [_wrongly_advertised(each, setup, own()) for each in network.advertise]
        said = ", ".join(str(each) for each in network.advertised)
        works = Finding(subject, Outcome.WORKS, f"{said} is advertised")
        return [each for each in wrong if each is not None] or [works]
    for peer in network.bootstrap:
        with suppress(BackendError):
            said = f"{towards(peer)} is advertised, because the bootstrap node is reached from it"
            return [Finding(subject, Outcome.WORKS, said)]
    said = (
        "the node does not know its own address, so other nodes cannot use it as a relay; set "
        '[network] advertise = ["ADDRESS:PORT"]'
        + (", or give this host a route to its bootstrap nodes." if network.bootstrap else ".")
    )
    return [Finding(subject, Outcome.LACKS, said, (Purpose.ADVICE,))]


# -- devices ---------------------------------------------------------------------------


def device_mtu(
    _setup: Setup,
    devices: Callable[[], Sequence[Device]] = up_devices,
    outward: Callable[[], frozenset[str]] = outward_devices,
) -> list[Finding]:
    """Compare the MTU of the devices with default routes with the MTU that the node assumes.

    The MTU beyond the device is not measured, because the check sends no packets to other hosts.
    """
    try:
        names = outward()
    except BackendError as error:
        return [Finding("MTU", Outcome.UNKNOWN, str(error), (Purpose.ADVICE,))]
    found = [each for each in devices() if not (each.loopback or _OWN_DEVICE.match(each.name))]
    towards = [device for device in found if device.name in names] or found
    if not towards:
        said = "no network device is up; set one up with: ip link set dev DEVICE up"
        return [Finding("MTU", Outcome.LACKS, said, (Purpose.ADVICE,))]
    return [_mtu(device) for device in towards]


def _mtu(device: Device) -> Finding:
    subject = f"MTU of {device.name}"
    if device.mtu >= _USUAL_MTU:
        return Finding(subject, Outcome.WORKS, f"{device.mtu} bytes")
    remedy = f"if its network allows more: ip link set dev {device.name} mtu {_USUAL_MTU}"
    if device.mtu >= _LEAST_MTU:
        said = f"{device.mtu} bytes, so large packets are sent in fragments; {remedy}"
        return Finding(subject, Outcome.UNKNOWN, said, (Purpose.ADVICE,))
    said = (
        f"{device.mtu} bytes, less than IPv6 needs ({_LEAST_MTU}, RFC 8200), so the node has links "
        f"over IPv4 only and sends most packets in fragments; {remedy}"
    )
    return Finding(subject, Outcome.LACKS, said, (Purpose.ADVICE,))


def link_sizes(setup: Setup) -> list[Finding]:
    """Name lines that carry less than the usual MTU, from the probes of the running node."""
    sizes = setup.status.link_bytes if setup.status is not None else ()
    if not sizes:
        return []
    subject, narrowest = "links", min(sizes)
    if narrowest >= _USUAL_MTU - _IPV6_AND_UDP:
        said = f"each carries at least {narrowest} bytes of UDP payload"
        return [Finding(subject, Outcome.WORKS, said, (Purpose.ADVICE,))]
    count = sum(size < _USUAL_MTU - _IPV6_AND_UDP for size in sizes)
    said = (
        f"{count} of {len(sizes)} carry less than lines of {_USUAL_MTU} bytes do; the narrowest "
        f"carries {narrowest} bytes of UDP payload, so the node sends large packets there in more "
        f"fragments; if the own line allows more, raise the MTU at its router, and on this host "
        f"with: ip link set dev DEVICE mtu {_USUAL_MTU}"
    )
    return [Finding(subject, Outcome.UNKNOWN, said, (Purpose.ADVICE,))]


def way_out(
    _setup: Setup, outward: Callable[[], frozenset[str]] = outward_devices
) -> list[Finding]:
    """Check for a default route, because an exit sends packets of circuits along it."""

    def attempt() -> str:
        names = sorted(outward())
        if not names:
            raise BackendError(
                "this host has no default route, so an exit cannot forward packets; add one with: "
                "ip route add default via ROUTER"
            )
        return f"default routes use {', '.join(names)}"

    return [tried("default route", (Purpose.EXIT,), attempt)]


# -- kernel settings -------------------------------------------------------------------


def forwarding(
    _setup: Setup, read: Read = read_setting, writable: Callable[[str], bool] | None = None
) -> list[Finding]:
    """Check whether forwarding is on, or whether a node that needs it may switch it on."""
    may_write = writable or _may_write
    return [
        _forwarding(4, read, may_write, (Purpose.EXIT,)),
        _forwarding(6, read, may_write, (Purpose.EXIT, Purpose.KERNEL_RELAY)),
    ]


def _forwarding(
    version: int,
    read: Read,
    may_write: Callable[[str], bool],
    needed_for: tuple[Purpose, ...],
) -> Finding:
    name = _FORWARDING[version]
    subject, value = f"IPv{version} forwarding", read(name)
    if value == "1":
        return Finding(subject, Outcome.WORKS, "on", needed_for)
    if value is None:
        # IPv4 is enough for an exit, so a host without IPv6 is no obstacle to it.
        others = tuple(each for each in needed_for if version == 4 or each is not Purpose.EXIT)
        return _no_protocol(subject, version, others)
    if may_write(name):
        return Finding(
            subject, Outcome.WORKS, "off; a node that needs it switches it on", needed_for
        )
    said = f"off, and this process may not change it; run as root of this host: {_switch_on(name)}"
    return Finding(subject, Outcome.LACKS, said, needed_for)


def _no_protocol(subject: str, version: int, needed_for: tuple[Purpose, ...]) -> Finding:
    said = f"this kernel has no IPv{version}, or it is disabled; use one that supports it."
    return Finding(subject, Outcome.LACKS, said, needed_for)


def _switch_on(name: str) -> str:
    return f"sysctl -w {name.replace('/', '.')}=1"


def _may_write(name: str) -> bool:
    return os.access(Path("/proc/sys", name), os.W_OK)


def reverse_path(
    _setup: Setup,
    read: Read = read_setting,
    devices: Callable[[], Sequence[Device]] = up_devices,
) -> list[Finding]:
    """Check for strict reverse-path filters on a host with several devices.

    A strict filter drops a packet if the answer would leave by another device, which cannot happen
    with one device. Packets that the kernel decapsulated from ESP are exempt (Linux,
    ``fib_validate_source``).
    """
    outside = [device.name for device in devices() if not device.loopback]
    strict = [name for name in outside if _effective_check(name, read) == _STRICT]
    needed_for = (Purpose.ADVICE,)
    if len(outside) < 2 or not strict:
        said = "strict on the only device, which is harmless" if strict else "not strict"
        return [Finding("reverse-path filter", Outcome.WORKS, said, needed_for)]
    commands = " ".join(f"net.ipv4.conf.{name.replace('.', '/')}.rp_filter=2" for name in strict)
    said = (
        f"strict on {', '.join(strict)}, so packets are dropped if they arrive on another device "
        f"than the one that answers leave by; loosen it with: sysctl -w {commands}"
    )
    return [Finding("reverse-path filter", Outcome.UNKNOWN, said, needed_for)]


def _effective_check(device: str, read: Read) -> str:
    """Return the larger one of the setting of the device and the setting of "all" (ip-sysctl)."""
    return max(read(f"net/ipv4/conf/{name}/rp_filter") or "0" for name in ("all", device))
