"""Send questions to a host from another host, and return its answers."""

import contextlib
import json
import socket
import time

from scapy.layers import inet, inet6, l2
from scapy.packet import Raw

OPEN, CLOSED, EVERYWHERE, EXACT = 80, 81, 7000, 7001
"""TCP ports, then UDP ports of a service bound to the wildcard and of one bound to an address."""
REDIRECTED, PUBLISHED, LOCAL = 7778, 7779, 7780
"""Ports that :func:`publish` makes, and where both lead."""
FIRST_PORT = 20_000
SILENCE_S = 0.3
"""All answers come at once, but for those to lone fragments (``FRAGMENTS_S``)."""
FRAGMENTS_S = 1.8


def questions(ip, icmp):
    """Return name -> what follows the link's header; each has a source port of its own."""
    flags = {"syn": "S", "ack": "A", "fin": "F", "xmas": "FPU", "null": "", "syn-fin": "SF"}
    asked = {
        f"{name} {port}": ip / inet.TCP(dport=port, flags=flag, seq=7, ack=9)
        for name, flag in flags.items()
        for port in (OPEN, CLOSED)
    }
    for port in (CLOSED, EVERYWHERE, EXACT):
        asked[f"udp {port}"] = ip / inet.UDP(dport=port) / Raw(b"question")
    for number, (name, packet) in enumerate(asked.items()):
        packet.payload.sport = FIRST_PORT + number
        asked[name] = packet
    return asked | icmp


def all_questions(own4, own6, asked4, asked6):
    ip4, ip6 = inet.IP(src=own4, dst=asked4), inet6.IPv6(src=own6, dst=asked6)
    four = questions(
        ip4,
        {
            "echo": ip4 / inet.ICMP(id=77),
            "timestamp": ip4 / inet.ICMP(type=13, id=78),
            "protocol": ip4.copy() / Raw(b"no such protocol"),
            "lone fragment": inet.IP(src=own4, dst=asked4, flags="MF", id=5)
            / inet.UDP(sport=79, dport=CLOSED, len=100)
            / Raw(b"12345678"),
        },
    )
    four["protocol"].proto = 200
    six = questions(
        ip6,
        {
            "echo": ip6 / inet6.ICMPv6EchoRequest(id=77),
            "header": ip6.copy() / Raw(b"no such header!!"),
            "lone fragment": ip6
            / inet6.IPv6ExtHdrFragment(m=1, id=5, nh=17)
            / inet.UDP(sport=79, dport=CLOSED, len=100)
            / Raw(b"12345678"),
        },
    )
    six["header"].nh = 200
    return {f"4 {name}": p for name, p in four.items()} | {f"6 {n}": p for n, p in six.items()}


def told(packet):
    """Return what an answer says, without what is random."""
    if inet.TCP in packet:
        return f"tcp {packet[inet.TCP].sport} {packet[inet.TCP].flags}"
    names = [layer.__name__ for layer in packet.layers() if layer is not l2.Ether]
    if inet.ICMP in packet:
        return f"icmp {packet[inet.ICMP].type} {packet[inet.ICMP].code}"
    if inet.UDP in packet:
        return f"udp {packet[inet.UDP].sport} {bytes(packet[inet.UDP].payload).decode()}"
    return " ".join(names)


def key_of(packet):
    """Return what ties an answer to its question: a port, or nothing but the version."""
    version = 6 if inet6.IPv6 in packet else 4
    for layer in (inet.TCP, inet.UDP):
        if layer in packet:
            return version, packet[layer].dport
    for layer in (inet.TCPerror, inet.UDPerror):
        if layer in packet:
            return version, packet[layer].sport
    return version, 0


