"""What a protected host begins is answered as if there were no path; nothing else leaves."""

import contextlib
import json
import socket

import pytest
from questions import EVERYWHERE, EXACT, LOCAL, OPEN, PUBLISHED, Asker, publish

PREFIXES = ("203.0.113.10/32", "2001:db8:113::/64")
DESTINATIONS = ("203.0.113.10", "2001:db8:113::10")

SERVICES = f"""
import selectors, socket
chosen = selectors.DefaultSelector()
places = ((socket.AF_INET, "0.0.0.0", "{{ipv4}}"), (socket.AF_INET6, "::", "{{ipv6}}"))
for family, everywhere, exact in places:
    for kind, address, port in ((socket.SOCK_STREAM, everywhere, {OPEN}),
                                (socket.SOCK_DGRAM, everywhere, {EVERYWHERE}),
                                (socket.SOCK_DGRAM, exact, {EXACT})):
        new = socket.socket(family, kind)
        if family == socket.AF_INET6:
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        new.bind((address, port))
        if kind == socket.SOCK_STREAM:
            new.listen(50)
        chosen.register(new, selectors.EVENT_READ, kind)
print("ready", flush=True)
while True:
    for key, _ in chosen.select():
        if key.data == socket.SOCK_DGRAM:
            data, peer = key.fileobj.recvfrom(2000)
            try:
                key.fileobj.sendto(data[::-1], peer)
            except OSError:
                pass
        else:
            accepted = key.fileobj.accept()[0]
            with accepted:
                accepted.settimeout(1)
                try:
                    accepted.sendall(accepted.recv(100)[::-1])
                except OSError:
                    pass
"""

OWNER = """
import ipaddress, sys
from overlay.system.kill_switch import KillSwitch
from overlay.system.{module} import {name}
from overlay.system.rtnetlink import add_address
from overlay.system.tun import TunDevice

kill_switch = KillSwitch(packet_filter={name}())
device = TunDevice.open("anon%d", 1400)
pairs = [(ipaddress.ip_network(p), ipaddress.ip_address(a).packed)
         for p, a in (("{prefixes[0]}", "100.64.1.2"), ("{prefixes[1]}", "fd99::12"))]
print("ready", flush=True)
for line in sys.stdin:
    for prefix, inner in pairs:
        match line.strip():
            case "protect":
                kill_switch.protect(prefix)
            case "carry":
                kill_switch.expect(inner, device.name)
                add_address(device.name, inner)
                kill_switch.carry(prefix, device.name, inner, 1300)
            case "uncarry":
                kill_switch.uncarry(prefix)
            case "release":
                kill_switch.release(prefix)
    print("done", flush=True)
"""


@pytest.fixture(params=["nftables Nftables", "iptables Iptables"], ids=["nftables", "iptables"])
def filter_names(request):
    return request.param.split()


class Scene:
    """Alice with services, and a stranger at the protected place that asks her."""

    def __init__(self, underlay, script, filter_names, *, prefixes):
        self.alice, self.bob = underlay.add_host("alice"), underlay.add_server("bob")
        self.alice.namespace.set_kernel(
            ipv4__ipfrag_time=1,
            netfilter__nf_conntrack_frag6_timeout=1,
            ipv6__ip6frag_time=1,
            ipv4__icmp_ratelimit=0,
            ipv6__icmp__ratelimit=0,
        )
        source = SERVICES.format(ipv4=self.alice.ipv4.ip, ipv6=self.alice.ipv6.ip)
        assert script(self.alice.namespace, source).said == "ready"
        shown = self.bob.core.run(["ip", "-j", "link", "show", self.bob.core_interface]).stdout
        own = (str(self.alice.ipv4.ip), str(self.alice.ipv6.ip))
        for address in own:  # so that neighbours know each other when there are questions
            self.bob.namespace.run(["ping", "-c", "1", "-W", "10", address])
        self.asker = Asker(self.bob, json.loads(shown)[0]["address"], DESTINATIONS, own)
        module, name = filter_names
        self._owner = lambda: script(
            self.alice.namespace, OWNER.format(module=module, name=name, prefixes=prefixes)
        )

    def owner(self):
        """Start the kill switch's owner, which does as it is told."""
        started = self._owner()
        assert started.said == "ready"
        return started


