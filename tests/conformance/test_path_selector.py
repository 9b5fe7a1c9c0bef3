"""What every registered path selection strategy promises."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

import pytest

from overlay.addresses import Endpoint, NodeId
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role
from overlay.dht.topology_table import TopologySnapshot
from overlay.errors import NoSuitablePath
from overlay.exit_policy import ExitPolicy, parse_exit_rule
from overlay.plugins import load_plugin, plugin_names
from overlay.selection import MixPath, PathRequest, PathSelector

NAMES = plugin_names("overlay.selection")
DESTINATION = ip_address("203.0.114.80")


@pytest.fixture(params=NAMES)
def selector(request) -> PathSelector:
    return load_plugin("overlay.selection", request.param)()


def mix(n: int, *, policy: str | None = None, suites: tuple[int, int] = (1, 3)) -> MixDescriptor:
    return MixDescriptor(
        network_id="test",
        identity_key=bytes([n]) * 32,
        onion_keys=(OnionKey(suites[0], b"k" * 32),),
        link_key=b"l" * 32,
        esp_suites=(suites[1],),
        endpoints=(Endpoint(f"198.{n}.0.1", 4500),),
        roles=frozenset({Role.RELAY, Role.EXIT} if policy else {Role.RELAY}),
        exit_policy=ExitPolicy(parse_exit_rule(policy)) if policy else None,
        bandwidth_kbit=1000,
        sequence=1,
        valid_from=0,
        expires=1,
        encoded=b"",
    )


RELAYS = [mix(n) for n in range(1, 7)]
EXITS = [mix(n, policy="accept *:*") for n in (11, 12)]
REFUSING_EXIT = mix(13, policy="reject *:*")
STRANGERS = [mix(14, policy="accept *:*", suites=(2, 3)), mix(15, suites=(1, 4))]
ALL = [*RELAYS, *EXITS, REFUSING_EXIT, *STRANGERS]
TABLE = TopologySnapshot((d.node_id, d) for d in ALL)


def asking(hops: int, via: list[MixDescriptor], avoid: list[MixDescriptor] | None = None):
    return PathRequest(
        destination=DESTINATION,
        hops=hops,
        source=NodeId(b"S" * 20),
        onion_suite=1,
        esp_suite=3,
        via=tuple(d.node_id for d in via),
        avoid=frozenset(d.node_id for d in avoid or []),
    )


def test_our_own_strategies_are_registered():
    assert {"uniform", "explicit"} <= set(NAMES)


@pytest.mark.parametrize("hops", range(1, 6))
def test_named_path_is_taken_as_it_is(selector, hops):
    via = [*RELAYS[: hops - 1], EXITS[0]]
    path = selector.select(asking(hops, via), TABLE, Random(1))
    assert path == MixPath(tuple(via))


@pytest.mark.parametrize("hops", range(1, 6))
@pytest.mark.parametrize("named", range(3))
def test_path_has_the_hops_asked_for_or_there_is_none(selector, hops, named):
    asked = asking(hops, RELAYS[: min(named, hops - 1)])
    for seed in range(20):
        try:
            path = selector.select(asked, TABLE, Random(seed))
        except NoSuitablePath as error:
            assert error.known == len(ALL)  # noqa: PT017 - some strategies draw, others do not
            continue
        assert len(path) == len({d.node_id for d in path.hops}) == hops
        assert tuple(d.node_id for d in path.hops[: len(asked.via)]) == asked.via
        assert path.exit in EXITS
        assert all(hop in RELAYS + EXITS + [REFUSING_EXIT] for hop in path.hops)


def test_same_request_and_seed_give_the_same_path(selector):
    asked = asking(2, [RELAYS[0], EXITS[0]])
    one, other = (selector.select(asked, TABLE, Random(4)) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    "via",
    [
        [EXITS[0], RELAYS[0]],  # ends at a relay
        [RELAYS[0], REFUSING_EXIT],
        [RELAYS[0], STRANGERS[0]],  # another onion suite
        [STRANGERS[1], EXITS[0]],  # another ESP suite
        [mix(99), EXITS[0]],  # unknown
        [EXITS[0], EXITS[0]],
    ],
)
def test_named_hop_that_cannot_serve_is_refused_in_a_sentence(selector, via):
    with pytest.raises(NoSuitablePath, match=r"^[^.]+hop [12] [^.]+\.$"):
        selector.select(asking(2, via), TABLE, Random(1))


def test_avoided_node_and_source_are_never_hops(selector):
    for avoid in ([RELAYS[0]], [EXITS[0]]):
        with pytest.raises(NoSuitablePath, match="avoided"):
            selector.select(asking(2, [RELAYS[0], EXITS[0]], avoid), TABLE, Random(1))


def test_empty_table_has_no_path(selector):
    with pytest.raises(NoSuitablePath) as caught:
        selector.select(asking(3, []), TopologySnapshot(()), Random(1))
    assert caught.value.known == 0


def test_error_does_not_tell_the_destination(selector):
    with pytest.raises(NoSuitablePath) as caught:
        selector.select(asking(1, [REFUSING_EXIT]), TABLE, Random(1))
    assert str(DESTINATION) not in str(caught.value)


@pytest.mark.parametrize("hops", [-1, 0, 6])
def test_impossible_number_of_hops_is_misuse(selector, hops):
    with pytest.raises(ValueError, match="1 to 5 hops"):
        selector.select(asking(hops, []), TABLE, Random(1))
