"""The draw against a brute-force oracle that lists every valid path."""

from __future__ import annotations

import itertools
from collections import Counter
from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.addresses import Endpoint
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role
from overlay.errors import NoSuitablePath
from overlay.exit_policy import ExitPolicy, parse_exit_rule
from overlay.selection import uniform
from overlay.selection.selector import PathRequest
from overlay.selection.uniform import UniformSelector, network_prefixes

DESTINATION = ip_address("203.0.114.80")
SOURCE = b"S" * 20
POLICIES = [
    ExitPolicy(parse_exit_rule("accept *:443")),
    ExitPolicy(parse_exit_rule("accept 198.51.101.0/24:*")),
]


def mix(n, *, hosts, relay=True, policy=None, suite=1, esp=3) -> MixDescriptor:
    roles = {Role.RELAY} if relay else set()
    return MixDescriptor(
        network_id="test",
        identity_key=bytes([n]) * 32,
        onion_keys=(OnionKey(suite, b"k" * 32),),
        link_key=b"l" * 32,
        esp_suites=(esp,),
        endpoints=tuple(Endpoint(host, 4500) for host in hosts),
        roles=frozenset(roles | ({Role.EXIT} if policy else set())),
        exit_policy=policy,
        bandwidth_kbit=1,
        sequence=1,
        valid_from=0,
        expires=1,
        encoded=b"",
    )


class Table(dict):
    def __init__(self, descriptors) -> None:
        super().__init__({d.node_id: d for d in descriptors})

    def __iter__(self):
        return iter(self.values())


def request(hops, via=(), avoid=(), versions=(4, 6)) -> PathRequest:
    return PathRequest(
        DESTINATION, hops, SOURCE, 1, 3, tuple(via), frozenset(avoid), frozenset(versions)
    )


def oracle(table, asked, *, distinct=True) -> set[tuple[MixDescriptor, ...]]:
    """Every valid path, by trying each ordered choice of nodes."""
    named = tuple(table.get(node_id) for node_id in asked.via)
    if None in named:
        return set()
    return {
        path
        for path in itertools.permutations(table, asked.hops)
        if path[: len(named)] == named
        and all(d.node_id not in asked.avoid and d.node_id != SOURCE for d in path)
        and all(d.onion_key(1) and 3 in d.esp_suites for d in path)
        and all(Role.RELAY in d.roles for d in path[:-1])
        and path[-1].exit_policy is not None
        and path[-1].exit_policy.might_permit(DESTINATION)
        and not (distinct and shares_prefix(path, len(named)))
        and reaches_each_hop(path, asked.versions)
    }


def reaches_each_hop(path, versions) -> bool:
    has = [set(versions), *({6 if ":" in e.host else 4 for e in d.endpoints} for d in path)]
    return all(one & other for one, other in itertools.pairwise(has))


def shares_prefix(path, named) -> bool:
    return any(
        network_prefixes(one) & network_prefixes(other)
        for (i, one), (j, other) in itertools.combinations(enumerate(path), 2)
        if max(i, j) >= named
    )


HOSTS = [f"198.{net}.0.{n}" for net in (18, 19, 20, 21) for n in (1, 2)] + [
    f"2001:db{net}::1" for net in (7, 8, 9)
]


def random_table(rng) -> Table:
    return Table(
        mix(
            n,
            hosts=rng.sample(HOSTS, rng.choice((1, 1, 1, 2, 2, 3))),
            relay=rng.random() < 0.8,
            policy=rng.choice([None, POLICIES[0], POLICIES[0], POLICIES[1]]),
            suite=rng.choice([1, 1, 1, 1, 1, 2]),
            esp=rng.choice([3, 3, 3, 3, 3, 4]),
        )
        for n in range(rng.randrange(8))
    )


def random_request(rng, table) -> PathRequest:
    ids = list(table.keys())
    via = rng.choices(ids, k=rng.choice((0, 0, 1, 2))) if ids else []
    avoid = rng.choices(ids, k=rng.choice((0, 0, 1, 2))) if ids else []
    versions = rng.choice([(4, 6), (4, 6), (4,), (6,)])
    return request(rng.choice((1, 2, 2, 3, 3, 3, 4, 5)), via, avoid, versions)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=4, deadline=None)
