"""The in-memory network: what goes in comes out as the verbs say, and the same for one seed."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from overlay.addresses import Endpoint
from sims.world.engine.conditions import Condition, corrupt, delay, drop, duplicate, reorder, share
from sims.world.engine.heap import EventHeap
from sims.world.engine.network import Network
from sims.world.latency import Uniform

HOSTS = 4
LATENCY = Uniform(0.025, 0.075)
VERBS = ("delay", "drop", "duplicate", "reorder", "corrupt", "partition")

Line = tuple[int, int]
Sent = tuple[float, int, int]
"""The time, the sender and the receiver of a datagram. Its content is its position in the list."""

HOST = st.integers(0, HOSTS - 1)
TRAFFIC = st.lists(st.tuples(st.floats(0.0, 10.0), HOST, HOST), max_size=40)
IMPOSED = st.lists(
    st.tuples(st.sampled_from(VERBS), st.floats(0.0, 1.0), st.tuples(HOST, HOST)), max_size=5
)


class Host:
    def __init__(self, network: Network, index: int) -> None:
        self.network, self.index = network, index
        self.endpoint = Endpoint(f"11.{index}.0.1", 4500)
        self.heard: list[tuple[float, bytes, Endpoint]] = []
        network.attach(self)

    def arrived(self, item: tuple[bytes, Endpoint]) -> None:
        self.heard.append((self.network.heap.now, *item))


def condition(verb: str, probability: float, rng: Random) -> Condition:
    chosen = share(probability, rng)
    return {
        "delay": delay(lambda: rng.uniform(0.0, 2.0), chosen),
        "drop": drop(chosen),
        "duplicate": duplicate(chosen),
        "reorder": reorder(1.0, chosen),
        "corrupt": corrupt(rng, chosen),
    }[verb]


def run(
    traffic: list[Sent], imposed: list[tuple[str, float, Line]], seed: int
) -> tuple[Network, list[Host]]:
    heap = EventHeap()
    network = Network(heap, LATENCY, Random(seed))
    hosts = [Host(network, index) for index in range(HOSTS)]
    for number, (verb, probability, (one, other)) in enumerate(imposed):
        if verb == "partition":
            network.partition([[one], [other]])
        else:
            made = condition(verb, probability, Random(f"{seed} {number}"))
            network.impose(made, sender=hosts[one], receiver=hosts[other])
    for number, (when, one, other) in enumerate(traffic):
        datagram = number.to_bytes(4, "big")
        heap.at(
            when,
            lambda data, ends: network.carry(
                data, hosts[ends[0]].endpoint, hosts[ends[1]].endpoint
            ),
            datagram,
            (one, other),
        )
    heap.run(1000.0)
    return network, hosts


def numbers(host: Host) -> Counter[int]:
    return Counter(int.from_bytes(data, "big") for _, data, _ in host.heard)


@given(traffic=TRAFFIC, seed=st.integers(0, 2**32))
def test_without_conditions_each_datagram_arrives_once_in_the_time_of_the_model(traffic, seed):
    network, hosts = run(traffic, [], seed)
    assert (network.sent, network.delivered, network.lost) == (len(traffic), len(traffic), 0)
    for host in hosts:
        expected = Counter(n for n, (_, _, to) in enumerate(traffic) if to == host.index)
        assert numbers(host) == expected
        for arrived, data, source in host.heard:
            sent, sender, _ = traffic[int.from_bytes(data, "big")]
            assert source == hosts[sender].endpoint
            assert 0.025 - 1e-9 <= arrived - sent <= 0.075 + 1e-9


@given(traffic=TRAFFIC, imposed=IMPOSED, seed=st.integers(0, 2**32))
def test_one_seed_gives_one_history(traffic, imposed, seed):
    one, hosts = run(traffic, imposed, seed)
    other, again = run(traffic, imposed, seed)
    assert [host.heard for host in hosts] == [host.heard for host in again]
    assert one.digest.hexdigest() == other.digest.hexdigest()


@given(
    traffic=TRAFFIC,
    verb=st.sampled_from(["delay", "drop", "duplicate", "reorder"]),
    line=st.tuples(HOST, HOST),
    seed=st.integers(0, 2**32),
)
def test_a_certain_verb_does_its_work_on_its_line_and_nothing_elsewhere(traffic, verb, line, seed):
    network, hosts = run(traffic, [(verb, 1.0, line)], seed)
    copies = {"drop": 0, "duplicate": 2}.get(verb, 1)
    for host in hosts:
        expected = Counter()
        for number, (_, *ends) in enumerate(traffic):
            if ends[1] == host.index:
                expected[number] = copies if tuple(ends) == line else 1
        assert numbers(host) == +expected
    on_line = sum(tuple(ends) == line for _, *ends in traffic)
    assert network.delivered == len(traffic) + (copies - 1) * on_line
    assert network.lost == (on_line if verb == "drop" else 0)


@given(content=st.binary(min_size=1, max_size=1500), seed=st.integers(0, 2**32))
def test_corrupt_inverts_exactly_one_bit(content, seed):
    network = Network(EventHeap(), LATENCY, Random(seed))
    one, other = Host(network, 0), Host(network, 1)
    network.impose(corrupt(Random(seed)))
    network.carry(content, one.endpoint, other.endpoint)
    network.heap.run(1.0)
    [(_, data, _)] = other.heard
    assert len(data) == len(content)
    changed = int.from_bytes(data, "big") ^ int.from_bytes(content, "big")
    assert changed.bit_count() == 1


@given(traffic=TRAFFIC, sides=st.tuples(HOST, HOST), seed=st.integers(0, 2**32))
def test_no_datagram_crosses_a_partition_and_each_other_one_arrives(traffic, sides, seed):
    _, hosts = run(traffic, [("partition", 1.0, sides)], seed)
    side = {sides[0]: 1} | {sides[1]: 2}
    for host in hosts:
        assert numbers(host) == Counter(
            n
            for n, (_, one, to) in enumerate(traffic)
            if to == host.index and side.get(one, 0) == side.get(to, 0)
        )


@given(traffic=TRAFFIC, imposed=IMPOSED, seed=st.integers(0, 2**32))
def test_nothing_arrives_that_was_not_sent_nor_before_it_was_sent(traffic, imposed, seed):
    calm = [each for each in imposed if each[0] != "corrupt"]
    _, hosts = run(traffic, calm, seed)
    copies = sum(verb == "duplicate" for verb, *_ in calm)
    for host in hosts:
        for arrived, data, _ in host.heard:
            assert arrived >= traffic[int.from_bytes(data, "big")][0]
        assert all(count <= 2**copies for count in numbers(host).values())
