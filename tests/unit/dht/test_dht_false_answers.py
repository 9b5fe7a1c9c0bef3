"""Whole overlays in memory with hostile nodes: false answers, records and requests."""

from random import Random

import pytest
from dht_network import (
    QUICK,
    Network,
    grown,
    make_descriptor,
    make_identity,
    public_endpoint,
)

from overlay.addresses import Endpoint
from overlay.dht.core import Dht
from overlay.dht.envelope import Envelopes, UnverifiedRequest, network_tag, parse_datagram
from overlay.dht.events import (
    CrawlFinished,
    DhtCount,
    NodeLeft,
)
from overlay.dht.inspection import DhtInspection
from overlay.dht.messages import (
    Contact,
    Contacts,
    FindNode,
    FindRecord,
    Leave,
    MessageKind,
    Ping,
    Pong,
    Record,
    Store,
    Stored,
)
from overlay.dht.settings import DhtSettings
from overlay.work_budget import Work, WorkBudget


class Liar:
    """A node that answers with valid signatures and the bodies that ``lie`` makes up."""

    def __init__(self, network, number, lie):
        self.identity = make_identity(number)
        self.endpoint = public_endpoint(number)
        self.envelopes = Envelopes(self.identity, "test-net")
        self.lie = lie
        self.asked = 0
        network.outsider(self.endpoint, self.handle)

    def handle(self, data, source):
        self.asked += 1
        message = parse_datagram(data, network_tag("test-net"))
        if not isinstance(message, UnverifiedRequest):
            return []
        reply = Pong() if isinstance(message.request, Ping) else self.lie(message.request)
        return [self.envelopes.reply(reply, message)] if reply is not None else []


def invented(rng, endpoint):
    return Contact.of(rng.randbytes(32), endpoint)


def closer_and_closer(rng):
    """Invented ids, each nearer to whatever is asked for than any before."""

    def lie(request):
        target = getattr(request, "target", None) or getattr(request, "key", bytes(20))
        candidates = [invented(rng, public_endpoint(rng.randrange(60_000))) for _ in range(60)]
        candidates.sort(key=lambda c: int.from_bytes(c.node_id) ^ int.from_bytes(target))
        return Contacts(tuple(candidates[:20]))

    return lie


def forbidden_neighbours(rng):
    hosts = ["127.0.0.1", "10.0.0.1", "224.0.0.1", "255.255.255.255", "fe80::1", "fd6d:6978::1"]
    return lambda request: Contacts(tuple(invented(rng, Endpoint(host, 9)) for host in hosts))


class RawContacts:
    """A CONTACTS body with false contents."""

    kind = MessageKind.CONTACTS

    def __init__(self, entries):
        self.entries = entries

    def body(self):
        return [self.entries]


def crooked_neighbours(rng):
    zero_port = bytes([80, 1, 2, 3, 0, 0]) + rng.randbytes(32)
    junk = [zero_port, b"", b"x" * 38, 5, None, ["a"], "host:9", True, rng.randbytes(39)]
    return lambda request: RawContacts(junk)


def someone_elses_record(rng):
    other = make_identity(900)
    record = make_descriptor(other, public_endpoint(900)).encoded
    return lambda request: Record(record)


LIES = [
    closer_and_closer,
    forbidden_neighbours,
    crooked_neighbours,
    someone_elses_record,
    lambda rng: lambda request: Record(rng.randbytes(900)),
    lambda rng: lambda request: RawContacts([b"\0" * 38] * 26),
    lambda rng: lambda request: RawContacts([]),
    lambda rng: lambda request: Stored(True),
    lambda rng: lambda request: None,
]


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES)
def test_lying_neighbour_neither_crashes_nor_loops_nor_poisons(lie):
    network, members = grown(4, settings=QUICK, run=2)
    liar = Liar(network, 500, lie(Random(7)))
    victim = network.add(100)
    network.do(victim, lambda dht: dht.bootstrap([liar.endpoint, members[0].endpoint], network.now))
    network.sent_from.clear()
    network.run(30)
    honest = {m.node_id for m in members}
    assert liar.asked
    assert set(victim.descriptors()) == honest
    assert network.sent_from[victim.endpoint] < 1000


