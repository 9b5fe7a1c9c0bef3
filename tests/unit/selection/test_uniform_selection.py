from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random

import pytest

from overlay.addresses import Endpoint, NodeId
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role
from overlay.dht.topology_table import TopologySnapshot
from overlay.errors import NoSuitablePath
from overlay.exit_policy import ExitPolicy, parse_exit_rule
from overlay.selection.explicit import ExplicitSelector
from overlay.selection.selector import PathRequest
from overlay.selection.uniform import UniformSelector, UniformSettings, network_prefixes

DESTINATION = "203.0.114.80"
SOURCE = NodeId(b"S" * 20)


def mix(
    n: int,
    host: str | None = None,
    *,
    relay: bool = True,
    exit_rule: str | None = None,
    onion_suite: int = 1,
    esp_suite: int = 3,
) -> MixDescriptor:
    return MixDescriptor(
        network_id="test",
        identity_key=bytes([n]) * 32,
        onion_keys=(OnionKey(onion_suite, b"k" * 32),),
        link_key=b"l" * 32,
        esp_suites=(esp_suite,),
        endpoints=(Endpoint(host or f"198.{n}.0.1", 4500),),
        roles=frozenset(({Role.RELAY} if relay else set()) | ({Role.EXIT} if exit_rule else set())),
        exit_policy=ExitPolicy(parse_exit_rule(exit_rule)) if exit_rule else None,
        bandwidth_kbit=1,
        sequence=1,
        valid_from=0,
        expires=1,
        encoded=b"",
    )


def table(*descriptors: MixDescriptor) -> TopologySnapshot:
    return TopologySnapshot((d.node_id, d) for d in descriptors)


def request(hops: int, *via: MixDescriptor, **changes: object) -> PathRequest:
    values: dict[str, object] = {
        "destination": ip_address(DESTINATION),
        "hops": hops,
        "source": SOURCE,
        "onion_suite": 1,
        "esp_suite": 3,
        "via": tuple(d.node_id for d in via),
        "avoid": frozenset(),
    }
    return PathRequest(**{**values, **changes})  # type: ignore[arg-type]  # checked at run time


def refusal(selector, asked: PathRequest, view: TopologySnapshot) -> NoSuitablePath:
    with pytest.raises(NoSuitablePath) as caught:
        selector.select(asked, view, Random(1))
    assert DESTINATION not in str(caught.value)
    assert str(asked.destination) not in str(caught.value)
    return caught.value


RELAYS = [mix(n) for n in (1, 2, 3)]
EXIT = mix(9, exit_rule="accept *:443")
WORLD = table(*RELAYS, EXIT)
UNIFORM = UniformSelector()
EXPLICIT = ExplicitSelector()


# -- uniform ---------------------------------------------------------------------------


def test_last_hop_is_an_exit_and_the_others_are_different_relays():
    path = UNIFORM.select(request(3), WORLD, Random(1))
    assert path.exit == EXIT
    assert len({*path.hops}) == len(path) == 3
    assert {*path.hops[:2]} <= {*RELAYS}


def test_named_hops_come_first_and_the_rest_is_drawn():
    for seed in range(20):
        path = UNIFORM.select(request(3, RELAYS[1]), WORLD, Random(seed))
        assert path.hops[0] == RELAYS[1]
        assert path.hops[1] in {RELAYS[0], RELAYS[2]}


def test_as_many_names_as_hops_are_the_whole_path():
    path = UNIFORM.select(request(2, RELAYS[2], EXIT), WORLD, Random(1))
    assert path.hops == (RELAYS[2], EXIT)


def test_drawn_hops_keep_out_of_each_others_prefixes_and_of_the_named_ones():
    neighbour = mix(4, "198.9.77.1")  # in the exit's /16
    view = table(RELAYS[0], neighbour, EXIT)
    assert UNIFORM.select(request(2), view, Random(1)).hops == (RELAYS[0], EXIT)
    error = refusal(UNIFORM, request(2, neighbour), view)
    assert "1 shares a network prefix with a named hop, 1 is no exit; no exit" in str(error)


