"""When a circuit was last used, with engines that tell it and with one that does not."""

from __future__ import annotations

import pytest

from overlay.apm.usage import CircuitUsage
from overlay.errors import BackendError
from overlay.ipsec.interface import SaCounters, SaIdentity, Spi

NOW = 1_700_000_000.0
IN_USE, RENEWED = (SaIdentity(Spi(number), bytes(16)) for number in (1000, 2000))


class Counters:
    """As much of an IpsecBackend as is asked; ``last_used`` None is Linux."""

    def __init__(self) -> None:
        self.held: dict[SaIdentity, SaCounters] = {}
        self.fails = False

    def count(self, identity: SaIdentity, packets: int, last_used: float | None = None) -> None:
        self.held[identity] = SaCounters(packets, 0, packets, last_used)

    def query(self, identity: SaIdentity) -> SaCounters | None:
        if self.fails:
            raise BackendError("asking the kernel for an IPsec entry failed.")
        return self.held.get(identity)


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def usage(counters: Counters) -> CircuitUsage:
    return CircuitUsage(counters)  # type: ignore[arg-type] - nothing else is asked


def test_what_the_engine_tells_counts(counters: Counters, usage: CircuitUsage) -> None:
    counters.count(IN_USE, 5, NOW - 20)
    counters.count(RENEWED, 1, NOW - 3)
    assert usage.last_used(1, [IN_USE, RENEWED], NOW) == NOW - 3
    assert usage.last_used(1, [IN_USE], NOW) == NOW - 20


def test_a_circuit_that_never_carried_a_packet_was_never_used(
    counters: Counters, usage: CircuitUsage
) -> None:
    assert usage.last_used(1, [IN_USE], NOW) is None
    counters.count(IN_USE, 0)
    assert usage.last_used(1, [IN_USE], NOW) is None


def test_without_times_it_was_used_when_more_packets_are_found(
    counters: Counters, usage: CircuitUsage
) -> None:
    counters.count(IN_USE, 5)
    assert usage.last_used(1, [IN_USE], NOW) == NOW
    assert usage.last_used(1, [IN_USE], NOW + 60) == NOW, "idle since"
    counters.count(IN_USE, 6)
    assert usage.last_used(1, [IN_USE], NOW + 90) == NOW + 90
    assert usage.last_used(2, [IN_USE], NOW + 91) == NOW + 91, "another circuit, first looked at"


def test_new_keys_without_a_packet_do_not_make_a_used_circuit_unused(
    counters: Counters, usage: CircuitUsage
) -> None:
    counters.count(IN_USE, 5)
    usage.last_used(1, [IN_USE], NOW)
    counters.count(RENEWED, 0)
    assert usage.last_used(1, [RENEWED], NOW + 60) == NOW
    counters.count(RENEWED, 5)
    assert usage.last_used(1, [RENEWED], NOW + 70) == NOW + 70, "as many packets, other keys"


def test_an_engine_that_cannot_be_asked_ends_no_circuit(
    counters: Counters, usage: CircuitUsage
) -> None:
    counters.fails = True
    assert usage.last_used(1, [IN_USE], NOW) == NOW


def test_a_circuit_that_ended_is_forgotten(counters: Counters, usage: CircuitUsage) -> None:
    counters.count(IN_USE, 5)
    usage.last_used(1, [IN_USE], NOW)
    usage.forget(1)
    usage.forget(1)
    counters.held.clear()
    assert usage.last_used(1, [IN_USE], NOW + 1) is None
