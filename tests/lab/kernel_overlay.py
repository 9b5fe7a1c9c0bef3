"""Node processes inside the kernel laboratory, some carried by the kernel and some by themselves.

A node's name ends with its backend: ``k`` for the kernel, ``u`` for userspace.
"""

import contextlib
import io
import ipaddress
import socket
import sys
import threading

from marks import SERVER, marked_datagram, send_raw
from streams import answer_reversed, ask_reversed, family

from lab.nodes import NodeProcess, wait_until
from lab.pinging import pings
from lab.underlay import Underlay
from overlay.cli.main import main as overlay_main
from overlay.control.client import ControlClient
from overlay.control.service import OpenPathsRequest

BUSY_S = 240
"""How long nodes may take to start or stop where others use the machine as well."""

BACKENDS = {"k": "xfrm", "u": "userspace"}
ROUTES = "ip route show table all; ip -6 route show table all; ip rule; ip -6 rule"
STATE = (
    f"ip xfrm state; ip xfrm policy; ip -br link; ip -br address; {ROUTES};"
    "iptables-legacy -t mangle -S; ip6tables-legacy -t mangle -S;"
    "iptables-legacy -t nat -S; ip6tables-legacy -t nat -S;"
    "cat /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv6/auto_flowlabels"
    " /proc/sys/net/ipv4/conf/eth0/forwarding; ls /proc/sys/net/ipv4/conf"
)


_IP_RECVTTL, _IP_RECVTOS = 12, 13
_HEADER_OPTIONS = {
    4: (socket.IPPROTO_IP, (socket.IP_TTL, socket.IP_TOS, _IP_RECVTTL, _IP_RECVTOS)),
    6: (
        socket.IPPROTO_IPV6,
        (
            *(socket.IPV6_UNICAST_HOPS, socket.IPV6_TCLASS),
            *(socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS),
        ),
    ),
}
"""Level; options that set hop limit and traffic class, and options that tell them."""


class PreparedNode(NodeProcess):
    """A node made without starting a program, which takes seconds in this kernel."""

    def cli(self, *arguments, **options):
        if arguments[0] != "init":
            return super().cli(*arguments, **options)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert overlay_main(list(arguments)) == 0
        return said.getvalue()