@pytest.mark.parametrize(
    ("network", "may_be_hop"),
    [(None, True), ("203.0.113.7/32", False), ("203.0.0.0/16", False), ("203.0.0.0/15", True)],
)
def test_no_relay_is_a_part_of_the_destination(network, may_be_hop):
    inside = mix(4, "203.0.113.7")
    view = table(RELAYS[0], inside, EXIT)
    whole = None if network is None else ip_network(network)
    asked = request(2, network=whole)
    hops = {UNIFORM.select(asked, view, Random(seed)).hops[0] for seed in range(50)}
    assert (inside in hops) is may_be_hop
    assert RELAYS[0] in hops
    itself = replace(asked, destination=ip_address("203.0.113.7"), via=(inside.node_id,))
    assert "hop 1 is a part of the destination" in str(refusal(UNIFORM, itself, view))


def test_named_hops_may_share_a_prefix():
    near = mix(4, "198.9.77.1")
    view = table(near, EXIT)
    for selector in (UNIFORM, EXPLICIT):
        assert selector.select(request(2, near, EXIT), view, Random(1)).hops == (near, EXIT)


def test_laboratory_turns_the_prefix_constraint_off():
    nodes = [mix(n, f"127.0.0.{n}", exit_rule="accept *:*") for n in (1, 2, 3)]
    laboratory = UniformSelector(UniformSettings(distinct_prefixes=False))
    assert len(laboratory.select(request(3), table(*nodes), Random(1))) == 3
    error = refusal(UNIFORM, request(3), table(*nodes))
    assert "distinct_prefixes = false under [selection.uniform]" in str(error)


def test_prefixes_of_every_endpoint_count():
    both = mix(1)
    object.__setattr__(both, "endpoints", (Endpoint("198.51.101.7", 1), Endpoint("2a00:db8::7", 1)))
    assert network_prefixes(both) == {b"\xc6\x33", b"\x2a\x00\x0d\xb8"}


def test_report_counts_each_constraint_in_order():
    view = table(
        mix(1),
        mix(2, onion_suite=2),
        mix(3, esp_suite=4),
        mix(4),
        mix(5),
        mix(6, relay=False, exit_rule="accept 198.51.101.0/24:*"),
        mix(7, relay=False, exit_rule="reject *:*"),
    )
    asked = request(3, source=mix(1).node_id, avoid=frozenset({mix(4).node_id}))
    error = refusal(UNIFORM, asked, view)
    assert str(error) == (
        "no path of 3 hops to the destination among 7 known Mix-nodes: 1 is this node itself, "
        "1 is avoided because it failed recently, 1 does not support onion suite 1, "
        "1 does not support ESP suite 3, 1 is no exit, "
        "1 is an exit without IPv4, 1 is an exit whose policy refuses the destination; "
        "no exit remains."
    )
    assert error.known == 7
    assert error.removed == (
        ("are this node itself", 1),
        ("are avoided because they failed recently", 1),
        ("do not support onion suite 1", 1),
        ("do not support ESP suite 3", 1),
        ("are named for other hops", 0),
        ("share a network prefix with a named hop", 0),
        ("are no exits", 1),
        ("are exits without IPv4", 1),
        ("are exits whose policy refuses the destination", 1),
        ("are exits that are the destination themselves", 0),
    )


def test_report_tells_of_missing_relays():
    error = refusal(
        UNIFORM, request(3), table(RELAYS[0], mix(8, relay=False, exit_rule="accept *:*"))
    )
    assert str(error) == (
        "no path of 3 hops to the destination among 2 known Mix-nodes: 1 is no relay; "
        "1 relay for 2 hops remains."
    )


def test_report_of_an_empty_table_is_a_sentence():
    assert str(refusal(UNIFORM, request(1), table())) == (
        "no path of 1 hop to the destination among 0 known Mix-nodes: no exit remains."
    )


