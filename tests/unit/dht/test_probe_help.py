"""A node's help with reachability tests cannot be used against other hosts."""

from collections import Counter

import pytest
from dht_network import NETWORK_ID, START, Network, grown, make_descriptor, public_endpoint

from overlay.addresses import Endpoint
from overlay.dht.envelope import network_tag, parse_datagram
from overlay.dht.events import ProbeWanted, ReachChanged, Standing
from overlay.dht.help_messages import ProbeProgress, ProbeState, SendProbe, WantProbe
from overlay.dht.settings import DhtSettings
from sims.world.engine.conditions import drop

SETTINGS = DhtSettings(crawl_interval_s=3600, crawl_first_interval_s=3600)
NONCE = b"n" * 12


@pytest.fixture
def overlay():
    return grown(12, settings=SETTINGS, run=20)


def proof(member, endpoint=None, now=START):
    record = make_descriptor(
        member.identity, endpoint or member.endpoint, now=now, sequence=0, roles=()
    )
    return record.encoded


def ask(network, member, peer, request):
    """Send a request as ``member`` would; return the state that ``peer`` answers."""
    said = []
    member.dht.parts.calls.start(
        request, peer.endpoint, peer.node_id, network.now, lambda a, _: said.append(a and a.reply)
    )
    network.flush(member)
    network.run(2)
    return said[0].progress if isinstance(said[0], ProbeState) else said[0]


def probes(members):
    return [event for member in members for event in member.of(ProbeWanted)]


def test_the_asked_node_has_a_third_one_in_another_prefix_send_the_probe(overlay):
    network, members = overlay
    asker, asked, *others = members
    want = WantProbe(proof(asker), asker.endpoint.port, NONCE)
    assert ask(network, asker, asked, want) is ProbeProgress.PENDING
    assert ask(network, asker, asked, want) is ProbeProgress.SENT
    assert probes([asker, asked]) == []
    [probe] = probes(others)
    assert probe.endpoint == asker.endpoint
    message = parse_datagram(probe.datagram, network_tag(NETWORK_ID))
    assert (message.request_id, message.responder) == (NONCE, asker.node_id)


def test_only_the_address_that_asks_is_probed_and_only_if_it_is_signed(overlay):
    network, members = overlay
    asker, asked, victim, *_ = members
    elsewhere = proof(asker, Endpoint("90.0.0.1", 4500))
    for request in (
        WantProbe(elsewhere, 4500, NONCE),
        WantProbe(proof(asker), asker.endpoint.port + 1, NONCE),
        WantProbe(proof(victim), victim.endpoint.port, NONCE),
        WantProbe(proof(asker)[:-1] + b"x", asker.endpoint.port, NONCE),
        WantProbe(proof(asker, now=START - 50_000), asker.endpoint.port, NONCE),
    ):
        assert ask(network, asker, asked, request) is ProbeProgress.REFUSED
    assert probes(members) == []


def test_a_third_node_sends_only_where_another_node_has_signed_that_it_is(overlay):
    network, members = overlay
    asker, third, owner, *_ = members
    for record, endpoint in (
        (proof(asker), asker.endpoint),
        (proof(third), third.endpoint),
        (proof(owner), asker.endpoint),
        (proof(owner, Endpoint("10.0.0.1", 53)), Endpoint("10.0.0.1", 53)),
        (proof(owner, Endpoint("2a00::1", 53))[:-1] + b"x", Endpoint("2a00::1", 53)),
    ):
        request = SendProbe(record, endpoint, NONCE)
        assert ask(network, asker, third, request) is ProbeProgress.REFUSED
    assert probes(members) == []


def test_a_probe_is_fewer_bytes_than_its_request_and_comes_once(overlay):
    network, members = overlay
    asker, third, owner, *_ = members
    request = SendProbe(proof(owner), owner.endpoint, NONCE)
    network.record_traffic = True
    for _ in range(3):
        assert ask(network, asker, third, request) is ProbeProgress.SENT
    [probe] = probes([third])
    [largest] = [max(len(data) for _, data, source, to in network.traffic if to == third.endpoint)]
    assert 2 * len(probe.datagram) <= largest


def test_probes_are_bounded_for_each_target_each_asker_and_in_all(overlay):
    network, members = overlay
    third, owner, *askers = members
    sent = Counter()
    for number in range(200):
        asker = askers[number % len(askers)]
        nonce = number.to_bytes(12, "big")
        request = SendProbe(proof(owner, now=network.now), owner.endpoint, nonce)
        asker.dht.parts.calls.start(
            request, third.endpoint, third.node_id, network.now, lambda *_: None
        )
        network.flush(asker)
    network.run(2)
    sent = len(probes([third]))
    assert 0 < sent <= 12 + 3


def test_an_overlay_tests_itself_and_finds_the_node_that_no_port_leads_to():
    class Natted(Network):
        """The first member is behind a NAT that filters by address and port (RFC 4787)."""

        inside = public_endpoint(0)

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.opened, self.forwarded = set(), False
            self.impose(drop(self.filters))

        def filters(self, flight):
            if flight.source == self.inside:
                self.opened.add(flight.to)
            into = flight.to == self.inside
            return into and not (self.forwarded or flight.source in self.opened)

        def flush(self, member):
            before = len(member.events)
            super().flush(member)
            for event in member.events[before:]:
                if isinstance(event, ProbeWanted):
                    once = Endpoint(member.endpoint.host, 50_000 + len(self.traffic))
                    self.carry(event.datagram, once, event.endpoint)

    network = Natted(1, SETTINGS)
    members = [network.add(number) for number in range(10)]
    for member in members[1:]:
        network.bootstrap(members[0], member)
        network.bootstrap(member, members[1])
        network.run(0.1)
    network.run(10)
    for member in members:
        sign = lambda now, member=member: proof(member, now=now)  # noqa: E731
        member.dht.reachability.tests.follow(
            [member.endpoint], sign, interval_s=60, now=network.now
        )
        network.flush(member)
    network.run(60)
    natted, *others = members
    assert [e.standing for e in natted.of(ReachChanged)] == [Standing.UNREACHABLE]
    assert {e.standing for m in others for e in m.of(ReachChanged)} == {Standing.REACHABLE}
    network.forwarded = True
    network.run(150)
    assert natted.of(ReachChanged)[-1].standing is Standing.REACHABLE
