"""What a node publishes, by what tests of its endpoints have shown."""

import logging
from itertools import count
from pathlib import Path
from random import Random

import pytest

from overlay.addresses import Endpoint
from overlay.config import parse_configuration as parse_file
from overlay.dht.core import Dht
from overlay.dht.descriptor import Role, UnverifiedDescriptor
from overlay.dht.events import Joined, ReachChanged, Standing
from overlay.dht.help_messages import MAX_PROOF_BYTES
from overlay.dht.settings import DhtSettings
from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity
from overlay.node.own_descriptor import proof_descriptor
from overlay.node.publication import Publication
from overlay.node.reach_role import ReachRole

NOW = 1_700_000_000.0
FOUR, SIX = Endpoint("198.51.101.7", 4500), Endpoint("2a00:db8::7", 4500)
BOTH = (FOUR, SIX)
IDENTITY = LocalIdentity.generate(Random(1))


def parse_configuration(text):
    return parse_file(text, Path("/nowhere/overlay.toml"))


DEFAULT = parse_configuration("")


class Recorded(Dht):
    """Keeps what is published; the standings are what a test says."""

    def __init__(self):
        super().__init__(IDENTITY, network_id="overlay", settings=DhtSettings(), rng=Random(1))
        self.published = []
        self.shown = {}
        self.reachability.tests.standings = lambda: self.shown

    def publish(self, descriptor, now):
        super().publish(descriptor, now)
        self.published.append(descriptor)


def publication(dht, configuration=DEFAULT, endpoints=BOTH):
    drawn = count(1)
    return Publication(
        configuration,
        IDENTITY,
        dht,
        suites=frozenset((3,)),
        published=lambda: endpoints,
        exit_role=None,
        next_sequence=lambda now: next(drawn),
    )


@pytest.mark.parametrize(
    ("shown", "endpoints", "roles"),
    [
        ({}, BOTH, {Role.RELAY}),
        ({FOUR: Standing.REACHABLE, SIX: Standing.UNTESTED}, BOTH, {Role.RELAY}),
        ({SIX: Standing.UNREACHABLE}, (FOUR,), {Role.RELAY}),
        ({FOUR: Standing.UNREACHABLE, SIX: Standing.UNREACHABLE}, BOTH, set()),
    ],
)
def test_only_what_may_be_reached_is_signed(shown, endpoints, roles):
    dht = Recorded()
    here = publication(dht)
    dht.shown = shown
    here.publish(NOW)
    [signed] = dht.published
    assert (signed.endpoints, signed.roles) == (endpoints, roles)
    assert here.roles == roles


def test_each_result_is_published_and_logged_without_an_address(caplog):
    dht = Recorded()
    here = publication(dht, endpoints=(FOUR,))
    here.publish(NOW)
    with caplog.at_level(logging.INFO):
        for standing in (Standing.UNREACHABLE, Standing.REACHABLE):
            dht.shown = {FOUR: standing}
            here.observe(ReachChanged(FOUR, standing), NOW)
        here.observe(Joined(1), NOW)  # no result of a test: nothing is published
    assert [each.roles for each in dht.published] == [{Role.RELAY}, set(), {Role.RELAY}]
    assert [each.sequence for each in dht.published] == sorted(
        {each.sequence for each in dht.published}
    )
    assert [record.getMessage() for record in caplog.records] == [
        "reachability.not_reached version=4 offers_roles=False",
        "reachability.reached version=4",
    ]


@pytest.mark.parametrize(
    ("configuration", "endpoints"),
    [("[network]\nreachability_test_s = 0", BOTH), ("[roles]\nrelay = false", BOTH), ("", ())],
    ids=["off", "client", "no endpoint"],
)
def test_a_node_without_roles_or_endpoints_is_not_tested(configuration, endpoints):
    dht = Dht(IDENTITY, network_id="overlay", settings=DhtSettings(), rng=Random(1))
    publication(dht, parse_configuration(configuration), endpoints).test(NOW)
    assert dht.reachability.tests.standings() == {}
    publication(dht).test(NOW)
    assert dht.reachability.tests.standings() == dict.fromkeys(BOTH, Standing.UNTESTED)


def test_the_problem_says_which_port_to_forward_or_to_be_a_client():
    role = ReachRole(lambda: {SIX: Standing.UNREACHABLE})
    assert role.problems((FOUR,)) == ()
    [partly] = role.problems(BOTH)
    assert "at [2a00:db8::7]:4500, so it is not published there" in partly
    [wholly] = role.problems((SIX,))
    assert "so it offers no role to others and works as a client" in wholly
    for problem in (partly, wholly):
        assert "permit UDP port 4500 (IPv6) to this node in the router" in problem
        assert "[roles] relay = false" in problem
    assert role.report(BOTH) == {str(FOUR): "untested", str(SIX): "not reachable"}


def test_the_proof_of_an_endpoint_replaces_no_descriptor():
    encoded = proof_descriptor(DEFAULT, IDENTITY, BOTH, frozenset((3,)), NOW)
    proof = UnverifiedDescriptor.parse(encoded).verify(network_id="overlay", now=NOW + 600)
    assert (proof.endpoints, proof.roles, proof.sequence) == (BOTH, frozenset(), 0)
    assert proof.expires - NOW <= 12 * 60
    suites = frozenset(range(1, 17))
    longest_name = parse_configuration(f'[network]\nnetwork_id = "{"n" * 32}"')
    four = tuple(Endpoint(f"2a00:db8::{n}", 65_535) for n in range(1, 5))
    longest = proof_descriptor(longest_name, IDENTITY, four, suites, NOW)
    assert len(longest) <= MAX_PROOF_BYTES


@pytest.mark.parametrize("value", ["4", "-1", "86401", '"off"'])
def test_an_interval_out_of_its_range_is_refused(value):
    with pytest.raises(ConfigurationError, match="reachability_test_s"):
        parse_configuration(f"[network]\nreachability_test_s = {value}")
