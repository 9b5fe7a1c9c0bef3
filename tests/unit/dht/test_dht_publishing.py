"""How often a node stores its own descriptor."""

from random import Random
from types import SimpleNamespace

import pytest
from dht_network import START, make_descriptor, make_identity, public_endpoint

from overlay.dht.lookup import Lookup
from overlay.dht.publishing import Publisher
from overlay.dht.schedule import Schedule
from overlay.dht.settings import DhtSettings

SETTINGS = DhtSettings()
IDENTITY = make_identity(1)


class Alone:
    """A publisher that finds no nodes, and its pauses."""

    def __init__(self):
        self.schedule = Schedule()
        self.publisher = Publisher(
            SETTINGS,
            Random(1),
            calls=SimpleNamespace(),  # no node is found, so none is called
            schedule=self.schedule,
            membership=SimpleNamespace(),
        )

    def sign(self, sequence, endpoint=1):
        endpoint = public_endpoint(endpoint)
        self.publisher.replace(make_descriptor(IDENTITY, endpoint, sequence=sequence))

    def pauses(self, count):
        return [self.store() for _ in range(count)]

    def store(self):
        without_holders = Lookup(IDENTITY.node_id, IDENTITY.node_id, [], SETTINGS, START)
        self.publisher.store_at(without_holders, START)
        return self.schedule.next_deadline() - START


def test_a_new_node_stores_often_at_first_and_each_hour_in_the_end():
    alone = Alone()
    alone.sign(1)
    expected = [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert alone.pauses(8) == pytest.approx(expected, rel=0.21)


def test_a_descriptor_that_is_signed_anew_does_not_begin_anew():
    alone = Alone()
    alone.sign(1)
    alone.pauses(6)
    alone.sign(2)
    assert alone.store() == pytest.approx(3600, rel=0.21)


def test_other_endpoints_are_published_like_those_of_a_new_node():
    alone = Alone()
    alone.sign(1)
    alone.pauses(6)
    alone.sign(2, endpoint=2)
    assert alone.pauses(2) == pytest.approx([60, 120], rel=0.21)


def test_a_node_that_is_a_member_for_long_stores_each_hour():
    alone = Alone()
    alone.publisher.settle()
    alone.sign(1)
    assert alone.store() == pytest.approx(3600, rel=0.21)
