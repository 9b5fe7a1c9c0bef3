import pytest

from overlay.addresses import Endpoint
from sims.world.engine.digest import EventDigest
from sims.world.engine.heap import STOP_CHECK_EVENTS, EventHeap
from sims.world.engine.keyspace import KeySpace
from sims.world.engine.network import FRAMING_BYTES, Network
from sims.world.engine.streams import Streams
from sims.world.latency import Constant


class Host:
    def __init__(self, network, index):
        self.index, self.endpoint, self.heard = index, Endpoint(f"11.{index}.0.1", 4500), []
        self.network = network
        network.attach(self)

    def arrived(self, item):
        self.heard.append((self.network.heap.now, item[0]))


def send(source, datagram, to, when):
    source.network.send(source, datagram, to, when, len(datagram), datagram[0])


@pytest.fixture
def network():
    return Network(
        EventHeap(),
        Constant(0.5),
        Streams(1).stream("network"),
    )


@pytest.fixture
def hosts(network):
    return [Host(network, index) for index in range(3)]


def test_events_of_one_instant_happen_in_the_order_they_were_pushed():
    heap, happened = EventHeap(), []
    for name in "abc":
        heap.at(2.0, lambda one, _: happened.append(one), name)
    heap.at(1.0, lambda one, _: happened.append(one), "first")
    assert heap.run(2.0)
    assert happened == ["first", "a", "b", "c"]
    assert heap.now == 2.0


def test_what_lies_beyond_the_end_stays_ahead():
    heap, happened = EventHeap(), []
    heap.at(3.0, lambda one, _: happened.append(one), "late")
    assert heap.run(2.5)
    assert (happened, heap.now, len(heap)) == ([], 2.5, 1)


def test_an_event_in_the_past_happens_now():
    heap, times = EventHeap(10.0), []
    heap.at(3.0, lambda *_: times.append(heap.now))
    heap.run(11.0)
    assert times == [10.0]


def test_a_step_runs_one_event_and_time_does_not_pass_a_pending_one():
    heap, happened = EventHeap(), []
    assert heap.next_at == float("inf")
    for when in (1.0, 2.0):
        heap.at(when, lambda one, _: happened.append(one), when)
    heap.step()
    assert (happened, heap.now, heap.fired, heap.next_at) == ([1.0], 1.0, 1, 2.0)
    with pytest.raises(ValueError, match="pending"):
        heap.pass_to(3.0)
    heap.pass_to(2.0)
    heap.pass_to(0.5)
    assert heap.now == 2.0


def test_a_run_that_is_told_to_stop_keeps_its_place():
    heap = EventHeap()
    for number in range(2 * STOP_CHECK_EVENTS):
        heap.at(float(number), lambda *_: None)
    assert not heap.run(1e9, lambda: True)
    assert heap.fired == STOP_CHECK_EVENTS
    assert heap.now == STOP_CHECK_EVENTS - 1


def test_a_stream_depends_on_seed_and_labels_and_nothing_else():
    streams = Streams(7)
    assert streams.stream("a", 1).random() == Streams(7).stream("a", 1).random()
    draws = {streams.stream(*labels).random() for labels in [("a", 1), ("a", 2), ("b", 1), ("a1",)]}
    assert len(draws) == 4
    assert Streams(8).stream("a", 1).random() not in draws


def test_a_datagram_arrives_after_the_delay_and_is_counted(network, hosts):
    send(hosts[0], b"\x02hello", hosts[1].endpoint, 0.0)
    network.heap.run(1.0)
    assert hosts[1].heard == [(0.5, b"\x02hello")]
    assert (network.sent, network.delivered, network.sent_by[2]) == (1, 1, 1)
    assert network.bytes_sent == 6 + FRAMING_BYTES


def test_a_crashed_host_gets_nothing_not_even_what_is_under_way(network, hosts):
    send(hosts[0], b"\x01", hosts[1].endpoint, 0.0)
    network.crash(hosts[1])
    send(hosts[0], b"\x01", hosts[1].endpoint, 0.0)
    network.heap.run(1.0)
    assert hosts[1].heard == []
    assert network.lost == 2


def test_partition_cuts_between_sides_until_repair(network, hosts):
    network.partition([[0], [1]])
    for to in (1, 2):
        send(hosts[0], b"\x01", hosts[to].endpoint, 0.0)
    network.repair()
    send(hosts[0], b"\x02", hosts[1].endpoint, 0.0)
    network.heap.run(1.0)
    assert [data for _, data in hosts[1].heard] == [b"\x02"]
    assert hosts[2].heard == []


def test_a_second_partition_replaces_the_first(network, hosts):
    network.partition([[0]])
    network.partition([[2]])
    for to in (1, 2):
        send(hosts[0], b"\x01", hosts[to].endpoint, 0.0)
    network.repair()
    network.repair()
    network.heap.run(1.0)
    assert [len(host.heard) for host in hosts] == [0, 1, 0]
    assert network.lost == 1


def test_loss_loses_its_share():
    network = Network(EventHeap(), Constant(0.1), Streams(3).stream("network"), loss=0.3)
    source, host = Host(network, 0), Host(network, 1)
    for _ in range(2000):
        send(source, b"x", host.endpoint, 0.0)
    network.heap.run(1.0)
    assert 0.66 < len(host.heard) / 2000 < 0.74


def test_the_digest_tells_any_two_histories_apart():
    def digest(*deliveries):
        made = EventDigest()
        for delivery in deliveries:
            made.delivery(*delivery)
        return made.hexdigest()

    one = (1.0, 1, 2, 3, 40)
    others = [(1.5, 1, 2, 3, 40), (1.0, 2, 1, 3, 40), (1.0, 1, 2, 4, 40), (1.0, 1, 2, 3, 41)]
    assert len({digest(one), *map(digest, others), digest(one, others[0])}) == 6
    assert digest(one) == digest(one)


def test_the_closest_of_a_key_space_are_those_of_a_linear_search():
    rng = Streams(5).stream("ids")
    ids = [rng.getrandbits(160) for _ in range(300)]
    space = KeySpace()
    for number in ids:
        space.add(number)
    for number in ids[:50]:
        space.discard(number)
    alive = ids[50:]
    assert len(space) == 250
    for _ in range(50):
        target = rng.getrandbits(160)
        for count in (1, 20, 250, 400):
            assert space.closest(target, count) == sorted(alive, key=target.__xor__)[:count]
    assert ids[0] not in space
    assert ids[60] in space


def test_a_bucket_holds_ids_of_exactly_its_prefix_length():
    rng = Streams(6).stream("ids")
    space = KeySpace()
    ids = [rng.getrandbits(160) for _ in range(500)]
    for number in ids:
        space.add(number)
    own = ids[0]
    for bit in range(12):
        expected = {n for n in ids if 160 - (n ^ own).bit_length() == bit}
        drawn = space.bucket(own, bit, 20, rng)
        assert set(drawn) <= expected
        assert len(drawn) == min(20, len(expected))
