"""Datagrams whose headers carry marks, and what of the marks a vantage point sees.

Whatever IPsec opens on a host is seen on its interface once more, so a capture there shows each
layer as that host sees it: the link's, those of the onion, and the innermost.
"""

import contextlib
import ipaddress
import socket
import struct
from typing import NamedTuple

from lab.capture import Capture
from overlay.forwarding.checksum import internet_checksum

_RECORD = struct.Struct("=IIII")
_IPV6_HDRINCL = 36
_CONGESTION_EXPERIENCED = 3


class Marks(NamedTuple):
    """Values that no stack chooses by itself."""

    flow_label: int
    traffic_class: int
    hop_limit: int
    identification: int


SERVER = Marks(0xABCDE, 0xB8, 113, 0xBEEF)
PROGRAM = Marks(0x54321, 0x28, 201, 0xCAFE)
ORDINARY = Marks(0, 0, 64, 0)
ROUTER = 0x4B
"""A traffic class: a DSCP, and "congestion experienced"."""

UNLABELLED = PROGRAM._replace(flow_label=0)


class Header(NamedTuple):
    """The fields of one IP header; identification and flags are IPv4's."""

    version: int
    source: str
    destination: str
    flow_label: int
    traffic_class: int
    hop_limit: int
    identification: int
    flags: int
    protocol: int
    length: int

    def marked_by(self, marks):
        """Whether a field has one of the marks."""
        return (
            self.flow_label == marks.flow_label
            or self.traffic_class & ~_CONGESTION_EXPERIENCED == marks.traffic_class
            or self.hop_limit in range(marks.hop_limit - 4, marks.hop_limit + 1)
            or (self.version == 4 and self.identification == marks.identification)
        )


def marked_datagram(marks, source, destination, payload):
    """An IP packet with a UDP datagram; ends are (address, port)."""
    datagram = struct.pack(">HHHH", source[1], destination[1], 8 + len(payload), 0) + payload
    return _packet(marks, source[0], destination[0], 17, datagram, 6)


def reset(source, destination):
    """A TCP segment that ends a connection, which need not exist."""
    segment = struct.pack(">HHIIBBHHH", source[1], destination[1], 7, 0, 0x50, 4, 0, 0, 0)
    return _packet(ORDINARY, source[0], destination[0], 6, segment, 16)


def _packet(marks, source, destination, protocol, upper, checksum_at):
    ends = b"".join(ipaddress.ip_address(each).packed for each in (source, destination))
    pseudo = ends + struct.pack(">II", len(upper), protocol)
    checksum = (internet_checksum(pseudo + upper) or 0xFFFF).to_bytes(2, "big")
    upper = upper[:checksum_at] + checksum + upper[checksum_at + 2 :]
    if len(ends) == 32:
        first = 6 << 28 | marks.traffic_class << 20 | marks.flow_label
        return struct.pack(">IHBB", first, len(upper), protocol, marks.hop_limit) + ends + upper
    fields = (0x45, marks.traffic_class, 20 + len(upper), marks.identification, 0x4000)
    header = struct.pack(">BBHHHBB", *fields, marks.hop_limit, protocol) + bytes(2) + ends
    checksum = internet_checksum(header).to_bytes(2, "big")
    return header[:10] + checksum + header[12:] + upper


def inner_address(path, version):
    """The address of this IP version that the exit lent to a path."""
    addresses = map(ipaddress.ip_address, path.inner_addresses)
    return next(str(each) for each in addresses if each.version == version)


def send_raw(namespace, packet):
    """Send a whole IP packet as a program with a raw socket does; a filter may refuse it."""
    six = packet[0] >> 4 == 6
    address = str(ipaddress.ip_address(packet[24:40] if six else packet[16:20]))

    def send():
        kind = socket.AF_INET6 if six else socket.AF_INET
        with socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            if six:
                raw.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
            with contextlib.suppress(PermissionError):
                raw.sendto(packet, (address, 0))

    namespace.call(send)


def headers(path):
    """All IP headers of a capture on Ethernet, in order."""
    data, at = path.read_bytes(), 24
    while at + _RECORD.size <= len(data):
        _, _, kept, _ = _RECORD.unpack_from(data, at)
        frame = data[at + _RECORD.size : at + _RECORD.size + kept]
        at += _RECORD.size + kept
        found = parse_header(frame[14:])
        if found is not None:
            yield found


