"""Programs hear what a packet filter refuses, as the userspace backend would tell them."""

import contextlib
import errno
import ipaddress
import select
import socket
from contextlib import ExitStack

import pytest

from lab.underlay import Underlay
from overlay.errors import BackendError
from overlay.node.shells.refusals import Refusals
from overlay.system.iptables import Iptables
from overlay.system.nftables import Nftables
from overlay.system.packet_filter import REFUSALS_PER_S, FilterTable, Hook, Rule, Verdict
from overlay.system.refused_packets import AnswerSender, RefusedPackets

pytestmark = pytest.mark.lab

RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
UNCARRIED = 253
"""A protocol for experiments (RFC 3692)."""

PORT, MANY = 25, 200


@pytest.fixture(scope="module")
def hosts():
    with Underlay() as underlay:
        yield underlay.add_host("alice"), underlay.add_server("bob")


@pytest.fixture(params=[Nftables, Iptables])
def packet_filter(request, hosts):
    made = request.param()
    alice, _ = hosts
    if not alice.namespace.call(made.usable):
        pytest.skip("this kernel does not have it")
    yield made
    for each in (alice.namespace, alice.core):
        each.call(lambda: made.remove("refusals"))


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def bob(request, hosts):
    _, bob = hosts
    return bob.ipv4.ip if request.param == 4 else bob.ipv6.ip


def refusing(namespace, packet_filter, hook, bob, protocol):
    """Refuse packets to bob, and return what answers them and how many answers there were."""
    rule = Rule(
        hook=hook, verdict=Verdict.REFUSE, destination=ipaddress.ip_network(bob), protocol=protocol
    )
    table = FilterTable("refusals", 0x1234, (rule,))
    namespace.call(lambda: packet_filter.replace(table))
    opened = ExitStack()
    refused = opened.enter_context(namespace.call(RefusedPackets))
    refusals = Refusals(opened.enter_context(namespace.call(AnswerSender)))

    def answer():
        while select.select([refused], [], [], 1)[0]:
            refusals.answer(refused.read())
        return refusals.counters()

    return opened, answer


def sent(host, bob, kind, protocol, count=1):
    """Send to bob over a socket that hears errors."""

    def send():
        family = socket.AF_INET if bob.version == 4 else socket.AF_INET6
        client = socket.socket(family, kind, protocol)
        client.setsockopt(*RECVERR[bob.version], 1)
        client.settimeout(3)
        client.connect((str(bob), PORT))
        for _ in range(count):
            with contextlib.suppress(OSError):  # an earlier error, or what this host drops (EPERM)
                client.send(bytes(40))
        return client

    return host.namespace.call(send)


def heard(client):
    """Return the number of the error that comes back, and what the kernel tells beside it."""
    try:
        client.recv(100)
    except OSError as error:
        with client:
            return error.errno, client.recvmsg(100, 500, socket.MSG_ERRQUEUE)
    return pytest.fail("an answer came")


def test_what_a_router_refuses_is_answered_in_the_destinations_name(hosts, packet_filter, bob):
    alice, _ = hosts
    opened, answer = refusing(alice.core, packet_filter, Hook.FORWARD, bob, 17)
    with opened, sent(alice, bob, socket.SOCK_DGRAM, 0) as client:
        assert answer() == {"protocols_refused": 0, "exit_refusals_told": 1}
        number, (_, ancillary, _, _) = heard(client)
    assert number == (errno.EHOSTUNREACH if bob.version == 4 else errno.EACCES)
    [(_, _, told)] = ancillary
    offender = told[16 + 4 : 16 + 8] if bob.version == 4 else told[16 + 8 : 16 + 24]
    assert ipaddress.ip_address(offender) == bob


def test_what_a_program_sends_and_nothing_carries_is_answered(hosts, packet_filter, bob):
    alice, _ = hosts
    opened, answer = refusing(alice.namespace, packet_filter, Hook.OUTPUT, bob, UNCARRIED)
    with opened, sent(alice, bob, socket.SOCK_RAW, UNCARRIED) as client:
        assert answer() == {"protocols_refused": 1, "exit_refusals_told": 0}
        number, _ = heard(client)
    assert number == (errno.ENOPROTOOPT if bob.version == 4 else errno.EPROTO)


def test_a_flood_is_answered_in_part_and_dropped_whole(hosts, packet_filter, bob):
    alice, _ = hosts
    opened, answer = refusing(alice.core, packet_filter, Hook.FORWARD, bob, 17)
    with opened, sent(alice, bob, socket.SOCK_DGRAM, 0, MANY):
        told = answer()["exit_refusals_told"]
    assert 1 <= told <= 3 * REFUSALS_PER_S


def test_two_programs_do_not_have_the_packets(hosts):
    alice, _ = hosts
    with (
        alice.namespace.call(RefusedPackets),
        pytest.raises(BackendError, match="packets that the packet filter refuses"),
    ):
        alice.namespace.call(RefusedPackets)
