"""Why a node has not joined: bootstrap nodes, packet filters of this host, and narrow links."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from node_reports import STATUS

from overlay.addresses import Endpoint
from overlay.config import Configuration, NetworkSettings
from overlay.doctor import Outcome, Setup
from overlay.doctor.findings import NodeStatus
from overlay.doctor.joining import bootstrap_nodes, datagram_filters
from overlay.doctor.network import link_sizes, reachability, udp_ports
from overlay.system.endpoint_probe import endpoint_errors
from overlay.system.foreign_filters import Direction, ForeignChain

IPV4, IPV6 = "198.51.100.7:4500", "[2001:db8::7]:4500"
ALONE = replace(
    STATUS,
    listen=("0.0.0.0:4501",),
    joined=False,
    contacts=0,
    mix_nodes=0,
    exits=0,
    links=0,
    bootstrap=(IPV4,),
)
JOINED = replace(ALONE, joined=True, contacts=3, mix_nodes=3)


def running(status, **network):
    given = replace(Configuration(), network=NetworkSettings(**network))
    return Setup(given, Path("overlay.toml"), NodeStatus(status) if status else None)


def failing(number):
    return lambda endpoints: dict.fromkeys(endpoints, number)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ECONNREFUSED, "no program has that UDP port there; start the node there with"),
        (errno.EPERM, "a packet filter of this host drops datagrams to it"),
        (errno.EHOSTUNREACH, "no host answers at that address"),
        (errno.ENETUNREACH, "ip route add default via ROUTER"),
        (errno.ENOMEM, "sending to it failed (Cannot allocate memory)"),
    ],
)
def test_each_error_of_a_bootstrap_node_is_named_with_its_remedy(number, words):
    (found,) = bootstrap_nodes(running(ALONE), failing(number))
    assert (found.subject, found.outcome) == (f"bootstrap {IPV4}", Outcome.LACKS)
    assert words in found.said


def test_a_bootstrap_node_of_the_other_ip_version_is_named_and_not_probed():
    status = replace(ALONE, bootstrap=(IPV4, IPV6))
    asked = []
    one, other = bootstrap_nodes(running(status), lambda nodes: asked.extend(nodes) or {})
    assert asked == [Endpoint("198.51.100.7", 4500)]
    assert (one.outcome, other.outcome) == (Outcome.UNKNOWN, Outcome.LACKS)
    assert 'add "[::]:4500" to [network] listen' in other.said


def test_nodes_of_the_file_are_probed_before_a_start_and_none_of_a_node_that_has_joined():
    given = {"bootstrap": (Endpoint("203.0.113.9", 4500),), "allow_private_endpoints": True}
    (found,) = bootstrap_nodes(running(None, **given), failing(errno.ECONNREFUSED))
    assert found.subject == "bootstrap 203.0.113.9:4500"
    assert bootstrap_nodes(running(JOINED), failing(errno.EPERM)) == []


def test_the_kernel_reports_that_no_program_has_a_port():
    closed = Endpoint("127.0.0.1", 9)
    assert endpoint_errors([closed]) == {closed: errno.ECONNREFUSED}


DROPS = ForeignChain("iptables-legacy", "filter", "INPUT")


def chains(*found):
    return lambda version, way: [*found] if (version, way) == (4, Direction.INPUT) else []


def test_filters_are_named_for_a_node_that_hears_nothing_with_commands_for_its_ports():
    (found,) = datagram_filters(running(ALONE), chains(DROPS))
    assert found.outcome is Outcome.UNKNOWN
    assert "(iptables-legacy, chain INPUT)" in found.said
    assert found.said.endswith("iptables-legacy -I INPUT -p udp --dport 4501 -j ACCEPT")
    unreached = replace(JOINED, reachability={"198.51.100.1:4500": "not reachable"})
    assert datagram_filters(running(unreached), chains(DROPS))[0].outcome is Outcome.UNKNOWN


def test_filters_are_no_matter_if_others_answer_or_the_port_is_accepted():
    accepting = replace(DROPS, accepted=frozenset({4501}))
    asking = replace(DROPS, certain=False)
    for setup, found in ((JOINED, DROPS), (ALONE, accepting), (ALONE, asking)):
        (told,) = datagram_filters(running(setup), chains(found))
        assert told.outcome is Outcome.WORKS


def test_narrow_links_are_told_with_their_size():
    assert link_sizes(running(JOINED)) == []
    (wide,) = link_sizes(running(replace(JOINED, link_bytes=(1452, 1472))))
    assert wide.outcome is Outcome.WORKS
    (narrow,) = link_sizes(running(replace(JOINED, link_bytes=(1251, 1472))))
    assert narrow.outcome is Outcome.UNKNOWN
    assert "1 of 2 carry less than lines of 1500 bytes do" in narrow.said
    assert "the narrowest carries 1251 bytes" in narrow.said


def test_an_address_that_the_host_lacks_does_not_keep_the_node_from_starting():
    setup = running(None, listen=(Endpoint("192.0.2.1", 4500),))
    (found,) = udp_ports(setup, runs=lambda _: False)
    assert found.outcome is Outcome.LACKS
    assert not found.required_by(setup.purposes)
    assert "does not have that address at present" in found.said


def test_what_a_router_must_do_depends_on_the_ip_version():
    lost = {IPV4: "not reachable", IPV6: "not reachable"}
    told = {
        each.subject: each.said for each in reachability(running(replace(ALONE, reachability=lost)))
    }
    assert "forward this UDP port to the node at the router" in told[f"reached at {IPV4}"]
    assert "permit this UDP port to the node in the router's" in told[f"reached at {IPV6}"]
