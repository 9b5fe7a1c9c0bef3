"""Nested shares and the budget of work: arithmetic that an attacker would like to be wrong."""

from __future__ import annotations

import math
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.shares import FRACTIONS, Group, GroupUsage, Shares, groups_of
from overlay.work_budget import Work, WorkBudget


def groups(host: str):
    return groups_of(ip_address(host).packed)


def keys(host: str) -> list[bytes]:
    return [group.key for group in groups(host)]


def shared(one: str, other: str) -> int:
    """How many groups two addresses have in common."""
    return len(set(keys(one)) & set(keys(other)))


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("203.0.113.1", "203.0.113.1", 3),
        ("203.0.113.1", "203.0.113.2", 2),
        ("203.0.113.1", "203.0.112.1", 1),
        ("203.0.113.1", "203.1.113.1", 0),
        ("2a02:1:2:3401::1", "2a02:1:2:34ff::1", 3),
        ("2a02:1:2:3401::1", "2a02:1:2:3501::1", 2),
        ("2a02:1:2::1", "2a02:1:3::1", 1),
        ("2a02:1::1", "2a02:2::1", 0),
        ("fd00:1:2:3::1", "fd00:1:2:3::2", 2),
        ("fd00:1:2:3::1", "fd00:1:2:4::1", 1),
        ("2002:cb00:7101::1", "203.0.113.1", 3),
        ("64:ff9b::203.0.113.1", "203.0.113.1", 3),
        ("::ffff:203.0.113.1", "203.0.113.1", 3),
    ],
)
def test_groups_of_addresses(one: str, other: str, common: int) -> None:
    assert shared(one, other) == shared(other, one) == common


def test_no_group_of_ipv4_is_one_of_ipv6() -> None:
    packed = bytes(range(16))
    assert not {g.key for g in groups_of(packed[:4])} & {g.key for g in groups_of(packed)}


def filled(shares: Shares[int], hosts: list[str]) -> int:
    """Ask for places in turn until none gets one; return the number of places."""
    before = len(shares)
    while True:
        served = len(shares)
        for host in hosts:
            if shares.admits(groups(host)):
                shares.add(len(shares) + 1, groups(host))
        if len(shares) == served:
            return served - before


@pytest.mark.parametrize("places", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize(
    ("hosts", "fraction"),
    [
        (["203.0.113.1"], FRACTIONS[0]),
        ([f"203.0.113.{n}" for n in range(256)], FRACTIONS[1]),
        ([f"203.0.{n}.1" for n in range(256)], FRACTIONS[2]),
        (["2a02:1:2:3401::1"], FRACTIONS[0]),
        ([f"2a02:1:2:{n:x}00::1" for n in range(256)], FRACTIONS[1]),
        ([f"2a02:1:{n:x}::1" for n in range(256)], FRACTIONS[2]),
    ],
)
def test_one_group_alone_gets_its_fraction_and_no_more(
    places: int, hosts: list[str], fraction: float
) -> None:
    had = filled(Shares(places), hosts)
    assert 1 <= had <= max(1, fraction * (places + 1) / (1 + fraction))
    assert had >= math.floor(fraction * places / (1 + fraction))


@pytest.mark.slow
@pytest.mark.parametrize("providers", [1, 2, 5, 15])
def test_each_attacking_provider_leaves_room_for_the_next_one(providers: int) -> None:
    shares: Shares[int] = Shares(1000)
    for number in range(providers):
        filled(shares, [f"{20 + number}.0.{site}.1" for site in range(256)])
    assert 1000 - len(shares) >= 1000 * (2 / 3) ** providers - 1
    assert shares.admits(groups("203.0.113.1"))


OPERATIONS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 15), st.integers(0, 2**32 - 1)), max_size=60
)


@pytest.mark.slow
@given(st.integers(1, 12), OPERATIONS)
def test_shares_never_exceed_their_places_and_forget_everything(places, operations) -> None:
    shares: Shares[int] = Shares(places)
    for add, key, address in operations:
        of = groups_of((address & 0xC3C0C0C0).to_bytes(4, "big"))
        if not add:
            shares.discard(key)
        elif key not in shares and shares.admits(of):
            shares.add(key, of)
        assert len(shares) <= places
    for _, key, _ in operations:
        shares.discard(key)
    fresh: Shares[int] = Shares(places)
    for address in range(0, 2**32, 2**27):
        of = groups_of(address.to_bytes(4, "big"))
        assert shares.admits(of) == fresh.admits(of)
        if fresh.admits(of):
            shares.add(address, of)
            fresh.add(address, of)


def test_group_with_a_bound_of_its_own() -> None:
    ledger = GroupUsage(10)
    of = (Group(b"identity", math.inf, 2),)
    for _ in range(2):
        assert ledger.admits(of)
        ledger.take(of)
    assert not ledger.admits(of)
    ledger.give_back(of)
    assert ledger.admits(of)


def spent(budget: WorkBudget, hosts: list[str], now: float, times: int) -> int:
    of = [groups(host) for host in hosts]
    return sum(budget.spend(Work.HANDSHAKE, each, now) for _ in range(times) for each in of)


def test_budget_of_a_second_is_never_exceeded() -> None:
    budget = WorkBudget(0.1)
    hosts = [f"{n}.0.0.1" for n in range(1, 100)]
    assert spent(budget, hosts, 5.0, 20) * Work.HANDSHAKE.value <= 0.1
    assert budget.refused > 0
    assert spent(budget, hosts[:1], 6.0, 1) == 1
    assert spent(budget, hosts, 6.0, 20) * Work.HANDSHAKE.value <= 0.1


def test_one_address_cannot_take_the_budget_from_others() -> None:
    budget = WorkBudget(0.1)
    attacker = spent(budget, ["203.0.113.1"], 5.0, 10_000)
    assert attacker * Work.HANDSHAKE.value <= 0.1 / 9
    attackers = [f"203.0.{n}.1" for n in range(256)]
    assert (attacker + spent(budget, attackers, 5.5, 100)) * Work.HANDSHAKE.value <= 0.15 / 3
    assert spent(budget, ["198.51.100.1"], 5.9, 1) == 1


def test_clock_that_jumps_gives_no_more_than_the_budget_of_a_second() -> None:
    budget = WorkBudget(Work.ONION.value)
    assert budget.spend(Work.ONION, (), 9.0)
    assert not budget.spend(Work.ONION, (), 9.9)
    assert not budget.spend(Work.ONION, (), 3.0)
    assert budget.spend(Work.ONION, (), 7.0)
    assert budget.spend(Work.ONION, (), 1e9)
    assert not budget.spend(Work.ONION, (), 1e9)