@pytest.fixture
def scene(underlay, script, filter_names):
    # With iptables all is protected: the stand-ins, and the host's own addresses as well.
    prefixes = PREFIXES if filter_names[1] == "Nftables" else ("0.0.0.0/0", "::/0")
    made = Scene(underlay, script, filter_names, prefixes=prefixes)
    yield made
    made.asker.close()


def test_what_a_protected_host_begins_is_answered_in_every_state(scene, filter_names):
    fragments = filter_names[1] == "Nftables"  # iptables marks them when they are whole, no sooner
    reverse_path = 1 if fragments else 2
    scene.alice.namespace.set_kernel(
        ipv4__conf__all__rp_filter=reverse_path, ipv4__conf__eth0__rp_filter=reverse_path
    )
    # Connections that are tracked before there is a kill switch would not be translated.
    tracking = ["-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW"]
    for program in ("iptables-legacy", "ip6tables-legacy"):
        scene.alice.namespace.run([program, *tracking])
    free = scene.asker.answers(fragments=fragments)
    assert all(free[name] for name in ("4 syn 80", "4 udp 7000", "6 udp 7001", "6 without ports"))
    owner = scene.owner()
    for state in ("protect", "carry", "kill"):
        if state == "kill":
            owner.kill()
        else:
            assert owner.tell(state) == "done"
        with_fragments = fragments and state == "protect"
        found = scene.asker.answers(fragments=with_fragments)
        assert found == {name: free[name] for name in found}, state


def udp_socket(host, address, port):
    def bound():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.settimeout(10)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        return made

    return host.namespace.call(bound)


def test_a_host_that_was_spoken_to_before_is_answered_in_the_clear(scene):
    """Connection tracking knows the connection, so it must be forgotten at both ends."""
    tracking = ["-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW"]
    for program in ("iptables-legacy", "ip6tables-legacy"):
        scene.alice.namespace.run([program, *tracking])
    owner = scene.owner()
    with contextlib.ExitStack() as opened:
        pairs = []
        for everywhere, address in zip(("0.0.0.0", "::"), DESTINATIONS, strict=True):
            own = opened.enter_context(udp_socket(scene.alice, everywhere, 5000))
            other = opened.enter_context(udp_socket(scene.bob, address, 4000))
            own.sendto(b"before", (address, 4000))
            _, seen = other.recvfrom(100)
            pairs.append((own, other, seen))
        for state in ("protect", "carry"):
            assert owner.tell(state) == "done"
            for own, other, seen in pairs:
                other.sendto(b"question", seen)
                data, peer = own.recvfrom(100)
                own.sendto(data[::-1], peer)
                answer, whence = other.recvfrom(100)
                assert (answer, whence[:2]) == (data[::-1], seen[:2]), state


CONVERSATION = """
import socket
made = []
for family, address in ((socket.AF_INET, "{ipv4}"), (socket.AF_INET6, "{ipv6}")):
    for number, bound in enumerate(("", address)):
        new = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        new.bind((bound, 123 + number))
        made.append(new)
print("ready", flush=True)
for line in iter(input, "end"):
    seen = []
    for new in made:
        new.settimeout(5)
        data, peer = new.recvfrom(100)
        new.sendto(b"answer", peer)
        seen.append(peer[0])
        for _ in range(3):
            try:
                new.sendto(b"own", ("{bob4}" if new.family == socket.AF_INET else "{bob6}", 123))
            except OSError:
                pass
    print(*seen, flush=True)
"""