class Asker:
    """Another host at the cable of a host of the laboratory, with a packet socket."""

    def __init__(self, host, hardware, own, asked):
        """``hardware`` leads to the asked host; ``own`` and ``asked`` are IPv4, then IPv6."""
        self._own, self._asked = own, asked
        self._hardware = hardware
        self._socket = host.namespace.call(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        )
        self._socket.bind((host.interface, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)

    def close(self):
        self._socket.close()

    def answers(self, *, fragments=False):
        """Return question -> what came back until nothing more came for a while."""
        asked = all_questions(*self._own, *self._asked)
        asked = {name: each for name, each in asked.items() if fragments or "lone" not in name}
        names = {}
        for name, packet in asked.items():
            port = next((packet[x].sport for x in (inet.TCP, inet.UDP) if x in packet), 0)
            names[(int(name[0]), port)] = name if port else f"{name[0]} without ports"
            self._socket.send(bytes(l2.Ether(dst=self._hardware) / packet))
        answers = {name: set() for name in names.values()}
        self._socket.settimeout(FRAGMENTS_S if fragments else SILENCE_S)
        while True:
            try:
                packet = l2.Ether(self._socket.recv(2000))
            except TimeoutError:
                return {name: sorted(found) for name, found in answers.items()}
            layer = next((packet[x] for x in (inet.IP, inet6.IPv6) if x in packet), None)
            name = names.get(key_of(packet))
            if layer is None or layer.src not in self._asked or name is None:
                continue
            if layer.dst in self._own and not is_neighbour_discovery(packet):
                answers[name].add(told(packet))


def is_neighbour_discovery(packet):
    return inet6.ICMPv6ND_NS in packet or inet6.ICMPv6ND_NA in packet


class Wire:
    """A neighbour's packet socket on alice's cable."""

    def __init__(self, alice):
        self._socket = alice.core.call(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        )
        self._socket.bind((alice.core_interface, 0))
        self.own = self._socket.getsockname()[4]
        shown = alice.namespace.run(["ip", "-j", "link", "show", alice.interface]).stdout
        self.alice = json.loads(shown)[0]["address"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def send(self, packet, *, hardware=None):
        source = ":".join(f"{octet:02x}" for octet in self.own)
        frame = l2.Ether(src=source, dst=hardware or self.alice)
        self._socket.send(bytes(frame / packet))

    def received(self):
        """Return the packets of a short time."""
        time.sleep(SILENCE_S)
        self._socket.setblocking(False)
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(l2.Ether(self._socket.recv(2000)))
        return found

    def arp_answers(self, *asked):
        """Return those of the IPv4 addresses that alice says she has."""
        for each in asked:
            request = l2.ARP(op=1, hwsrc=self.own, psrc="0.0.0.0", pdst=each)
            self.send(request, hardware="ff:ff:ff:ff:ff:ff")
        answers = [p[l2.ARP] for p in self.received() if p.src == self.alice and l2.ARP in p]
        return {each.psrc for each in answers if each.op == 2}


def publish(alice, by_nftables, other):
    """Redirect one port to a service of this host and one to another host, as Docker does."""
    alice.namespace.set_kernel(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
    if by_nftables:
        both = "meta l4proto { tcp, udp } th dport"
        lines = [
            f"{both} {REDIRECTED} redirect to :{LOCAL}",
            f"fib daddr type local meta nfproto ipv4 {both} {PUBLISHED} "
            f"dnat ip to {other.ipv4.ip}:{LOCAL}",
            f"fib daddr type local meta nfproto ipv6 {both} {PUBLISHED} "
            f"dnat ip6 to [{other.ipv6.ip}]:{LOCAL}",
        ]
        rules = "\n".join(lines)
        chain = f"chain p {{\ntype nat hook prerouting priority dstnat;\n{rules}\n}}"
        alice.namespace.run(["nft", "-f", "-"], text_input=f"table inet docker {{\n{chain}\n}}\n")
        return
    for program, to in (("iptables", other.ipv4.ip), ("ip6tables", f"[{other.ipv6.ip}]")):
        for protocol in ("tcp", "udp"):
            head = [f"{program}-legacy", "-t", "nat", "-A", "PREROUTING", "-p", protocol, "--dport"]
            there = ["-j", "REDIRECT", "--to-ports", str(LOCAL)]
            alice.namespace.run([*head, str(REDIRECTED), *there])
            away = ["-j", "DNAT", "--to-destination", f"{to}:{LOCAL}"]
            alice.namespace.run(
                [*head, str(PUBLISHED), "-m", "addrtype", "--dst-type", "LOCAL", *away]
            )