def test_private_addresses_in_false_answers_are_never_contacted():
    network, _members = grown(3, settings=QUICK, run=2)
    network.record_traffic = True
    liar = Liar(network, 500, forbidden_neighbours(Random(1)))
    victim = network.add(100)
    network.do(victim, lambda dht: dht.bootstrap([liar.endpoint], network.now))
    network.run(10)
    destinations = {destination for _, _, source, destination in network.traffic}
    assert destinations
    assert all(destination.host.startswith("80.") for destination in destinations)
    assert victim.dht.counters()[DhtCount.REFUSED_CONTACT] >= 6


class Stranger:
    """A sender outside of the overlay that uses its protocol, one request at a time."""

    def __init__(self, network, number):
        self.network = network
        self.identity = make_identity(number)
        self.endpoint = public_endpoint(number)
        self.envelopes = Envelopes(self.identity, "test-net")
        self.heard = []
        network.outsider(self.endpoint, lambda data, source: self.heard.append(data) or [])

    def ask(self, member, request):
        """Send with a cookie and return the verified reply, or None."""
        cookie = b""
        for _ in range(2):
            self.heard.clear()
            datagram = self.envelopes.request(
                request,
                request_id=self.network.rng.randbytes(12),
                responder=member.node_id,
                sent_to=member.endpoint,
                cookie=cookie,
            )
            self.network.carry(datagram, self.endpoint, member.endpoint)
            self.network.run(0.2)
            replies = [parse_datagram(data, self.envelopes.tag) for data in self.heard]
            answers = [reply for reply in replies if not isinstance(reply, UnverifiedRequest)]
            if not answers:
                return None
            if hasattr(answers[0], "verify"):
                return answers[0].verify("test-net", datagram)
            cookie = answers[0].cookie
        raise AssertionError("challenged twice")


def record_cases():
    identity = make_identity(700)
    endpoint = public_endpoint(700)
    good = make_descriptor(identity, endpoint, sequence=5)
    foreign = make_descriptor(make_identity(701), public_endpoint(701))
    flipped = bytearray(good.encoded)
    flipped[-1] ^= 1
    changed = bytearray(good.encoded)
    changed[60] ^= 1
    return {
        "truncated": good.encoded[:-1],
        "extended": good.encoded + b"\0",
        "signature": bytes(flipped),
        "body": bytes(changed),
        "wrong key": foreign.encoded,
        "older": make_descriptor(identity, endpoint, sequence=4).encoded,
        "same sequence": make_descriptor(identity, endpoint, sequence=5, bandwidth_kbit=7).encoded,
        "expired": make_descriptor(
            identity, endpoint, now=1_699_990_000, lifetime=5_000, sequence=9
        ).encoded,
        "future": make_descriptor(identity, endpoint, now=1_700_090_000, sequence=9).encoded,
        "other network": make_descriptor(
            identity, endpoint, network_id="other", sequence=9
        ).encoded,
        "largest": b"\x91" * 1000,
    }


def test_unacceptable_records_are_never_stored_nor_returned():
    network = Network(settings=QUICK)
    member = network.add(0)
    stranger = Stranger(network, 700)
    good = make_descriptor(stranger.identity, stranger.endpoint, sequence=5)
    assert stranger.ask(member, Store(good.encoded)) == Stored(True)
    for name, record in record_cases().items():
        assert stranger.ask(member, Store(record)) == Stored(False), name
        assert stranger.ask(member, FindRecord(good.node_id)) == Record(good.encoded), name
    assert member.dht.counters()[DhtCount.REFUSED_RECORD] == len(record_cases())
    assert DhtInspection(member.dht).record_count == 1


def test_a_node_may_not_store_the_descriptor_of_another():
    network = Network(settings=QUICK)
    member = network.add(0)
    thief = Stranger(network, 701)
    record = make_descriptor(make_identity(700), public_endpoint(700)).encoded
    assert thief.ask(member, Store(record)) == Stored(False)
    assert DhtInspection(member.dht).record_count == 0


def test_node_serves_its_own_descriptor():
    network = Network(settings=QUICK)
    member = network.add(0)
    reply = Stranger(network, 700).ask(member, FindRecord(member.node_id))
    assert reply == Record(make_descriptor(member.identity, member.endpoint).encoded)