def test_only_exit_cannot_be_its_own_relay():
    error = refusal(UNIFORM, request(2), table(EXIT))
    assert "the 1 exit and 1 relay that remain give no combination" in str(error)


@pytest.mark.parametrize(
    ("destination", "kind"),
    [("10.1.2.3", "private"), ("127.0.0.1", "loopback"), ("ff02::1", "multicast")],
)
def test_forbidden_destination_is_explained(destination, kind):
    asked = request(3, destination=ip_address(destination))
    error = refusal(UNIFORM, asked, WORLD)
    assert str(error).endswith(
        f"The destination is in a special range ({kind}), which exits refuse "
        "unless their operator permits it by name."
    )
    assert "1 is an exit whose policy refuses the destination" in str(error)
    named = request(2, RELAYS[0], EXIT, destination=ip_address(destination))
    assert kind in str(refusal(EXPLICIT, named, WORLD))


def test_more_names_than_hops_are_refused():
    error = refusal(UNIFORM, request(1, RELAYS[0], EXIT), WORLD)
    assert str(error) == (
        "the request names 2 Mix-nodes for a path of 1 hop; name fewer or ask for more hops."
    )


# -- named hops, whatever the strategy ---------------------------------------------------


@pytest.mark.parametrize("selector", [UNIFORM, EXPLICIT])
def test_each_bad_name_is_answered_by_its_position(selector):
    no_relay = mix(5, relay=False, exit_rule="accept *:*")
    other = mix(6, onion_suite=2)
    view = table(*RELAYS, no_relay, other)
    asked = request(5, mix(77), no_relay, other, RELAYS[0], RELAYS[1])
    error = refusal(selector, asked, view)
    assert str(error) == (
        "the named Mix-nodes cannot form a path of 5 hops: "
        "hop 1 is not known, or its descriptor has expired, hop 2 is no relay, "
        "hop 3 does not support onion suite 1, hop 5 is no exit."
    )
    assert error.known == 5
    assert ("is no relay", 1) in error.removed


@pytest.mark.parametrize("selector", [UNIFORM, EXPLICIT])
def test_name_may_not_come_twice_nor_be_the_source_nor_avoided(selector):
    view = table(*RELAYS, EXIT, mix(7))
    asked = request(
        5,
        RELAYS[0],
        RELAYS[1],
        RELAYS[0],
        mix(7),
        EXIT,
        avoid=frozenset({RELAYS[1].node_id}),
        source=mix(7).node_id,
    )
    assert str(refusal(selector, asked, view)) == (
        "the named Mix-nodes cannot form a path of 5 hops: "
        "hop 2 is avoided because it failed recently, hop 3 is already named for hop 1, "
        "hop 4 is this node itself."
    )


# -- explicit ----------------------------------------------------------------------------


def test_explicit_path_is_the_names_in_order():
    asked = request(4, RELAYS[2], RELAYS[0], RELAYS[1], EXIT)
    path = EXPLICIT.select(asked, WORLD, Random(1))
    assert path.hops == (RELAYS[2], RELAYS[0], RELAYS[1], EXIT)


@pytest.mark.parametrize(("hops", "via"), [(3, (RELAYS[0], EXIT)), (1, (RELAYS[0], EXIT)), (2, ())])
def test_explicit_path_is_never_shorter_or_longer_than_asked(hops, via):
    error = refusal(EXPLICIT, request(hops, *via), WORLD)
    assert f"(hops asked for: {hops}, named: {len(via)})" in str(error)


def test_an_exit_is_no_way_to_itself() -> None:
    own = ip_address(EXIT.endpoints[0].host)
    view = table(EXIT, mix(10, exit_rule="accept *:443"))
    found = UniformSelector().select(request(1, destination=own), view, Random(1))
    assert found.hops[0].node_id == mix(10).node_id
    error = refusal(UniformSelector(), request(1, destination=own), table(EXIT))
    assert "1 is an exit that is the destination itself" in str(error)
