"""Send all kinds of packets to a host from its cable, and record its reactions."""

import socket
import time
from collections import Counter

from scapy.layers import inet, inet6, l2, sctp
from scapy.layers.igmp import IGMP
from scapy.packet import Raw

HARDWARE = "02:00:00:00:00:01"
GATEWAYS = ("10.1.0.1", "fd00:1::1")
OWN = ("10.1.0.2", "fd00:1::2")
FAR = ("203.0.113.10", "2001:db8:113::10")
NEAR = ("10.1.0.9", "fd00:1::9")
OTHERS = ("198.51.100.7", "2001:db8:77::7")
INNER = ("100.64.1.2", "fd99::12")
ABSENT = ("100.64.9.9", "fd99::99")
STAND_INS = ("192.0.0.8", "100:0:0:1::8")
OPEN, CLOSED, EVERYWHERE, EXACT = 80, 81, 7000, 7001
QUIET_S = 0.4

COMMANDS = f"""
link set lo up
link add eth0 address 02:00:00:00:00:02 type veth peer name peer0 netns PEER
address add {OWN[0]}/16 dev eth0
address add {OWN[1]}/64 dev eth0 nodad
link set eth0 up
route add default via {GATEWAYS[0]}
route add default via {GATEWAYS[1]}
"""
NEIGHBOURS = [
    f"neighbour replace {each} lladdr {HARDWARE} dev eth0 nud permanent"
    for each in (*GATEWAYS, *NEAR)
]
KERNEL = {
    "ipv6__conf__default__accept_dad": 0,
    "ipv6__conf__default__accept_ra": 0,
    "ipv6__conf__default__router_solicitations": 0,
    "ipv4__icmp_ratelimit": 0,
    "ipv6__icmp__ratelimit": 0,
    "ipv4__icmp_echo_ignore_broadcasts": 0,
    "ipv4__icmp_msgs_per_sec": 100_000,
    "ipv4__icmp_msgs_burst": 100_000,
    "ipv4__tcp_challenge_ack_limit": 100_000,
    "ipv4__conf__all__send_redirects": 0,  # the kernel sends some of them alone
    "ipv4__conf__default__send_redirects": 0,
}


def connect(namespace, outside, **kernel):
    """Make the namespace a host with one cable, whose other end is the stranger's."""
    outside.set_kernel(ipv6__conf__default__disable_ipv6=1)
    namespace.set_kernel(**KERNEL)
    lines = COMMANDS.replace("PEER", str(outside.pid)).splitlines()
    namespace.configure([each for each in lines if each])
    outside.configure(["link set peer0 up"])
    if kernel:
        namespace.set_kernel(**kernel)
    namespace.configure(NEIGHBOURS)


def layer(source, destination, **fields):
    if ":" in destination:
        names = {"ttl": "hlim", "proto": "nh"}
        given = {names.get(key, key): value for key, value in fields.items()}
        return inet6.IPv6(src=source, dst=destination, **given)
    return inet.IP(src=source, dst=destination, **fields)


def contents(port):
    """Return name -> what may follow an IP header; source ports are from ``port`` on."""
    flags = ("S", "A", "F", "FPU", "", "SF", "R", "SA")
    made = {
        f"tcp {flag} {to}": inet.TCP(dport=to, flags=flag, seq=7, ack=9)
        for flag in flags
        for to in (OPEN, CLOSED)
    }
    for to in (CLOSED, EVERYWHERE, EXACT):
        made[f"udp {to}"] = inet.UDP(dport=to) / Raw(b"question")
    for number, each in enumerate(made.values()):
        each.sport = port + number
    made["sctp"] = sctp.SCTP(sport=port, dport=OPEN) / sctp.SCTPChunkInit()
    return made


