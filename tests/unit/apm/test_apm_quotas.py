"""Compare the list of tables of links and circuits in docs/threat-model.md with the code."""

from random import Random

import pytest
from apm_fakes import NOW
from apm_lab import Net
from remembered import claims, listed_tables, section, tables_below, value_in_the_code

from overlay.addresses import Endpoint
from overlay.apm.settings import ApmSettings
from overlay.identity import LocalIdentity
from overlay.ipsec.pieces import Pieces
from overlay.link.events import LinkPeer
from overlay.link.links import Links
from overlay.link.settings import LinkSettings

SECTION = section("Tables that other nodes can fill: links and circuits")
PACKAGES = (
    "overlay.apm",
    "overlay.link",
    "overlay.shares",
    "overlay.work_budget",
    "overlay.ipsec.pieces",
)


def busy_relay():
    """A relay with circuits, one that waits for a link, one that lingers, and new keys."""
    net = Net(["alice", "mix1", "mix2"])
    for names in (["mix1"], ["mix1", "mix2"], ["mix1", "mix2"]):
        net.open("alice", names)
    net.run(5)
    return net["mix1"].manager


def busy_links():
    """A node with a link that it answered and one that it asks for."""
    spis = iter(range(1000, 2000))
    own, peer, other = (LocalIdentity.generate(Random(n)) for n in (1, 2, 3))
    hosts = [
        Links(identity, "lab", LinkSettings(), Random(4), lambda: next(spis), lambda _: None)
        for identity in (own, peer)
    ]
    here, there = Endpoint("8.8.8.8", 4500), Endpoint("9.9.9.9", 4500)
    hosts[1].connect(LinkPeer(own.overlay_address, own.link_key, here), NOW)
    hosts[0].receive([(data, there) for data, _ in hosts[1].datagrams_to_send(NOW)], NOW)
    hosts[0].connect(LinkPeer(other.overlay_address, other.link_key, there), NOW)
    return hosts[0]


def test_every_table_of_links_and_circuits_is_listed_with_a_bound():
    found = tables_below(PACKAGES, busy_relay(), busy_links(), Pieces())
    assert "Switchboard._closing" in found
    assert "AcceptedTable._unproved" in found
    listed = listed_tables(SECTION)
    assert set(found) - listed == set()
    named = {name for name in listed if not name.split(".")[0].endswith("Settings")}
    assert named - set(found) == set(), "listed, but the code has no such table"


@pytest.mark.parametrize("claim", claims(SECTION), ids=str)
def test_listed_bounds_are_those_of_the_code(claim):
    where, value = claim
    settings = {"ApmSettings": ApmSettings(), "LinkSettings": LinkSettings()}
    assert value_in_the_code(where, **settings) == int(value)
