"""Circuits of literal values over an underlay, each node by the kernel or the userspace engine.

alice is the source, mix1 to mixN the hops, bob the destination outside. The configurations are
the translator's; keys and addresses are made up here, as if all handshakes had been done.
"""

import contextlib
import ipaddress
import os
import selectors
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from overlay.addresses import CircuitAddress, Endpoint, InnerAddress, OverlayAddress
from overlay.apm.circuits import ExitIpsecInfo, OnionSas, RelayIpsecInfo, SourceIpsecInfo
from overlay.apm.inner_addresses import InnerAddresses
from overlay.apm.translator import (
    translate_exit,
    translate_inner,
    translate_relay,
    translate_source,
)
from overlay.ipsec.interface import Spi
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.ipsec.xfrm.backend import XfrmBackend
from overlay.ipsec.xfrm.encapsulation import decapsulate_esp
from overlay.link.events import LinkKeys
from overlay.link.security import FIRST_CIRCUIT_REQID, LinkSecurity, link_configuration
from overlay.sensitive import SecretBytes
from overlay.system.tun import TunDevice
from overlay.system.udp import bound_socket

PORT = 4500
POOLS = (ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fdcc::/16"))
INNER = tuple(ipaddress.ip_address(address) for address in ("100.64.0.2", "fdcc::2"))
ROOM = "mtu 1100 advmss 1040"


@dataclass(frozen=True)
class Circuit:
    """What alice and the hops agreed on."""

    hops: int
    onion_suite: int = 3
    link_suite: int = 3
    underlay_version: int = 4
    link_pad_to: int = 0

    def overlay_address(self, node):
        """V(node); node 0 is alice."""
        return OverlayAddress(bytes.fromhex("fd6d6978") + bytes(11) + bytes([node]))

    def circuit_address(self, index):
        return CircuitAddress(bytes.fromhex("fd636972") + bytes(11) + bytes([0x10 + index]))

    def endpoint(self, host):
        return Endpoint(str((host.ipv4 if self.underlay_version == 4 else host.ipv6).ip), PORT)

    def onion(self, hop):
        """The SAs between alice and hop 1 to n."""
        size = SUITES[self.onion_suite].keymat_bytes
        return OnionSas(
            hop=self.overlay_address(hop),
            near=self.circuit_address(hop - 1),
            esp_suite=self.onion_suite,
            forward_spi=Spi(0x20000 + hop),
            backward_spi=Spi(0x30000 + hop),
            forward_keymat=SecretBytes(Random(f"forward {hop}").randbytes(size)),
            backward_keymat=SecretBytes(Random(f"backward {hop}").randbytes(size)),
            forward_reqid=FIRST_CIRCUIT_REQID + 2 * hop,
            backward_reqid=FIRST_CIRCUIT_REQID + 2 * hop + 1,
            chain=SecretBytes(bytes(32)),
        )

    def link(self, hosts, local, remote):
        """The link from node to neighbouring node: its configuration and its security."""
        mine, theirs = self.endpoint(hosts[local]), self.endpoint(hosts[remote])
        size = SUITES[self.link_suite].keymat_bytes
        keymats = {
            (a, b): SecretBytes(Random(f"{a}-{b}").randbytes(size))
            for a, b in ((local, remote), (remote, local))
        }
        keys = LinkKeys(
            suite=self.link_suite,
            inbound_spi=Spi(0x1000 + 16 * remote + local),
            inbound_keymat=keymats[remote, local],
            outbound_spi=Spi(0x1000 + 16 * local + remote),
            outbound_keymat=keymats[local, remote],
        )
        reqid = 1 + remote
        configuration = link_configuration(
            self.overlay_address(local),
            self.overlay_address(remote),
            local=mine,
            remote=theirs,
            keys=keys,
            reqid=reqid,
            tfc_pad_to=self.link_pad_to,
        )
        return configuration, LinkSecurity(reqid, mine.packed, theirs.packed)

    def configurations(self, hosts, node, targets):
        """All that one node installs."""
        neighbours = [each for each in (node - 1, node + 1) if 0 <= each <= self.hops]
        links = {each: self.link(hosts, node, each) for each in neighbours}
        found = [configuration for configuration, _ in links.values()]
        inner = InnerAddresses(*(InnerAddress(address.packed) for address in INNER))
        if node == 0:
            sas = tuple(self.onion(hop) for hop in range(1, self.hops + 1))
            info = SourceIpsecInfo(sas, links[1][1])
            found.append(translate_source(info))
            found += [translate_inner(info, inner, target) for target in targets]
        elif node == self.hops:
            found.append(translate_exit(ExitIpsecInfo(self.onion(node), links[node - 1][1], inner)))
        else:
            far, next_hop = self.circuit_address(node), self.overlay_address(node + 1)
            previous, following = links[node - 1][1], links[node + 1][1]
            info = RelayIpsecInfo(self.onion(node), previous, far, next_hop, following)
            found.append(translate_relay(info))
        return found


class KernelNode:
    """One node whose packets the kernel carries."""

    def __init__(self, host, endpoint, *, experiment=False):
        self.host = host
        self.socket = host.namespace.call(lambda: bound_socket(endpoint))
        host.namespace.call(lambda: decapsulate_esp(self.socket))
        self.backend = host.namespace.call(
            lambda: XfrmBackend(rng=Random(1), experiment=experiment, routed=POOLS)
        )

    def install(self, configuration):
        self.backend.install(configuration)

    def start(self, role):
        pass

    def close(self):
        self.backend.close()
        self.socket.close()


class UserspaceNode:
    """One node whose packets a thread of ours carries."""

    def __init__(self, host, endpoint, *, experiment=False):
        self.host = host
        self.socket = host.namespace.call(lambda: bound_socket(endpoint))
        self.engine = UserspaceEngine(rng=Random(2), experiment=experiment)
        self.tun = None
        self._stop, self._stopped = os.pipe()
        self._thread = None

    def install(self, configuration):
        self.engine.install(configuration)

    def start(self, role):
        if role != "relay":
            self.tun = self.host.namespace.call(lambda: TunDevice.open("tun%d", 1500))
            held = INNER if role == "source" else ()
            reached = () if role == "source" else INNER
            self.host.namespace.configure(
                [f"address add {address} dev {self.tun.name}" for address in held]
                + [f"route add {address} dev {self.tun.name}" for address in reached]
            )
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _carry(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ, self._from_network)
            selector.register(self._stop, selectors.EVENT_READ, None)
            if self.tun is not None:
                selector.register(self.tun, selectors.EVENT_READ, self._from_host)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    with contextlib.suppress(BlockingIOError):
                        key.data()

    def _from_network(self):
        data, sender = self.socket.recvfrom(65535)
        if data[:4] == bytes(4):
            return
        processed = self.engine.process_inbound([(data, Endpoint(*sender[:2]))], time.time())
        self._send(processed)
        if self.tun:
            self.tun.write_batch(processed.to_host + processed.to_exit)

    def _from_host(self):
        packet = os.read(self.tun.fileno(), 65535)
        self._send(self.engine.process_outbound([packet], time.time()))

    def _send(self, processed):
        for data, to in processed.to_network:
            self.socket.sendto(data, tuple(to))

    def close(self):
        os.close(self._stopped)
        if self._thread:
            self._thread.join()
        os.close(self._stop)
        if self.tun:
            self.tun.close()
        self.socket.close()


KINDS = {"k": KernelNode, "u": UserspaceNode}


@contextlib.contextmanager
def running(circuit, underlay, kinds):
    """Install a circuit; ``kinds`` has a letter for alice and each hop: k(ernel) or u(serspace)."""
    alice, *mixes, bob = underlay.hosts
    hosts = [alice, *mixes[: circuit.hops]]
    targets = [ipaddress.ip_network(address.ip) for address in (bob.ipv4, bob.ipv6)]
    experiment = 11 in (circuit.onion_suite, circuit.link_suite)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_routes(underlay, hosts[-1], targets, kinds[0]))
        nodes = []
        for host, kind in zip(hosts, kinds, strict=True):
            node = KINDS[kind](host, circuit.endpoint(host), experiment=experiment)
            stack.callback(node.close)
            nodes.append(node)
        for number, node in enumerate(nodes):
            for configuration in circuit.configurations(hosts, number, targets):
                node.install(configuration)
            ends = {0: "source", circuit.hops: "exit"}
            node.start(ends.get(number, "relay"))
        if kinds[0] == "u":
            alice.namespace.configure(
                [f"route add {target} dev {nodes[0].tun.name} {ROOM}" for target in targets]
            )
        before = [error_counters(host) for host in hosts]
        yield nodes
        assert [error_counters(host) for host in hosts] == before