# Large: one method for each thing that tests do with an overlay.
class KernelOverlay:
    """Nodes of given names (the first is the bootstrap node) and bob, who is no node.

    ``settings`` are TOML sections for all of them. Those named in ``wildcards`` listen at the
    IPv4 wildcard.
    """

    def __init__(self, directory, names, settings="", wildcards=()):
        self.underlay = Underlay()
        self.nodes = {}
        for name in names:
            self.nodes[name] = PreparedNode(
                self.underlay.add_host(name), directory / name,
                exits=name.startswith("exit"), backend=BACKENDS[name[-1]], settings=settings,
                listen=["0.0.0.0:4500"] if name in wildcards else (),
            )  # fmt: skip
        self.bob = self.underlay.add_server("bob")
        self.untouched = {name: self.state(name) for name in names}

    def __enter__(self):
        try:
            boot, *others = self.nodes.values()
            self._start([boot], None)
            self._start(others, boot)
            for node in self.nodes.values():
                wait_until(
                    "the topology table", lambda n=node: self._knows_all(n), timeout_s=BUSY_S
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, nodes, boot):
        for node in nodes:
            node.start(boot)
        for node in nodes:
            wait_until(f"{node.host.name}'s start", lambda n=node: n.answers, timeout_s=BUSY_S)

    def _knows_all(self, node):
        with client(node) as asked:
            return asked.status().mix_nodes >= len(self.nodes) - 1

    def stop(self):
        """Ask all nodes to stop, and wait as long as a busy machine needs for it."""
        running = [node for node in self.nodes.values() if node.running]
        for node in running:
            with client(node) as asked:
                asked.stop()
        for node in running:
            wait_until(f"{node.host.name}'s end", lambda n=node: not n.running, timeout_s=BUSY_S)

    def __exit__(self, *_):
        for node in self.nodes.values():
            node.stop()
        self.underlay.close()

    def namespace(self, name):
        return self.nodes[name].host.namespace

    def state(self, name):
        return self.namespace(name).run(["sh", "-c", STATE]).stdout

    def status(self, name):
        with client(self.nodes[name]) as asked:
            return asked.status()

    def targets(self):
        return [self.bob.ipv4.ip, self.bob.ipv6.ip]

    def request(self, hops, destination):
        """Return the request for a path through named hops."""
        via = tuple(ipaddress.ip_address(self.nodes[h].overlay_address).packed for h in hops)
        return OpenPathsRequest((ipaddress.ip_network(destination),), None, "explicit", via)

    @contextlib.contextmanager
    def path(self, source, hops, destination):
        """A path through named hops while inside."""
        with client(self.nodes[source]) as asked:
            [report] = asked.open_paths(self.request(hops, destination))
        try:
            yield report
        finally:
            with client(self.nodes[source]) as asked:
                asked.close_path(report.number)

    def error_counters(self):
        """The counters of /proc/net/xfrm_stat that are not zero, of all hosts."""
        found = {}
        for name in self.nodes:
            lines = self.namespace(name).run(["cat", "/proc/net/xfrm_stat"]).stdout.splitlines()
            assert len(lines) > 20
            counted = {(name, k): int(v) for k, v in map(str.split, lines) if int(v)}
            found.update(counted)
        return found

    # Traffic from a program that knows of nothing.

    def ping(self, source, target, *, check=True, size=56, patience_s=5):
        done = pings(
            self.namespace(source), target, "-s", str(size), count=3, patience_s=patience_s
        )
        arrived = done.returncode == 0
        assert arrived or not check, f"{done.stdout}{done.stderr}{self.losses()}"
        return arrived

    def losses(self):
        """What every node and every kernel says that it dropped."""
        dropped = {name: self.status(name).drops for name in self.nodes}
        return f"dropped by nodes: {dropped}; by kernels: {self.error_counters()}"

    def tcp_both_ways(self, source, target, size=60_000):
        """Bob returns, reversed, all that was sent; return whom he saw."""
        sent, seen = bytes(range(250)) * (size // 250), []
        with self._listening(target, socket.SOCK_STREAM) as server:
            answering = threading.Thread(target=answer_reversed, args=(server, len(sent), seen))
            answering.start()
            with self._socket(source, target, socket.SOCK_STREAM) as client:
                client.connect(server.getsockname()[:2])
                ask_reversed(client, sent)
            answering.join()
        return seen[0]

    def udp_both_ways(self, source, target, payload=b"question" * 100, *, timeout_s=60):
        with (
            self._listening(target, socket.SOCK_DGRAM) as server,
            self._socket(source, target, socket.SOCK_DGRAM) as client,
        ):
            for each in (server, client):
                each.settimeout(timeout_s)
            client.sendto(payload, server.getsockname()[:2])
            question, asker = server.recvfrom(65_535)
            server.sendto(question[::-1], asker)
            assert client.recv(65_535) == payload[::-1]
        return asker[0]

    def marked_both_ways(self, source, target, inner, marks):
        """Send a marked datagram from ``inner`` to Bob, and a marked answer back."""
        with (
            self._listening(target, socket.SOCK_DGRAM) as server,
            self._socket(source, target, socket.SOCK_DGRAM) as client,
        ):
            client.bind((inner, 0))
            ends = [each.getsockname()[:2] for each in (client, server)]
            send_raw(self.namespace(source), marked_datagram(marks, *ends, b"question"))
            question, asker = server.recvfrom(100)
            answer = marked_datagram(SERVER, ends[1], asker[:2], b"answer")
            send_raw(self.bob.namespace, answer)
            assert (question, client.recv(100)) == (b"question", b"answer")

    def udp_learning_the_mtu(self, source, target, payload):
        """The same, but Bob's first answer may only teach him how large a packet may be."""
        try:
            return self.udp_both_ways(source, target, payload, timeout_s=2)
        except TimeoutError:
            return self.udp_both_ways(source, target, payload)

    def arriving(self, source, target, *, limit, traffic_class):
        """Send a datagram with its own TTL and traffic class; return what Bob sees of them."""
        level, names = _HEADER_OPTIONS[target.version]
        with (
            self._listening(target, socket.SOCK_DGRAM) as server,
            self._socket(source, target, socket.SOCK_DGRAM) as client,
        ):
            for option in names[2:]:
                server.setsockopt(level, option, 1)
            client.setsockopt(level, names[0], limit)
            client.setsockopt(level, names[1], traffic_class)
            client.sendto(b"see me", server.getsockname()[:2])
            _, told, _, _ = server.recvmsg(100, 200)
        # IPv4 tells the TOS in a single byte and the TTL in an int.
        found = {kind: int.from_bytes(data, sys.byteorder) for _, kind, data in told}
        limits = {socket.IP_TTL} if target.version == 4 else {socket.IPV6_HOPLIMIT}
        seen = next(value for kind, value in found.items() if kind in limits)
        return seen, next(value for kind, value in found.items() if kind not in limits)

    def timestamps_agreed(self, source, target):
        """Whether Bob's end of a TCP connection uses the timestamps option."""
        with (
            self._listening(target, socket.SOCK_STREAM) as server,
            self._socket(source, target, socket.SOCK_STREAM) as client,
        ):
            client.connect(server.getsockname()[:2])
            accepted, _ = server.accept()
            with accepted:
                return bool(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5] & 1)

    def _listening(self, target, kind):
        made = self.bob.namespace.call(lambda: socket.socket(family(target), kind))
        made.settimeout(60)
        made.bind((str(target), 0))
        if kind == socket.SOCK_STREAM:
            made.listen()
        return made

    def _socket(self, source, target, kind):
        made = self.namespace(source).call(lambda: socket.socket(family(target), kind))
        made.settimeout(60)
        return made


def client(node):
    return ControlClient(node.directory / "run" / "control.sock")
