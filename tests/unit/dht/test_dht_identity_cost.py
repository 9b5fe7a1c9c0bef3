"""A network that asks for identities of a cost hears, files, stores and lists no others."""

import pytest
from dht_network import (
    NETWORK_ID,
    START,
    Network,
    make_descriptor,
    make_identity,
    public_endpoint,
)

from overlay.dht.descriptor import MixDescriptor
from overlay.dht.envelope import Envelopes
from overlay.dht.events import DescriptorFound, DhtCount
from overlay.dht.messages import Contact, Contacts
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import verified_record
from overlay.dht.topology_table import Rejection, TopologyTable
from overlay.errors import ConfigurationError, Refused
from overlay.identity import identity_cost_bits

BITS = 3
COSTLY = DhtSettings(identity_cost_bits=BITS, crawl_first_interval_s=2.0)
FREE = DhtSettings(crawl_first_interval_s=2.0)


def numbers(*, cheap):
    """Numbers of identities below or at the cost, as an endless supply."""
    for number in range(10_000):
        cost = identity_cost_bits(make_identity(number).identity_key)
        if (cost < BITS) == cheap:
            yield number


def take(count, *, cheap):
    supply = numbers(cheap=cheap)
    return [next(supply) for _ in range(count)]


def test_own_identity_below_the_cost_is_a_configuration_error():
    (number,) = take(1, cheap=True)
    with pytest.raises(ConfigurationError, match="asks for 3, but this node's identity costs"):
        Network(settings=COSTLY).add(number)


@pytest.mark.slow
def test_cheap_identities_are_neither_heard_nor_filed_nor_listed():
    network = Network(settings=COSTLY)
    members = [network.add(number) for number in take(4, cheap=False)]
    # These believe that the network asks for nothing, and try to get in from both sides.
    intruders = [network.add(number, settings=FREE) for number in take(3, cheap=True)]
    for member in members[1:]:
        network.bootstrap(member, members[0])
    for intruder in intruders:
        network.bootstrap(intruder, *members)
    network.bootstrap(members[3], intruders[0])
    network.run(30)
    known = {member.node_id for member in members}
    for member in members:
        assert {contact.node_id for contact in member.dht.parts.table} == known - {member.node_id}
        found = {event.descriptor.node_id for event in member.of(DescriptorFound)}
        assert found == known - {member.node_id}
        assert member.dht.counters()[DhtCount.UNDER_COST] > 0
    # A member asks its bootstrap endpoints again and again, so one intruder may know this one.
    known_to_first = {contact.node_id for contact in intruders[0].dht.parts.table} & known
    assert known_to_first <= {members[3].node_id}
    for intruder in intruders[1:]:
        assert not {contact.node_id for contact in intruder.dht.parts.table} & known


def test_contact_below_the_cost_is_not_followed():
    network = Network(settings=COSTLY)
    (number,) = take(1, cheap=True)
    cheap = Contact.of(make_identity(number).identity_key, public_endpoint(number))
    network.outsider(cheap.endpoint, lambda *_: pytest.fail("a cheap contact was asked"))

    class NamesCheap(Envelopes):
        """Add the cheap contact to every answer."""

        def reply(self, reply, to):
            if isinstance(reply, Contacts):
                reply = Contacts((*reply.contacts, cheap))
            return super().reply(reply, to)

    first, second = take(2, cheap=False)
    members = [network.add(first, envelopes=NamesCheap), network.add(second)]
    network.bootstrap(members[1], members[0])
    network.run(20)
    assert members[1].dht.counters()[DhtCount.REFUSED_CONTACT] > 0
    assert members[1].dht.parts.table.get(cheap.node_id) is None


def cheap_descriptor() -> MixDescriptor:
    (number,) = take(1, cheap=True)
    return make_descriptor(make_identity(number), public_endpoint(number))


def test_record_below_the_cost_is_refused_though_all_else_fits():
    one = cheap_descriptor()
    known = {"network_id": NETWORK_ID, "now": START}
    assert verified_record(one.encoded, one.node_id, **known) == one
    with pytest.raises(Refused):
        verified_record(one.encoded, one.node_id, **known, cost_bits=BITS)


def test_topology_table_takes_no_descriptor_below_the_cost():
    one = cheap_descriptor()
    table = TopologyTable(identity_cost_bits=BITS)
    assert not table.add(one, START)
    assert table.rejections() == {Rejection.UNDER_COST: 1}
    assert TopologyTable().add(one, START)


def test_seed_below_the_cost_is_not_greeted():
    network = Network(settings=COSTLY)
    member = network.add(take(1, cheap=False)[0])
    network.do(member, lambda dht: dht.seed([cheap_descriptor()], network.now))
    network.run(5)
    assert network.sent_from[member.endpoint] == 0
