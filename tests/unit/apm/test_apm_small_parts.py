"""SPIs, timers, replay cache, settings, keys, keep-alive, inner addresses."""

from __future__ import annotations

import ipaddress
import math
import tracemalloc
from random import Random

import pytest

from overlay.addresses import CIRCUIT_PREFIX, OVERLAY_PREFIX, InnerAddress, OverlayAddress
from overlay.apm.inner_addresses import InnerAddresses, InnerAddressPool, is_inner_address
from overlay.apm.keys import HopKeys, nesm_generate_sym_key
from overlay.apm.layer import IpVersions
from overlay.apm.replay import ReplayCache, replay_tag
from overlay.apm.settings import ApmSettings
from overlay.apm.spi import SpiAllocator
from overlay.apm.timers import Timers
from overlay.errors import LimitReached, Replayed
from overlay.ipsec.interface import Spi
from overlay.ipsec.suites import SUITES
from overlay.sensitive import SecretBytes

MALLORY, ALICE = (OverlayAddress(OVERLAY_PREFIX + bytes([n] * 12)) for n in (1, 2))

V4 = ipaddress.IPv4Network("100.64.8.0/29")
V6 = ipaddress.IPv6Network("fd77:1::/64")


class CountingRandom(Random):
    """Draws integers in order, so that collisions can be forced."""

    def __init__(self, values: list[int]) -> None:
        super().__init__(0)
        self._values = values

    def randint(self, a: int, b: int) -> int:
        return self._values.pop(0)


def test_spi_that_is_live_is_never_allocated_again() -> None:
    spis = SpiAllocator(CountingRandom([300, 300, 300, 301]))
    assert spis.allocate() == 300
    assert spis.allocate() == 301


def test_releasing_an_unknown_spi_is_no_error() -> None:
    spis = SpiAllocator(Random(1))
    spis.release(Spi(999))
    assert len(spis) == 0


def test_timers_give_keys_in_order_of_their_latest_deadline() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    timers.set("b", 2.0)
    timers.set("a", 3.0)
    assert timers.next_deadline() == 2.0
    assert timers.pop_due(1.5) is None
    assert [timers.pop_due(9), timers.pop_due(9), timers.pop_due(9)] == ["b", "a", None]
    assert timers.next_deadline() == math.inf


def test_cancelled_timer_never_fires_and_can_be_set_anew() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    timers.cancel("a")
    timers.cancel("never set")
    assert timers.next_deadline() == math.inf
    timers.set("a", 2.0)
    assert timers.pop_due(2.0) == "a"


def test_moving_a_timer_often_does_not_grow_the_heap() -> None:
    timers: Timers[int] = Timers()
    tracemalloc.start()
    for when in range(10_000):
        timers.set(when % 3, float(when))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(timers) == 3
    assert held < 32_768, "10,000 entries would take more than 1 MB"


def test_replayed_layer_is_refused_until_it_expires() -> None:
    cache = ReplayCache(10, 10)
    tag = replay_tag(b"encapsulated key")
    cache.check(tag)
    cache.remember(tag, MALLORY, expires=100.0)
    with pytest.raises(Replayed):
        cache.check(tag)
    assert cache.admits(MALLORY, now=99.9)
    with pytest.raises(Replayed):
        cache.check(tag)
    assert cache.admits(MALLORY, now=100.0)
    cache.check(tag)
    assert len(cache) == 0


def test_full_replay_cache_refuses_rather_than_forgets() -> None:
    cache = ReplayCache(2, 2)
    tags = [replay_tag(bytes([i])) for i in range(3)]
    cache.remember(tags[0], MALLORY, 10.0)
    cache.remember(tags[1], MALLORY, 20.0)
    assert not cache.admits(MALLORY, now=5.0)
    with pytest.raises(Replayed):
        cache.check(tags[0])
    assert cache.admits(MALLORY, now=10.0)
    cache.remember(tags[2], MALLORY, 30.0)
    assert len(cache) == 2


def test_one_neighbour_fills_no_more_than_its_share_of_the_replay_cache() -> None:
    cache = ReplayCache(10, 2)
    for number in range(2):
        assert cache.admits(MALLORY, now=0.0)
        cache.remember(replay_tag(bytes([number])), MALLORY, 100.0)
    assert not cache.admits(MALLORY, now=1.0)
    assert cache.admits(ALICE, now=1.0)
    assert cache.admits(MALLORY, now=100.0)
    assert len(cache) == 0


def test_default_settings_are_valid() -> None:
    assert ApmSettings().max_hops == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_hops": 0},
        {"max_hops": 6},
        {"keepalive_interval_s": 0.0},
        {"idle_expiry_s": 30.0},
        {"max_onion_validity_s": 400.0},
        {"max_circuits": 0},
        {"closing_copies": -1},
        {"lifetime_s": math.nan},
    ],
)
def test_setting_out_of_range_is_one_sentence(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"^[a-z_0-9]+ must .*[^.]$"):
        ApmSettings(**wrong)