def parse_header(data):
    """The header at the front of ``data``, None if there is none."""
    if len(data) >= 40 and data[0] >> 4 == 6:
        first, length = int.from_bytes(data[:4], "big"), 40 + int.from_bytes(data[4:6], "big")
        ends = (str(ipaddress.ip_address(each)) for each in (data[8:24], data[24:40]))
        return Header(6, *ends, first & 0xFFFFF, first >> 20 & 0xFF, data[7], 0, 0, data[6], length)
    if len(data) >= 20 and data[0] >> 4 == 4:
        ends = (str(ipaddress.ip_address(each)) for each in (data[12:16], data[16:20]))
        flags = int.from_bytes(data[6:8], "big")
        identification = int.from_bytes(data[4:6], "big")
        length = int.from_bytes(data[2:4], "big")
        limit, protocol = data[8:10]
        return Header(4, *ends, 0, data[1], limit, identification, flags, protocol, length)
    return None


@contextlib.contextmanager
def captured(overlay, names, directory):
    """Capture at all named hosts while inside; yield where each capture will be."""
    directory.mkdir(exist_ok=True)
    paths = {name: directory / f"{name}.pcap" for name in names}
    with contextlib.ExitStack() as stack:
        for name, path in paths.items():
            namespace = overlay.namespace(name)
            stack.enter_context(Capture(namespace, "eth0", path, most_packets=4000))
        yield paths


def layers_of(path, outside):
    """The headers of a capture but those in the clear between addresses of ``outside``."""
    return [h for h in headers(path) if not {h.source, h.destination} <= set(outside)]


def check_no_marks(overlay, directory, source, hops):
    """Nothing on a link or in any layer tells of marks that a server, a program or a router sets.

    The routers between the hosts mark every packet of a link (RFC 3168, and a DSCP beside).
    """
    for program in ("iptables-legacy", "ip6tables-legacy"):
        rule = ["FORWARD", "-p", "udp", "--dport", "4500", "-j", "TOS", "--set-tos", hex(ROUTER)]
        overlay.underlay.core.run([program, "-t", "mangle", "-A", *rule])
    for version, target in zip((4, 6), overlay.targets(), strict=True):
        with overlay.path(source, hops, target) as path:
            inner = inner_address(path, version)
            labelled = marked_datagram(PROGRAM, (inner, 9), (str(target), 9), b"labelled")
            with captured(overlay, [source, *hops], directory / str(version)) as seen:
                overlay.marked_both_ways(source, target, inner, UNLABELLED)
                send_raw(overlay.namespace(source), labelled)
                overlay.marked_both_ways(source, target, inner, UNLABELLED)
        exit_host = overlay.nodes[hops[-1]].host
        outside = {str(target), str(exit_host.ipv4.ip), str(exit_host.ipv6.ip)}
        clear = [h for h in headers(seen[hops[-1]]) if {h.source, h.destination} <= outside]
        assert sum(h.marked_by(SERVER) for h in clear) >= 2, "the marks reach the exit"
        assert not any(h.marked_by(PROGRAM) for h in clear), "those of programs do not leave it"
        for name, path in seen.items():
            _check_layers(overlay.nodes[name].host, layers_of(path, outside))
        if source.endswith("k"):
            limits = {h.hop_limit for h in headers(seen[source]) if h.destination == inner}
            assert limits == {64}, "what is innermost was looked at"


def _check_layers(host, layers):
    own = {str(host.ipv4.ip), str(host.ipv6.ip)}
    assert len([h for h in layers if h.traffic_class == ROUTER]) >= 2, "links were marked"
    for header in layers:
        assert not header.marked_by(SERVER), (host.name, header)
        assert not header.marked_by(PROGRAM), (host.name, header)
        assert header.flow_label == 0, (host.name, header)
        assert header.traffic_class == 0 or header.destination in own, (host.name, header)
        if header.destination.startswith(("fd6d:6978:", "fd63:6972:")):
            assert header.hop_limit == 64, (host.name, header)
