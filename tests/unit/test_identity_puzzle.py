"""The static identity puzzle: what an identity cost can be read off its key."""

import hashlib
from random import Random

import pytest

from overlay.identity import LocalIdentity, identity_cost_bits, meets_cost, node_id_of


def bits_by_text(identity_key):
    """The definition once more, by text: leading zeros of a hash of the NodeId."""
    digest = hashlib.sha256(b"overlay identity puzzle v1" + node_id_of(identity_key)).digest()
    text = "".join(f"{byte:08b}" for byte in digest)
    return len(text) - len(text.lstrip("0"))


def test_cost_is_the_number_of_leading_zero_bits():
    rng = Random(1)
    keys = [rng.randbytes(32) for _ in range(2000)]
    costs = [identity_cost_bits(key) for key in keys]
    assert costs == [bits_by_text(key) for key in keys]
    assert max(costs) >= 8


@pytest.mark.slow
def test_each_bit_halves_the_identities_that_meet_it():
    rng = Random(2)
    keys = [rng.randbytes(32) for _ in range(20_000)]
    for bits in range(6):
        met = sum(meets_cost(key, bits) for key in keys)
        expected = len(keys) / 2**bits
        assert abs(met - expected) <= 5 * expected**0.5


@pytest.mark.parametrize("bits", [0, 1, 6])
def test_search_finds_an_identity_that_meets_the_cost(bits):
    identity = LocalIdentity.generate(Random(3), bits)
    assert identity_cost_bits(identity.identity_key) >= bits
    assert meets_cost(identity.identity_key, bits)
    assert not meets_cost(identity.identity_key, identity_cost_bits(identity.identity_key) + 1)


def test_network_that_asks_nothing_draws_as_before():
    assert LocalIdentity.generate(Random(4)).node_id == LocalIdentity.generate(Random(4), 0).node_id
