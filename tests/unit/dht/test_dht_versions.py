"""Nodes with one IP version among nodes with both: who is asked where, and what all learn."""

import pytest
from dht_network import Network, make_descriptor

from overlay.addresses import Endpoint, version_of
from overlay.dht.topology_table import TopologyTable


class MixedNetwork(Network):
    """Every member has an IPv6 endpoint besides; a datagram takes the version of its target."""

    def join(self, number, versions, *, through=None):
        member = self.add(number, publish=False)
        four, six = member.endpoint, Endpoint(f"2a00:{number + 1:x}::1", 4500)
        ends = [each for each in (four, six) if version_of(each) in versions]
        member.ends = {version_of(each): each for each in ends}
        self.crash(member)
        self.attach(member, *ends)
        member.table = TopologyTable()
        member.dht = type(member.dht)(
            member.identity,
            network_id="test-net",
            settings=self.settings,
            rng=self.rng,
            known_endpoints=lambda node_id: getattr(member.table.get(node_id), "endpoints", ()),
        )
        member.endpoint = ends[0]
        member.dht.relocate(ends, versions, self.now)
        member.dht.publish(
            make_descriptor(member.identity, four, now=self.now, endpoints=tuple(ends)), self.now
        )
        if through is not None:
            member.dht.bootstrap([through.ends[max(versions)]], self.now)
        self.flush(member)
        self.run(0.5)
        return member

    def take_events(self, member):
        before = len(member.events)
        super().take_events(member)
        for event in member.events[before:]:
            if hasattr(member, "table"):
                member.table.take(event, self.now)

    def source_for(self, member, destination):
        source = member.ends.get(version_of(destination))
        assert source is not None, "asked over an IP version that it lacks"
        return source


@pytest.mark.slow
def test_nodes_of_one_version_learn_of_all_through_those_that_have_both():
    network = MixedNetwork()
    network.run(0)
    boot = network.join(0, (4, 6))
    both = [network.join(number, (4, 6), through=boot) for number in (1, 2)]
    network.run(15)
    single = [network.join(3 + index, (4 + 2 * (index % 2),), through=boot) for index in range(4)]
    network.run(60)
    everyone = {member.node_id for member in (boot, *both, *single)}
    for member in (boot, *both, *single):
        known = {descriptor.node_id for descriptor in member.table}
        assert known | {member.node_id} == everyone


def test_a_moved_node_is_known_at_its_new_endpoint_at_once():
    network = MixedNetwork()
    boot = network.join(0, (4,))
    moving, other = (network.join(number, (4,), through=boot) for number in (1, 2))
    network.run(15)
    assert other.table.get(moving.node_id).endpoints == (moving.endpoint,)
    new = Endpoint("80.99.0.1", 4500)
    network.crash(moving)
    moving.endpoint, moving.ends = new, {4: new}
    network.attach(moving)
    moving.dht.relocate([new], (4,), network.now)
    moving.dht.publish(
        make_descriptor(moving.identity, new, now=network.now, sequence=2), network.now
    )
    network.flush(moving)
    network.run(2)
    assert other.table.get(moving.node_id).endpoints == (new,)
    before = network.sent_from[moving.ends[4]]
    inner = Endpoint("100.64.0.7", 4500)
    moving.dht.relocate([new, inner], (4,), network.now, moved=False)
    network.flush(moving)
    assert network.sent_from[moving.ends[4]] == before, (
        "an address of a circuit shows on no network"
    )