def test_keys_of_one_seed_are_all_different_and_repeatable() -> None:
    seed = nesm_generate_sym_key(Random(1))
    for number, suite in SUITES.items():
        keys = HopKeys.derive(seed, number)
        secrets = [
            keys.stream.reveal(),
            keys.filler.reveal(),
            keys.forward_keymat.reveal(),
            keys.backward_keymat.reveal(),
        ]
        assert len({secret[:16] for secret in secrets}) == 4
        assert len(keys.forward_keymat) == len(keys.backward_keymat) == suite.keymat_bytes
        assert HopKeys.derive(seed, number) == keys


def test_one_seed_never_keys_two_ciphers() -> None:
    seed = SecretBytes(bytes(32))
    forward = {HopKeys.derive(seed, n).forward_keymat.reveal()[:16] for n in SUITES}
    assert len(forward) == len(SUITES)


def free(_: bytes) -> bool:
    return False


def test_pool_lends_each_address_once() -> None:
    pool = InnerAddressPool(V4, None, Random(1))
    lent = {pool.assign(IpVersions.IPV4, free).ipv4 for _ in range(6)}
    assert len(lent) == 6
    assert all(ipaddress.ip_address(a) in V4 for a in lent if a)
    assert V4[0].packed not in lent
    assert V4[7].packed not in lent
    with pytest.raises(LimitReached):
        pool.assign(IpVersions.IPV4, free)


def test_released_address_can_be_lent_again() -> None:
    pool = InnerAddressPool(V4, V6, Random(1))
    both = pool.assign(IpVersions.IPV4 | IpVersions.IPV6, free)
    assert both.families == IpVersions.IPV4 | IpVersions.IPV6
    assert all(pool.lends(address) for address in both)
    pool.release(both)
    assert len(pool) == 0


def test_pool_skips_what_is_listed_or_taken() -> None:
    pool = InnerAddressPool(V4, None, Random(1), skip=[ipaddress.ip_network("100.64.8.0/30")])
    taken = V4[5].packed
    lent = {pool.assign(IpVersions.IPV4, lambda a: a == taken).ipv4 for _ in range(2)}
    assert lent == {V4[4].packed, V4[6].packed}


def test_failed_assignment_of_the_second_family_lends_nothing() -> None:
    pool = InnerAddressPool(V4, None, Random(1))
    with pytest.raises(LimitReached):
        pool.assign(IpVersions.IPV4 | IpVersions.IPV6, free)
    assert len(pool) == 0


@pytest.mark.parametrize(
    ("ipv4", "ipv6"),
    [
        (None, None),
        ("192.0.2.0/24", None),
        ("172.0.0.0/8", None),
        ("100.64.0.0/31", None),
        (None, "2001:db8::/64"),
        (None, "fd63:6972::/64"),
        (None, "fd00::/8"),
        (None, "fd77::/121"),
    ],
)
def test_pool_of_addresses_that_no_source_accepts_is_refused(
    ipv4: str | None, ipv6: str | None
) -> None:
    with pytest.raises(ValueError, match="prefix"):
        InnerAddressPool(
            ipaddress.IPv4Network(ipv4) if ipv4 else None,
            ipaddress.IPv6Network(ipv6) if ipv6 else None,
            Random(1),
        )


@pytest.mark.parametrize("ipv4", ["10.0.0.0/8", "172.16.4.0/22", "192.168.0.0/29", "100.64.0.0/10"])
def test_pool_lends_from_every_private_network(ipv4: str) -> None:
    network = ipaddress.IPv4Network(ipv4)
    lent = InnerAddressPool(network, None, Random(1)).assign(IpVersions.IPV4, free).ipv4
    assert lent is not None
    assert ipaddress.ip_address(lent) in network
    assert is_inner_address(lent)


def test_inner_addresses_need_at_least_one_family() -> None:
    with pytest.raises(ValueError, match="at least one"):
        InnerAddresses()


@pytest.mark.parametrize(
    ("address", "accepted"),
    [
        ("100.64.0.1", True),
        ("fd77::1", True),
        ("127.0.0.1", False),
        ("192.168.1.1", True),
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("172.32.0.1", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("169.254.1.1", False),
        ("224.0.0.1", False),
        ("fec0::1", False),
        ("8.8.8.8", False),
        ("::1", False),
        ("2001:db8::1", False),
        ("fe80::1", False),
    ],
)
def test_source_accepts_inner_addresses_of_reserved_ranges_alone(
    address: str, accepted: bool
) -> None:
    assert is_inner_address(ipaddress.ip_address(address).packed) is accepted


def test_overlay_and_circuit_addresses_are_no_inner_addresses() -> None:
    for prefix in (OVERLAY_PREFIX, CIRCUIT_PREFIX):
        assert not is_inner_address(InnerAddress(prefix + bytes(12)))
