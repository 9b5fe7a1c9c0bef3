"""Attempts to send to an address past a kill switch, in every way that a program has."""

import contextlib
import ipaddress
import socket
import struct

SO_BINDTODEVICE = 25
PORT = 5000
PAYLOAD = b"secret"

KILL_SWITCH_TABLE = 0x6D69

# What other programs do to a host, and which walls of the kill switch go with it.
FLUSHES = {
    "nft": "nft flush ruleset",
    "nft table": "nft delete table inet anonymous_overlay_guard_28009",
    "nft chains": "nft flush table inet anonymous_overlay_guard_28009",
    "nft dormant": "nft 'add table inet anonymous_overlay_guard_28009 { flags dormant ; }'",
    "iptables": "iptables-legacy -t mangle -F; iptables-legacy -t mangle -X;"
    "ip6tables-legacy -t mangle -F; ip6tables-legacy -t mangle -X",
    "iptables jump": "iptables-legacy -t mangle -F POSTROUTING;"
    "ip6tables-legacy -t mangle -F POSTROUTING",
    "rules": "ip rule del pref 109; ip -6 rule del pref 109",
    "all rules": "ip rule flush; ip -6 rule flush; ip rule add pref 32766 table main;"
    "ip -6 rule add pref 32766 table main",
    "routes": "; ".join(f"ip {v} route flush table {KILL_SWITCH_TABLE}" for v in ("-4", "-6")),
    "traffic control": "tc qdisc del dev eth0 clsact",
    "traffic control filters": "tc filter del dev eth0 egress",
    "ipsec": "ip xfrm policy flush; ip xfrm state flush",
    "circuit addresses": "ip address flush dev anon0",
    "circuit device": "ip link set anon0 down",
    "kernel settings": "sysctl -q -w net.ipv4.fwmark_reflect=0",
    "ipsec policies": "ip xfrm policy flush",
    "overlay addresses": "ip address flush dev anonsec0",
    "loopback": "ip link set lo down; ip link set lo up",
}


def flush(namespace, *names):
    """Do what other programs do; a command that finds nothing to remove may fail."""
    for name in names:
        namespace.run(["sh", "-c", FLUSHES[name]], check=False)


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def connected_before(host, destinations):
    """Sockets that have their route before anything is protected; send on them with ``send``."""

    def connect():
        made = []
        for destination in destinations:
            made.append(socket.socket(family_of(destination), socket.SOCK_DGRAM))
            made[-1].connect((destination, PORT))
            made[-1].send(b"before")
            # An answer (port unreachable) that came later would look like a packet of the test.
            made[-1].settimeout(2)
            with contextlib.suppress(OSError):
                made[-1].recv(1)
        return made

    return host.namespace.call(connect)


def send_every_way(host, destinations, early=(), inner=()):
    """Send to each destination: plain, bound to device or address, raw, and connected before.

    ``early`` are sockets of :func:`connected_before`; ``inner`` are addresses of circuits.
    """

    def send():
        for destination in destinations:
            family = family_of(destination)
            own = str(host.ipv6.ip if family == socket.AF_INET6 else host.ipv4.ip)
            sources = [None, own, *(each for each in inner if family_of(each) == family)]
            for source in sources:
                for device in (None, host.interface):
                    _datagram(family, source, device, destination)
                    _stream(family, source, device, destination)
            for device in (None, host.interface):
                _raw(family, own, device, destination)
        for each in early:
            with contextlib.suppress(OSError):
                each.send(PAYLOAD)

    host.namespace.call(send)


def send_over_stations(host, destinations):
    """Send to each destination over the host's router: its address stands behind the header's."""

    def send():
        for destination in destinations:
            family = family_of(destination)
            router = (host.ipv6 if family == socket.AF_INET6 else host.ipv4).network[1]
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                for level, option, value in _stations(destination, router):
                    with socket.socket(family, kind) as new, contextlib.suppress(OSError):
                        new.setsockopt(level, option, value)
                        new.settimeout(0)
                        new.connect((destination, PORT))
                        new.send(PAYLOAD)

    host.namespace.call(send)


def _stations(destination, router):
    """IPv4 options LSRR and SSRR, also behind padding (RFC 791); a segment header (RFC 8754)."""
    if router.version == 6:
        head = struct.pack("!BBBBBBH", 0, 4, 4, 1, 1, 0, 0)
        both = ipaddress.ip_address(destination).packed + router.packed
        return [(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, head + both)]
    options = (
        padding + bytes((kind, 7, 4)) + router.packed
        for kind in (131, 137)
        for padding in (b"", b"\1\1")
    )
    return [
        (socket.IPPROTO_IP, socket.IP_OPTIONS, each + bytes(-len(each) % 4)) for each in options
    ]


def _prepared(new, source, device):
    with contextlib.suppress(OSError):
        if device is not None:
            new.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, device.encode())
        if source is not None:
            new.bind((source, 0))
        return True
    return False  # the address has gone with its device


def _datagram(family, source, device, destination):
    with socket.socket(family, socket.SOCK_DGRAM) as new:
        if _prepared(new, source, device):
            with contextlib.suppress(OSError):
                new.sendto(PAYLOAD, (destination, PORT))


def _stream(family, source, device, destination):
    with socket.socket(family, socket.SOCK_STREAM) as new:
        new.settimeout(0)
        if _prepared(new, source, device):
            with contextlib.suppress(OSError):
                new.connect((destination, 80))


def _raw(family, source, device, destination):
    """Send a whole IP packet, and one of a protocol that no program registered (253)."""
    packed = [ipaddress.ip_address(each).packed for each in (source, destination)]
    udp = struct.pack("!HHHH", PORT, PORT, 8 + len(PAYLOAD), 0) + PAYLOAD
    if family == socket.AF_INET:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    else:
        header = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64)
    for protocol, packet in (
        (socket.IPPROTO_RAW, header + b"".join(packed) + udp),
        (253, PAYLOAD),
    ):
        with socket.socket(family, socket.SOCK_RAW, protocol) as new:
            if _prepared(new, None, device):
                with contextlib.suppress(OSError):
                    new.sendto(packet, (destination, 0))