def asked(source, destination, port, **fields):
    """Return packets of all kinds from one address to another."""
    ip = layer(source, destination, **fields)
    packets = [ip / each for each in contents(port).values()]
    for protocol in (47, 200):
        packets.append(layer(source, destination, proto=protocol, **fields) / Raw(b"none"))
    packets.append(ip / inet.TCP(sport=port, dport=OPEN, flags="R", seq=8))  # ends what "S" began
    about = layer(destination, source) / inet.UDP(sport=4321, dport=1234) / Raw(b"12345678")
    if ":" in destination:
        packets += [ip / inet6.ICMPv6EchoRequest(id=port), ip / inet6.ICMPv6DestUnreach() / about]
        packets.append(ip / inet6.ICMPv6PacketTooBig(mtu=1280) / about)
        packets.append(ip / inet6.IPv6ExtHdrDestOpt(options=[inet6.HBHOptUnknown(otype=0x80)]))
        echo = (
            ip
            / inet6.IPv6ExtHdrFragment(id=port)
            / inet6.ICMPv6EchoRequest(id=port, data=b"x" * 2000)
        )
        packets += inet6.fragment6(echo, 1280)
    else:
        packets += [ip / inet.ICMP(id=port), ip / inet.ICMP(type=13, id=port)]
        packets += [ip / inet.ICMP(type=3, code=1) / about, ip / inet.ICMP(type=3, code=4) / about]
        recorded = layer(source, destination, options=[inet.IPOption_RR(length=39)], **fields)
        packets.append(recorded / inet.ICMP(id=port))
        packets += inet.fragment(ip / inet.ICMP(id=port) / Raw(b"x" * 2000), 1200)
    return packets


def framed(packets):
    """Return frames; what has no link header yet is for the host."""
    head = l2.Ether(src=HARDWARE, dst="02:00:00:00:00:02")
    return [bytes(each if l2.Ether in each else head / each) for each in packets]


def told(packet):
    """Return what an answer says, without what is random."""
    parts = [packet.dst]
    if l2.ARP in packet:
        arp = packet[l2.ARP]
        return f"arp {arp.op} {arp.psrc} {arp.pdst} {packet.dst}"
    for each in (inet.IP, inet6.IPv6):
        if each in packet:
            ip = packet[each]
            parts += [ip.src, "->", ip.dst, getattr(ip, "ttl", None) or getattr(ip, "hlim", None)]
            break
    else:
        return "other"
    if inet.TCP in packet:
        tcp = packet[inet.TCP]
        return " ".join(map(str, (*parts, "tcp", tcp.sport, tcp.dport, tcp.flags)))
    names = [each.__name__ for each in packet.layers()[2:]]
    icmp = [each for each in packet.layers() if each.__name__.startswith("ICMP")]
    if icmp:
        parts += [packet[icmp[0]].type, packet[icmp[0]].code]
    for each in (inet.IPerror, inet6.IPerror6):
        if each in packet:
            parts += ["about", packet[each].src, packet[each].dst]
    for each in (inet.UDP, inet.UDPerror, inet.TCPerror):
        if each in packet:
            parts += [packet[each].sport, packet[each].dport]
    if inet6.ICMPv6ND_NA in packet:
        parts.append(packet[inet6.ICMPv6ND_NA].tgt)
    return " ".join(map(str, (*parts, *names)))


class Stranger:
    """A packet socket at the other end of a host's cable."""

    def __init__(self, namespace):
        self._socket = namespace.call(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        )
        self._socket.bind(("peer0", 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_000_000)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def ask(self, frames):
        """Send frames, and count what came back until nothing more came for a while."""
        for each in frames:
            self._socket.send(each)
        found = []
        self._socket.settimeout(QUIET_S)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                data, (_, _, kind, *_) = self._socket.recvfrom(4000)
            except TimeoutError:
                break
            if kind != socket.PACKET_OUTGOING:
                found.append(l2.Ether(data))
        # What the host says unasked.
        noise = (inet6.ICMPv6ND_NS, inet6.ICMPv6MLReport2, inet6.ICMPv6ND_RS)
        return Counter(told(each) for each in found if not any(kind in each for kind in noise))


def arp(sender, target):
    request = l2.ARP(op=1, hwsrc=HARDWARE, psrc=sender, pdst=target)
    return l2.Ether(src=HARDWARE, dst="ff:ff:ff:ff:ff:ff") / request


def solicitation(sender, target):
    options = inet6.ICMPv6NDOptSrcLLAddr(lladdr=HARDWARE) if sender != "::" else Raw(b"")
    ip = inet6.IPv6(src=sender, dst=target, hlim=255)
    return (
        l2.Ether(src=HARDWARE, dst="33:33:ff:00:00:01")
        / ip
        / inet6.ICMPv6ND_NS(tgt=target)
        / options
    )


def igmp_query(source):
    return (
        l2.Ether(src=HARDWARE, dst="01:00:5e:00:00:01")
        / inet.IP(src=source, dst="224.0.0.1", ttl=1)
        / IGMP(type=0x11, mrcode=1)
    )
