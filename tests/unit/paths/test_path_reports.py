from ipaddress import ip_address, ip_network

import pytest
from requested_paths import NOW, mix

from overlay.addresses import Endpoint
from overlay.errors import NoSuitablePath
from overlay.ipsec.suites import DEFAULT_SUITE, SUITES
from overlay.node.reports import PathSizes, identified, path_sizes, peer_report
from overlay.node.unjoined import explained
from overlay.paths.requested_path import PathTerms, RequestedPath

NONE = NoSuitablePath("no path of 3 hops among 0 known Mix-nodes.", known=0, removed=())


def test_names_of_counters_are_identifiers():
    counts = {"repaired: nft rules": 1, "a-b": 2, "a b": 3, "XfrmInNoStates": 4, " x ": 5}
    found = identified(counts)
    assert found == {"repaired_nft_rules": 1, "a_b": 5, "XfrmInNoStates": 4, "x": 5}
    assert all(name.isidentifier() for name in found)


@pytest.mark.parametrize(
    ("heard", "heard_s"),
    [((None, None), None), ((NOW - 7.5, None), 7.5), ((NOW - 9, NOW - 2), 2.0), ((NOW + 3,), 0.0)],
)
def test_peer_was_heard_when_it_last_sent_by_whatever_way(heard, heard_s):
    report = peer_report(mix(1), linked=True, heard=heard, now=NOW)
    assert (report.linked, report.heard_s) == (True, heard_s)


@pytest.mark.parametrize(
    ("contacts", "bootstrap", "words"),
    [
        (0, [], 'knows no other node; name one with "overlay up --bootstrap'),
        (0, ["198.51.100.7"], "not joined the overlay: 198.51.100.7:4500 has not answered"),
        (0, ["198.51.100.7", "2001:db8::1"], "[2001:db8::1]:4500 have not answered"),
        (3, ["198.51.100.7"], "has joined the overlay (3 contacts)"),
    ],
)
def test_node_that_has_not_joined_says_so(contacts, bootstrap, words):
    endpoints = [Endpoint(str(ip_address(host)), 4500) for host in bootstrap]
    assert words in str(explained(NONE, contacts=contacts, bootstrap=endpoints))


def test_refusal_among_known_nodes_stays_as_it_is():
    error = NoSuitablePath("no path.", known=5, removed=())
    assert explained(error, contacts=0, bootstrap=()) is error


def test_sizes_of_a_path_follow_from_those_of_its_first_link():
    def sizes(link_bytes, *, hops=3, mtu=1300):
        path = RequestedPath(1, PathTerms(ip_network("203.0.113.1"), hops, "uniform"), NOW)
        suite = SUITES[DEFAULT_SUITE]
        return path_sizes(path, link_bytes, onion=suite, link=suite, mtu=mtu)

    assert sizes(None) == PathSizes(None, None)
    assert sizes(1472) == PathSizes(1472, 1210)
    assert sizes(1472, hops=1) == PathSizes(1472, 1300)
    assert sizes(1472, mtu=900) == PathSizes(1472, 900)
    assert sizes(1240) == PathSizes(1240, 978)