@pytest.mark.parametrize("draws", [0, 50])
@pytest.mark.parametrize("distinct", [True, False])
def test_path_is_valid_and_is_found_exactly_if_there_is_one(draws, distinct, seed):
    """With no blind draws, the search alone must find it."""
    rng = Random(seed)
    selector = UniformSelector(uniform.UniformSettings(distinct_prefixes=distinct))
    outcomes = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uniform, "DRAWS", draws)
        for _ in range(60):
            table = random_table(rng)
            asked = random_request(rng, table)
            valid = oracle(table, asked, distinct=distinct)
            try:
                found = selector.select(asked, table, rng)
            except NoSuitablePath:
                assert not valid
            else:
                assert found.hops in valid
            outcomes[bool(valid)] += 1
    assert outcomes[True]
    assert outcomes[False]


def chi_squared(counts: Counter, outcomes: int, draws: int) -> float:
    expected = draws / outcomes
    seen = sum((count - expected) ** 2 / expected for count in counts.values())
    return seen + (outcomes - len(counts)) * expected


def critical(degrees: int) -> float:
    """The 99.9 % quantile of chi-squared (Wilson and Hilferty's approximation)."""
    return degrees * (1 - 2 / (9 * degrees) + 3.0902 * (2 / (9 * degrees)) ** 0.5) ** 3


UNEVEN = Table(
    [
        # Crowded and lonely prefixes, exits that relay and exits that do not.
        mix(1, hosts=["198.20.0.1"]),
        mix(2, hosts=["198.20.0.2"]),
        mix(3, hosts=["198.20.0.3", "2a00:db8::1"]),
        mix(4, hosts=["198.19.0.1"], policy=POLICIES[0]),
        mix(5, hosts=["198.20.0.1"], policy=POLICIES[0], relay=False),
        mix(6, hosts=["198.22.0.1", "2a00:db8::2"], policy=POLICIES[0]),
        mix(7, hosts=["198.21.0.1"]),
    ]
)


@pytest.mark.parametrize("via", [(), (7,)])
@pytest.mark.parametrize("hops", [1, 2, 3])
def test_every_valid_path_is_equally_likely(hops, via):
    asked = request(hops, [mix(n, hosts=["198.20.0.1"]).node_id for n in via][: hops - 1])
    valid = oracle(UNEVEN, asked)
    rng, draws = Random(2024), 40 * len(valid)
    selector = UniformSelector()
    counts = Counter(selector.select(asked, UNEVEN, rng).hops for _ in range(draws))
    assert set(counts) <= valid
    assert len(valid) > 2
    assert chi_squared(counts, len(valid), draws) < critical(len(valid) - 1)


def test_the_uniformity_test_notices_a_hop_by_hop_draw():
    """What the module refuses to do, as a check that the test above can fail."""
    asked = request(3)
    valid = oracle(UNEVEN, asked)
    rng, draws = Random(2024), 40 * len(valid)

    def hop_by_hop():
        while True:
            path = [rng.choice([d for d in UNEVEN if d.exit_policy])]
            for _ in range(2):
                rest = [
                    d
                    for d in UNEVEN
                    if Role.RELAY in d.roles and d not in path and not shares_prefix([*path, d], 0)
                ]
                if not rest:
                    break
                path.append(rng.choice(rest))
            if len(path) == 3:
                return (*path[1:], path[0])

    counts = Counter(hop_by_hop() for _ in range(draws))
    assert set(counts) <= valid
    assert chi_squared(counts, len(valid), draws) > critical(len(valid) - 1)


def test_equal_seeds_draw_equal_paths():
    asked = request(3)
    one, other = Random(9), Random(9)
    selector = UniformSelector()
    for _ in range(20):
        assert selector.select(asked, UNEVEN, one) == selector.select(asked, UNEVEN, other)


def test_search_of_one_provider_ends_at_once():
    """All nodes share an IPv6 /32, pairs of them an IPv4 /16: trying each pair would take long."""
    marks = {
        d: frozenset({d.identity_key, b"2001", n.to_bytes(3, "big")})
        for n in range(120)
        for d in (mix(n, hosts=["198.20.0.1"]), mix(n + 120, hosts=["198.20.0.1"]))
    }
    last = mix(250, hosts=["198.20.0.1"])
    marks[last] = frozenset({last.identity_key, b"exit"})
    versions = frozenset({4})
    search = uniform.PathSearch([last], list(marks), 2, versions, marks.__getitem__, Random(1))
    assert search.path() is None
    assert search.scans_left > uniform.SEARCH_SCANS - 1000