def test_leave_with_an_older_sequence_number_has_no_effect():
    network = Network(settings=QUICK)
    member = network.add(0)
    stranger = Stranger(network, 700)
    record = make_descriptor(stranger.identity, stranger.endpoint, sequence=5).encoded
    assert stranger.ask(member, Store(record)) == Stored(True)
    stranger.ask(member, Leave(4))
    assert not member.of(NodeLeft)
    assert DhtInspection(member.dht).record_count == 1
    stranger.ask(member, Leave(5))
    stranger.ask(member, Leave(5))
    assert member.of(NodeLeft) == [NodeLeft(stranger.identity.node_id)]
    assert DhtInspection(member.dht).record_count == 0
    assert stranger.ask(member, Store(record)) == Stored(False)


def test_crawl_does_not_bring_back_a_node_that_left():
    network, (first, second) = grown(2, settings=QUICK, run=2)
    leaver = Stranger(network, 700)
    record = make_descriptor(leaver.identity, leaver.endpoint, sequence=5).encoded
    assert leaver.ask(first, Store(record)) == Stored(True)
    assert leaver.ask(second, Store(record)) == Stored(True)
    leaver.ask(first, Leave(5))  # the second one does not hear it
    first.events.clear()
    network.do(first, lambda dht: dht.crawl(network.now))
    network.run(4)
    assert first.of(CrawlFinished)[0].descriptors == 2
    assert set(first.descriptors()) == {second.node_id}


@pytest.mark.slow
def test_contacts_come_closest_first_and_never_include_the_asker():
    network, members = grown(12, settings=QUICK, run=3)
    stranger = Stranger(network, 700)
    target = members[5].node_id
    reply = stranger.ask(members[0], FindNode(target))
    distances = [int.from_bytes(c.node_id) ^ int.from_bytes(target) for c in reply.contacts]
    assert distances == sorted(distances)
    assert len(distances) == QUICK.k
    own = stranger.identity.node_id
    assert own not in {c.node_id for c in stranger.ask(members[0], FindNode(own)).contacts}
    assert own in {
        c.node_id for c in Stranger(network, 701).ask(members[0], FindNode(own)).contacts
    }


def test_a_node_verifies_no_more_than_its_budget_permits():
    network = Network()
    member = network.add(0)
    budget = WorkBudget(20 * Work.SIGNATURE.value)
    member.dht = Dht(
        member.identity, network_id="test-net", settings=DhtSettings(), rng=Random(1), budget=budget
    )
    strangers = [Stranger(network, number) for number in range(700, 712)]
    cookies = [ask_for_cookie(stranger, member) for stranger in strangers]
    network.run_until(float(int(network.now) + 1))
    flood(strangers[0], member, cookies[0], 30)
    assert member.dht.counters()[DhtCount.RATE_LIMITED] >= 30 - 20 // 8
    flood(strangers[1], member, cookies[1], 1)
    assert len(strangers[1].heard) == 1, "another address has time left"


def ask_for_cookie(stranger, member):
    send(stranger, member, b"")
    stranger.network.run(0.2)
    [challenge] = [parse_datagram(data, stranger.envelopes.tag) for data in stranger.heard]
    stranger.heard.clear()
    return challenge.cookie


def send(stranger, member, cookie):
    datagram = stranger.envelopes.request(
        Ping(),
        request_id=stranger.network.rng.randbytes(12),
        responder=member.node_id,
        sent_to=member.endpoint,
        cookie=cookie,
    )
    stranger.network.carry(datagram, stranger.endpoint, member.endpoint)


def flood(stranger, member, cookie, times):
    for _ in range(times):
        send(stranger, member, cookie)
    stranger.network.run(0.3)


def test_one_subnet_cannot_make_a_node_verify_without_end():
    settings = DhtSettings(requests_per_s=1.0, request_burst=5)
    network = Network(settings=settings)
    member = network.add(0)
    stranger = Stranger(network, 700)
    replies = [stranger.ask(member, Ping()) for _ in range(12)]
    assert replies.count(Pong()) < 12
    assert member.dht.counters()[DhtCount.RATE_LIMITED] == replies.count(None)
    network.run(5)
    assert stranger.ask(member, Ping()) == Pong()