def test_no_question_opens_the_way_for_the_programs_own_traffic(
    scene, script, filter_names, tmp_path
):
    """A time daemon asks and answers at one port; no question must bring its own into the clear."""
    alice, bob = scene.alice, scene.bob
    bob4, bob6 = DESTINATIONS
    source = CONVERSATION.format(ipv4=alice.ipv4.ip, ipv6=alice.ipv6.ip, bob4=bob4, bob6=bob6)
    programs = script(alice.namespace, source)
    owner = scene.owner()
    for state in ("protect", "carry", "kill"):
        if state == "kill":
            owner.kill()
        else:
            owner.tell(state)
        asking = [bob.namespace.call(lambda a=a: bound(a, 123)) for a in DESTINATIONS]
        with contextlib.ExitStack() as opened:
            for each in asking:
                opened.enter_context(each)
            for new, to in zip(asking, (alice.ipv4.ip, alice.ipv6.ip), strict=True):
                for port in (123, 124):
                    new.sendto(b"question", (str(to), port))
            seen = programs.tell("go").split()
            assert seen == ["192.0.0.8"] * 2 + ["100:0:0:1::8"] * 2
            for new in asking:
                new.settimeout(5)
                assert [new.recv(100) for _ in range(2)] == [b"answer"] * 2
                new.settimeout(0.15)
                with pytest.raises(TimeoutError):
                    new.recv(100)


def bound(address, port):
    new = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    new.bind((address, port))
    return new


CONTAINER = f"""
import socket, threading
def serve(family, kind):
    new = socket.socket(family, kind)
    if family == socket.AF_INET6:
        new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    new.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", {LOCAL}))
    if kind == socket.SOCK_STREAM:
        new.listen()
        threading.Thread(target=accept, args=(new,)).start()
    else:
        threading.Thread(target=receive, args=(new,)).start()
def accept(new):
    while True:
        with new.accept()[0] as accepted:
            accepted.sendall(accepted.recv(100)[::-1])
def receive(new):
    while True:
        data, peer = new.recvfrom(100)
        new.sendto(data[::-1], peer)
for family in (socket.AF_INET, socket.AF_INET6):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        serve(family, kind)
print("ready", flush=True)
"""


def test_a_service_behind_the_host_answers_at_its_published_port(
    underlay, scene, script, filter_names
):
    other = underlay.add_host("other")
    publish(scene.alice, filter_names[1] == "Nftables", other)
    # Its answers come back through alice, as those of a container do.
    for family, via in (("-4", scene.alice.ipv4), ("-6", scene.alice.ipv6)):
        core, iif = scene.alice.core, other.core_interface
        core.run(["ip", family, "route", "add", "default", "via", str(via.ip), "table", "77"])
        core.run(["ip", family, "rule", "add", "iif", iif, "table", "77"])
    assert script(other.namespace, CONTAINER).said == "ready"

    def asked():
        found = []
        for to in (scene.alice.ipv4.ip, scene.alice.ipv6.ip):
            family = socket.AF_INET if to.version == 4 else socket.AF_INET6
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(family, kind) as new:
                    new.settimeout(5)
                    new.connect((str(to), PUBLISHED))
                    new.send(b"question")
                    found.append(new.recv(100))
        return found

    assert scene.bob.namespace.call(asked) == [b"noitseuq"] * 4
    owner = scene.owner()
    for state in ("protect", "carry"):
        assert owner.tell(state) == "done"
        assert scene.bob.namespace.call(asked) == [b"noitseuq"] * 4


def test_a_protected_neighbour_on_the_same_link_still_finds_the_host(underlay, script):
    """Its requests pass reverse-path checks, and the kernel's own solicitations the kill switch."""
    alice = underlay.add_host("alice")
    prefixes = (alice.ipv4.network, alice.ipv6.network)
    alice.namespace.set_kernel(ipv4__conf__all__rp_filter=1, ipv4__conf__eth0__rp_filter=1)
    owner = script(
        alice.namespace, OWNER.format(module="nftables", name="Nftables", prefixes=prefixes)
    )
    for state in ("protect", "carry"):
        assert owner.tell(state) == "done"
        alice.namespace.configure([f"neigh flush dev {alice.interface}"])
        alice.core.configure([f"neigh flush dev {alice.core_interface}"])
        for address in (alice.ipv4.ip, alice.ipv6.ip):
            alice.core.run(["ping", "-c", "1", "-W", "5", str(address)])
