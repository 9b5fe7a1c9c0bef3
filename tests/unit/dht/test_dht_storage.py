"""The store: verified, growing, expiring, bounded."""

import contextlib

import pytest
from dht_network import NETWORK_ID, START, AtClock, make_descriptor, make_identity, public_endpoint

from overlay.addresses import NodeId
from overlay.dht.routing import distance
from overlay.dht.settings import DhtSettings
from overlay.dht.storage import RecordStore
from overlay.errors import LimitReached, Malformed, NotAuthentic, Replayed

OWN = NodeId(bytes(20))


TIMED = {"find", "get", "is_left", "leave", "put"}


class Clock:
    now = START

    def __call__(self):
        return self.now


def make_store(**settings):
    clock = Clock()
    return AtClock(RecordStore(OWN, NETWORK_ID, DhtSettings(**settings)), clock, TIMED), clock


def descriptor(number=1, **changes):
    return make_descriptor(make_identity(number), public_endpoint(number), **changes)


def put(store, one, source=b"s", *, responsible=True):
    store.put(one.node_id, one.encoded, source, responsible=responsible)


def kept(store, numbers):
    keys = [descriptor(number).node_id for number in numbers]
    return {key for key in keys if store.find(key) is not None}


def test_record_comes_back_until_its_signed_expiry():
    store, clock = make_store()
    one = descriptor(lifetime=100)
    put(store, one)
    clock.now += 99
    put(store, one)  # again, as a republisher would
    assert store.find(one.node_id) == one
    assert store.get(one.node_id) == one.encoded
    clock.now += 1
    assert store.find(one.node_id) is None
    assert store.get(one.node_id) is None
    with pytest.raises(Replayed):
        put(store, one)
    assert len(store) == 0


def test_only_a_growing_sequence_is_accepted():
    store, _ = make_store()
    put(store, descriptor(sequence=5))
    for sequence in (4, 5):
        with pytest.raises(Replayed):
            put(store, descriptor(sequence=sequence, bandwidth_kbit=9))
    newer = descriptor(sequence=6)
    put(store, newer)
    assert store.find(newer.node_id) == newer
    assert len(store) == 1


def test_record_under_another_key_is_not_authentic():
    store, _ = make_store()
    with pytest.raises(NotAuthentic):
        store.put(NodeId(b"x" * 20), descriptor().encoded, b"s", responsible=True)


def test_junk_is_refused_and_an_unknown_record_is_none():
    store, _ = make_store()
    one = descriptor()
    with pytest.raises(Malformed):
        store.put(one.node_id, b"junk", b"s", responsible=True)
    assert store.get(one.node_id) is None


def test_source_has_a_quota_and_replacing_is_free():
    store, clock = make_store(max_records_per_source=2)
    put(store, descriptor(1, lifetime=100))
    put(store, descriptor(2))
    with pytest.raises(LimitReached):
        put(store, descriptor(3))
    put(store, descriptor(3), b"other")
    put(store, descriptor(2, sequence=2))
    clock.now += 100  # the first expires and makes room
    put(store, descriptor(4))
    assert len(store) == 3


@pytest.mark.parametrize("size", [3, 6])
def test_one_provider_stores_no_more_than_a_third(size):
    """A /16 has 256 subnets and an IPv6 /32 65,536, so shares of subnets are not enough."""
    store, _ = make_store(max_records=12)
    provider = bytes(range(7, 7 + size - (1 if size == 3 else 2)))
    taken = 0
    for number in range(10):
        source = provider + number.to_bytes(size - len(provider), "big")
        try:
            put(store, descriptor(number), source, responsible=False)
            taken += 1
        except LimitReached:
            pass
    assert taken == len(store) == 4
    put(store, descriptor(30), b"\x2d" * size)
    put(store, descriptor(0, sequence=2), provider + bytes(size - len(provider)))
    assert len(store) == 5


def test_a_provider_with_its_share_makes_room_among_its_own_records():
    store, _ = make_store(max_records=12)
    put(store, descriptor(30), b"\x2d\x00\x00")
    for number in range(10):
        with contextlib.suppress(LimitReached):
            put(store, descriptor(number), b"\x07\x08" + number.to_bytes(1, "big"))
    assert len(store) == 5
    assert store.get(descriptor(30).node_id) is not None
    nearest = sorted((descriptor(n).node_id for n in range(10)), key=lambda key: distance(key, OWN))
    assert kept(store, [30, *range(10)]) == {descriptor(30).node_id, *nearest[:4]}


def test_full_store_takes_only_nearer_records_for_which_it_is_responsible():
    store, _ = make_store(max_records=3)
    ordered = sorted((descriptor(n) for n in range(5)), key=lambda d: distance(d.node_id, OWN))
    for number, one in enumerate(ordered[1:4]):
        put(store, one, bytes([number]))
    with pytest.raises(LimitReached):
        put(store, ordered[4], b"z")
    with pytest.raises(LimitReached):
        put(store, ordered[0], b"z", responsible=False)
    put(store, ordered[0], b"z")
    assert kept(store, range(5)) == {d.node_id for d in ordered[:3]}


def test_leave_invalidates_earlier_descriptors():
    store, clock = make_store()
    put(store, descriptor(sequence=5))
    assert not store.leave(descriptor().node_id, 4, b"s")
    assert store.leave(descriptor().node_id, 5, b"s")
    assert not store.leave(descriptor().node_id, 5, b"s")
    assert store.is_left(descriptor(sequence=5))
    with pytest.raises(Replayed):
        put(store, descriptor(sequence=5))
    put(store, descriptor(sequence=6))
    clock.now += 4 * 3600
    assert not store.is_left(descriptor(sequence=5))


@pytest.mark.slow
def test_dates_and_tombstones_of_a_busy_owner_do_not_pile_up():
    store, _ = make_store()
    for sequence in range(1, 300):
        put(store, descriptor(sequence=sequence))
    assert store.load().expiry_dates <= 66
    for number in range(5000):
        store.leave(NodeId(number.to_bytes(20, "big")), 1, number.to_bytes(3, "big"))
    assert store.load().tombstones == 4096


def test_one_subnet_cannot_wash_out_the_tombstones_of_others():
    store, _ = make_store(max_records_per_source=4)
    assert store.leave(descriptor(1).node_id, 5, b"alice's")
    for number in range(10_000):
        store.leave(NodeId(number.to_bytes(20, "big")), 1, b"mallory's")
    assert store.is_left(descriptor(1, sequence=5))
    assert store.load().tombstones == 5
    assert store.tombstones_by_source() == {b"alice's": 1, b"mallory's": 4}