@contextlib.contextmanager
def _routes(underlay, last, targets, first_kind):
    """Answers to the inner addresses reach the exit; alice's packets have room for the tunnels."""
    vias = (last.ipv4.ip, last.ipv6.ip)
    alice = underlay.hosts[0]
    gateways = [(interface.network.network_address + 1) for interface in (alice.ipv4, alice.ipv6)]
    core = [f"route add {pool} via {via}" for pool, via in zip(POOLS, vias, strict=True)]
    source = [
        f"route add {target} via {gateway} dev eth0 {ROOM}"
        for target, gateway in zip(targets, gateways, strict=True)
    ] if first_kind == "k" else []  # fmt: skip
    underlay.core.configure(core)
    try:
        alice.namespace.configure(source)
        yield
    finally:
        underlay.core.configure([line.replace(" add ", " del ") for line in core])
        if source:
            alice.namespace.configure([f"route del {target}" for target in targets])


def error_counters(host):
    """The counters of /proc/net/xfrm_stat that are not zero."""
    statistics = Path("/proc/thread-self/net/xfrm_stat")
    lines = host.namespace.call(statistics.read_text).splitlines()
    counters = dict(line.split() for line in lines)
    assert len(counters) > 20
    return {name: int(count) for name, count in counters.items() if int(count)}
