"""The search for large packets in one circuit, and what its exit makes of it."""

import random
from types import SimpleNamespace

import pytest
from apm_lab import Net

from overlay.apm.answer_sizes import AnswerSizes
from overlay.apm.circuit_size_search import CONFIRM_S, CircuitSizeSearch
from overlay.apm.control import CONTROL_BYTES, SizeProbe, SizeProbed
from overlay.apm.events import CircuitLost, CircuitSized, ExitCircuitSized
from sims.world.engine.conditions import drop

PACKET = 1300
PAYLOAD = PACKET - 48


@pytest.fixture
def rng():
    return random.Random(5)


def probe(search, rng, now):
    (sent,) = search.probes(rng, now)
    return sent


def test_the_first_answer_proves_the_size_and_the_exit_hears_of_it_at_once(rng):
    search = CircuitSizeSearch(PACKET, 0.0)
    first = probe(search, rng, 0.0)
    assert (first.is_proved, first.size, search.proved_bytes) == (False, PAYLOAD, None)
    assert search.answered(SizeProbed(first.echo, PAYLOAD), 0.3)
    assert search.proved_bytes == PACKET
    second = probe(search, rng, 0.3)
    assert second.is_proved
    assert search.answered(SizeProbed(second.echo, PAYLOAD), 0.6)
    assert search.probes(rng, 0.6 + CONFIRM_S - 0.1) == []
    assert probe(search, rng, 0.6 + CONFIRM_S).is_proved


def test_answers_of_another_size_or_echo_prove_nothing(rng):
    search = CircuitSizeSearch(PACKET, 0.0)
    echo = probe(search, rng, 0.0).echo
    assert not search.answered(SizeProbed(echo, CONTROL_BYTES), 0.1)
    assert not search.answered(SizeProbed(bytes(8), PAYLOAD), 0.1)
    assert search.proved_bytes is None
    assert search.answered(SizeProbed(echo, PAYLOAD), 0.1)
    assert not search.answered(SizeProbed(echo, PAYLOAD), 0.2), "a copy"


def lose_all(search, rng, now):
    """Lose probes until the search gives up; return what it sent, and when it gave up."""
    sent = []
    while True:
        now = max(now, search.deadline)
        batch = search.probes(rng, now)
        sent += batch
        if not batch or batch[0].size == CONTROL_BYTES:
            return sent, now


def test_three_lost_probes_end_a_search_that_is_tried_again_later(rng):
    search = CircuitSizeSearch(PACKET, 0.0)
    sent, now = lose_all(search, rng, 0.0)
    assert [each.size for each in sent] == [PAYLOAD] * 3
    assert search.proved_bytes is None
    assert search.probes(rng, search.deadline - 0.1) == []
    assert search.deadline > now + CONFIRM_S
    late = probe(search, rng, search.deadline)
    assert search.answered(SizeProbed(late.echo, PAYLOAD), now)


def test_a_lost_proof_takes_the_permission_back_with_a_message_that_passes(rng):
    search = CircuitSizeSearch(PACKET, 0.0)
    search.answered(SizeProbed(probe(search, rng, 0.0).echo, PAYLOAD), 0.1)
    sent, _ = lose_all(search, rng, 0.1)
    assert search.proved_bytes is None
    assert [each.is_proved for each in sent] == [True] * 3 + [False]
    assert sent[-1].size == CONTROL_BYTES


# -- at the exit


class Exit:
    def __init__(self):
        self.told = []
        self.sizes = AnswerSizes(
            lambda event: self.told.append((event.inner_addresses, event.packet_bytes))
        )
        self.circuits = {n: circuit(n) for n in (1, 2)}

    def hears(self, now, *, number=1, is_proved=True, size=PAYLOAD):
        self.sizes.heard(self.circuits[number], SizeProbe(bytes(8), is_proved, size), now)

    def expires(self, now):
        while (number := self.sizes.pop_due(now)) is not None:
            self.sizes.expire(self.circuits[number])


def circuit(number):
    return SimpleNamespace(number=number, ipsec=SimpleNamespace(inner_addresses=f"inner {number}"))


def test_only_a_proof_permits_large_answers_and_a_renewal_changes_nothing():
    exit_ = Exit()
    exit_.hears(0, is_proved=False)
    assert exit_.told == []
    exit_.hears(1)
    exit_.hears(21)
    assert exit_.told == [("inner 1", PACKET)]
    exit_.hears(41, is_proved=False, size=CONTROL_BYTES)
    assert exit_.told[1:] == [("inner 1", 0)]


def test_a_permission_ends_if_it_is_not_renewed():
    exit_ = Exit()
    exit_.hears(0)
    exit_.hears(20)
    exit_.expires(20 + 3 * CONFIRM_S)
    assert len(exit_.told) == 1
    exit_.expires(20 + 4 * CONFIRM_S)
    assert exit_.told[1:] == [("inner 1", 0)]


def test_a_source_cannot_change_routes_all_the_time():
    exit_ = Exit()
    for tenth in range(100):
        exit_.hears(tenth / 10, is_proved=bool(tenth % 2))
    assert len(exit_.told) == 2
    exit_.hears(10.2)
    assert len(exit_.told) == 3


def test_moved_addresses_get_the_size_of_the_circuit_that_takes_them_over():
    exit_ = Exit()
    exit_.hears(0, number=1)
    exit_.sizes.moved(exit_.circuits[2])
    assert exit_.told[-1] == ("inner 2", 0)
    exit_.sizes.moved(exit_.circuits[1])
    assert exit_.told[-1] == ("inner 1", PACKET)
    exit_.sizes.forget(1)
    exit_.sizes.moved(exit_.circuits[1])
    assert exit_.told[-1] == ("inner 1", 0)
    exit_.expires(10_000)


# -- both together, over real engines


def network(*, probes):
    net = Net(["alice", "mix1", "mix2", "exit"], probed_packet_bytes=PACKET if probes else None)
    return net, net["alice"], net["exit"]


def report_of(alice):
    (report,) = alice.manager.circuits()
    return report


def sizes_at(exit_):
    return [event.packet_bytes for event in exit_.events_of(ExitCircuitSized)]


def test_a_circuit_that_carries_large_packets_is_proved_and_its_exit_knows():
    net, alice, exit_ = network(probes=True)
    net.open("alice", ["mix1", "mix2", "exit"])
    net.run(5)
    assert report_of(alice).packet_bytes == PACKET
    assert sizes_at(exit_) == [PACKET]
    assert len(alice.events_of(CircuitSized)) == 2
    net.run(3 * CONFIRM_S)
    assert sizes_at(exit_) == [PACKET], "renewed, and not changed"


def test_a_line_that_drops_large_datagrams_keeps_the_usual_size_and_the_circuit():
    net, alice, exit_ = network(probes=True)
    net.open("alice", ["mix1", "mix2", "exit"])
    net.run(5)
    imposed = net.network.impose(drop(lambda flight: len(flight.datagram) > 1400))
    net.run(2 * CONFIRM_S)
    assert report_of(alice).packet_bytes is None
    assert sizes_at(exit_) == [PACKET, 0]
    assert alice.events_of(CircuitLost) == []
    net.network.lift(imposed)
    net.run(4 * CONFIRM_S)
    assert report_of(alice).packet_bytes == PACKET
    assert sizes_at(exit_) == [PACKET, 0, PACKET]


def test_a_backend_that_sends_pieces_probes_no_circuit():
    net, alice, exit_ = network(probes=False)
    net.open("alice", ["mix1", "mix2", "exit"])
    net.run(5)
    assert report_of(alice).packet_bytes is None
    assert sizes_at(exit_) == []
