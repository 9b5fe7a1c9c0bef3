"""What an idle circuit costs a relay, measured as the benchmark does it."""

import pytest

from benchmarks.circuit_setup import Chain, held_by_circuit

WARM_UP = 20
MEASURED = 60
"""Together four times the warm-up: every hash table doubles twice, so its growth is typical."""


@pytest.mark.slow
def test_an_idle_circuit_costs_a_relay_less_than_4096_bytes_and_no_cipher():
    chain = Chain()
    held_by_circuit(chain, WARM_UP)
    held, _ = held_by_circuit(chain, MEASURED)
    assert chain.relay.manager.relay_report().relayed == WARM_UP + MEASURED
    assert held < 4096 - 256, "256 bytes are for what the allocator loses by rounding"
    assert chain.relay.engine.contents().ciphers == 0


def test_a_circuit_in_use_holds_a_cipher_for_each_direction():
    chain = Chain()
    chain.open_circuit()
    assert chain.relay.engine.contents().ciphers == 2
