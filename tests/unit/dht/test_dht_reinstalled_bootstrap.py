"""A bootstrap node comes back with another key at the same address, and the overlays merge."""

import pytest
from dht_network import Member, grown


def reinstalled(network, old):
    network.crash(old)
    new = Member(network, 99, old.endpoint, network.settings)
    network.attach(new)
    network.flush(new)
    return new


@pytest.mark.slow
def test_nodes_that_named_a_bootstrap_node_find_what_replaced_it():
    network, members = grown(6)
    boot, *others = members
    new = reinstalled(network, boot)
    newcomer = network.add(50)
    network.bootstrap(newcomer, new)
    network.run(700)  # the longest pause, and the jitter
    assert new.dht.contact_count >= len(others)
    known = set(newcomer.descriptors())
    assert {member.node_id for member in others} <= known


@pytest.mark.slow
def test_a_node_that_is_alone_greets_those_that_take_it_for_its_predecessor():
    network, (boot, *others) = grown(4)
    last = network.add(50)
    network.bootstrap(last, others[0])
    network.run(40)
    for each in others:
        network.crash(each)
    new = reinstalled(network, boot)
    network.do(last, lambda dht: dht.crawl(network.now))
    network.run(10)
    assert new.dht.contact_count == 1, "no node has named it as a bootstrap node"


@pytest.mark.slow
def test_a_silent_bootstrap_endpoint_is_asked_with_back_off():
    network, members = grown(4)
    boot, asking, *_ = members
    network.crash(boot)
    network.run(120)
    network.record_traffic = True
    network.run(600)
    pings = [when for when, _, source, to in network.traffic
             if (source, to) == (asking.endpoint, boot.endpoint)]  # fmt: skip
    assert 5 <= len(pings) <= 60, "about one a minute, with attempts and the last lookups"
