"""The watch over one circuit: when it asks which hop, and when the circuit is lost."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.apm.control import CircuitPing, CircuitPong
from overlay.apm.keepalive import CircuitWatch, TrafficMarks, WatchTimes
from sims.world.engine.heap import EventHeap

TIMES = WatchTimes(interval_s=10.0, losses=3, patience_s=1.2, look_s=0.1)


class Circuit:
    """A circuit of three hops whose clock, answers and traffic the test controls."""

    def __init__(self, rtt_s: float = 0.02, answering: int = 3) -> None:
        self.heap = EventHeap(100.0)
        self.watch = CircuitWatch(TIMES, 3, self.now)
        self.rtt_s = rtt_s
        self.answering = answering
        self.sent = self.heard = 0
        self.pings: list[tuple[float, int]] = []
        self.unexpected = 0
        self._rng = Random(1)
        self._look_at = self.now
        self._waiting: list[tuple[int, CircuitPing]] | None = None

    @property
    def now(self) -> float:
        return self.heap.now

    def run(self, seconds: float, *, sends: bool = False, hears: bool = False) -> float | None:
        """Let time pass in steps of 10 ms; return when the circuit was lost, or None."""
        end = self.now + seconds
        while self.now < end:
            self.heap.run(self.now + 0.01)
            self.sent += sends
            self.heard += hears
            if self.now >= self._look_at:
                self._look()
                if self.watch.is_lost(self.now):
                    return self.now
                self._look_at = self.watch.next_look(self.now)
        return None

    def _look(self) -> None:
        traffic = TrafficMarks((1, self.sent), (2, self.heard) if self.heard else None)
        if self.watch.look(traffic, self.now):
            for position, ping in self.watch.pings(self._rng, self.now):
                self.pings.append((self.now, position))
                if position <= self.answering:
                    self.heap.at(self.now + self.rtt_s, self._hear, position, ping)

    def stop(self, seconds: float) -> None:
        """Let time pass in which this process does not run, so that answers wait for it."""
        self._waiting = []
        self.heap.run(self.now + seconds)
        waiting, self._waiting = self._waiting, None
        for position, ping in waiting:
            self._hear(position, ping)

    def _hear(self, position: int, ping: CircuitPing) -> None:
        if self._waiting is not None:
            self._waiting.append((position, ping))
            return
        self.unexpected += not self.watch.answered(position, CircuitPong(ping.echo), self.now)


def test_a_circuit_at_rest_is_asked_once_in_an_interval() -> None:
    circuit = Circuit()
    assert circuit.run(61) is None
    assert 20 <= len(circuit.pings) <= 22, "sixteen measure round trip and losses first"
    assert {position for _, position in circuit.pings} == {3}
    assert circuit.watch.rtt_s == pytest.approx(0.02, abs=0.02)


def test_traffic_in_both_directions_needs_no_ping() -> None:
    circuit = Circuit()
    circuit.run(6)
    asked = len(circuit.pings)
    assert circuit.run(30, sends=True, hears=True) is None
    assert len(circuit.pings) == asked


def test_the_round_trip_is_measured_although_other_packets_overtake_each_pong() -> None:
    """Else a busy circuit would keep its first measurement, made while the hops were busy."""
    watch = CircuitWatch(TIMES, 3, 0.0)
    rng, sent = Random(1), {}
    for tick in range(300):
        now = tick / 100
        mark = (1, tick + 1)
        if watch.look(TrafficMarks(mark, mark), now):
            sent |= {ping.echo: now for _, ping in watch.pings(rng, now)}
        watch.next_look(now)
        for echo, at in list(sent.items()):
            if now >= at + (1.0 if at == 0.0 else 0.05):
                assert watch.answered(3, CircuitPong(echo), now)
                assert not watch.answered(3, CircuitPong(echo), now), "a copy measures nothing"
                del sent[echo]
    assert watch.rtt_s is not None
    assert watch.rtt_s < 0.4, "the first one took 1 s"


def test_a_stream_without_answers_is_asked_about_twice_a_second_at_most() -> None:
    circuit = Circuit()
    assert circuit.run(20, sends=True) is None
    assert 20 <= len(circuit.pings) <= 45


@pytest.mark.parametrize("silent_hop", [1, 2, 3])
def test_death_is_noticed_within_two_seconds_of_traffic(silent_hop: int) -> None:
    circuit = Circuit()
    circuit.run(3, sends=True, hears=True)
    circuit.answering = silent_hop - 1
    died = circuit.now
    circuit.run(0.7, sends=True)
    assert circuit.watch.is_doubtful, "a standby circuit is asked for before anything else"
    lost = circuit.run(10, sends=True)
    assert lost is not None
    assert lost - died <= 2.0
    assert circuit.watch.silent_hop == silent_hop


def test_death_of_a_circuit_at_rest_is_noticed_within_20_seconds() -> None:
    circuit = Circuit()
    circuit.run(3)
    circuit.answering, died = 0, circuit.now
    lost = circuit.run(30)
    assert lost is not None
    assert lost - died < 12


@pytest.mark.parametrize("answered", [0.6, 0.4])
def test_losses_are_no_death(answered: float) -> None:
    lost = 0
    for seed in range(20):
        circuit = Circuit(rtt_s=0.3)
        rng = Random(seed)
        ping_hop = circuit.watch.pings

        def pings(
            *arguments: Any, ask: Any = ping_hop, draw: Random = rng
        ) -> list[tuple[int, CircuitPing]]:
            return [each for each in ask(*arguments) if draw.random() < answered]

        circuit.watch.pings = pings  # type: ignore[method-assign]
        lost += circuit.run(60) is not None
    assert lost <= 1


def test_a_long_round_trip_is_no_death() -> None:
    circuit = Circuit(rtt_s=1.5)
    assert circuit.run(120, sends=True) is None


@pytest.mark.parametrize("rounds", [1, 5])
def test_answers_of_hops_that_packets_of_the_exit_overtake_are_expected(rounds: int) -> None:
    """An answer counted as unexpected looks like a fault, or like a peer that cheats."""
    circuit = Circuit(rtt_s=0.7)
    for _ in range(rounds):
        circuit.run(0.6, sends=True)
        assert {position for _, position in circuit.pings} == {1, 2, 3}
        circuit.run(1, sends=True, hears=True)
    assert circuit.unexpected == 0


def test_time_in_which_this_process_did_not_run_does_not_count() -> None:
    circuit = Circuit()
    circuit.run(3, sends=True, hears=True)
    circuit.rtt_s = 0.3
    circuit.run(0.4, sends=True)
    circuit.stop(30)
    assert circuit.run(3, sends=True) is None
    assert circuit.unexpected == 0, "answers waited for this process"
    assert circuit.watch.rtt_s is not None
    assert circuit.watch.rtt_s < 1, "such an answer measures no round trip"


def test_an_answer_of_another_hop_or_with_a_guessed_echo_is_none() -> None:
    circuit = Circuit(answering=0)
    circuit.run(0.5)
    [(_, ping)] = [each for each in circuit.watch.pings(Random(3), circuit.now) if each[0] == 3]
    assert not circuit.watch.answered(2, CircuitPong(ping.echo), circuit.now)
    assert not circuit.watch.answered(3, CircuitPong(bytes(8)), circuit.now)
    assert circuit.watch.answered(3, CircuitPong(ping.echo), circuit.now)
    assert not circuit.watch.answered(3, CircuitPong(ping.echo), circuit.now)


@pytest.mark.slow
@given(st.lists(st.tuples(st.floats(0.01, 5), st.booleans(), st.booleans()), max_size=30))
def test_a_circuit_that_answers_is_never_lost(steps: list[tuple[float, bool, bool]]) -> None:
    circuit = Circuit()
    for seconds, sends, hears in steps:
        assert circuit.run(seconds, sends=sends, hears=hears) is None
    assert len(circuit.pings) <= 3 + 4 * (circuit.now - 100)
