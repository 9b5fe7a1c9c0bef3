"""The core by hand: what it refuses, what it says, when it wakes."""

import itertools
import logging
from random import Random

import pytest
from dht_network import (
    NETWORK_ID,
    START,
    Network,
    grown,
    make_descriptor,
    make_identity,
    public_endpoint,
)

from overlay.addresses import Endpoint
from overlay.dht.core import Dht
from overlay.dht.envelope import (
    Challenge,
    Envelopes,
    UnverifiedRequest,
    network_tag,
    parse_datagram,
)
from overlay.dht.events import CrawlFinished, DhtCount, NodeLeft
from overlay.dht.inspection import DhtInspection
from overlay.dht.messages import FindNode, FindRecord, Leave, Ping, Pong, Store, Stored
from overlay.dht.settings import DhtSettings
from overlay.errors import ConfigurationError

TAG = network_tag(NETWORK_ID)
ALICE, BOB, MALLORY = make_identity(1), make_identity(2), make_identity(3)
ALICE_AT, BOB_AT, MALLORY_AT = (public_endpoint(n) for n in (1, 2, 3))


def make_dht(*, endpoints=None, publish=True, **settings):
    dht = Dht(
        ALICE,
        network_id=NETWORK_ID,
        settings=DhtSettings(**settings),
        rng=Random(1),
        endpoints=endpoints,
    )
    if publish:
        dht.publish(make_descriptor(ALICE, ALICE_AT), START)
    return dht


def ask(dht, request, *, source=BOB_AT, identity=BOB, now=START, **changes):
    """Send a request, echo the challenge, return what comes back last."""
    envelopes = Envelopes(identity, changes.pop("network_id", NETWORK_ID))
    fields = {"responder": ALICE.node_id, "sent_to": ALICE_AT, "cookie": b"", **changes}
    for number in range(2):
        data = envelopes.request(request, request_id=bytes([number]) * 12, **fields)
        dht.receive([(data, source)], now)
        sent = [parse_datagram(data, TAG) for data, _ in dht.datagrams_to_send(now)]
        answers = [message for message in sent if not isinstance(message, UnverifiedRequest)]
        if not answers:
            return None
        message = answers[0]
        if not isinstance(message, Challenge):
            return message.verify(NETWORK_ID, data)
        fields["cookie"] = message.cookie
    return message


def test_cookie_round_trip_gives_an_answer():
    assert ask(make_dht(), Ping()) == Pong()


def test_cookie_of_another_address_or_node_is_challenged_again():
    dht = make_dht()
    envelopes = Envelopes(BOB, NETWORK_ID)
    dht.receive([(envelopes.request(Ping(), request_id=b"1" * 12, responder=ALICE.node_id,
                                    sent_to=ALICE_AT, cookie=b""), BOB_AT)], START)  # fmt: skip
    cookie = parse_datagram(dht.datagrams_to_send(START)[0][0], TAG).cookie
    for identity, source in ((BOB, MALLORY_AT), (MALLORY, BOB_AT)):
        data = Envelopes(identity, NETWORK_ID).request(
            Ping(), request_id=b"2" * 12, responder=ALICE.node_id, sent_to=ALICE_AT, cookie=cookie
        )
        dht.receive([(data, source)], START)
        ((answer, _),) = dht.datagrams_to_send(START)
        assert isinstance(parse_datagram(answer, TAG), Challenge)
    assert dht.contact_count == 0


def test_cookie_expires():
    dht = make_dht()
    first = ask(dht, Ping())
    assert first == Pong()
    envelopes = Envelopes(BOB, NETWORK_ID)
    dht.receive([(envelopes.request(Ping(), request_id=b"1" * 12, responder=ALICE.node_id,
                                    sent_to=ALICE_AT, cookie=b""), BOB_AT)], START)  # fmt: skip
    cookie = parse_datagram(dht.datagrams_to_send(START)[-1][0], TAG).cookie
    data = envelopes.request(
        Ping(), request_id=b"2" * 12, responder=ALICE.node_id, sent_to=ALICE_AT, cookie=cookie
    )
    dht.receive([(data, BOB_AT)], START + 601)
    ((answer, _),) = dht.datagrams_to_send(START + 601)
    assert isinstance(parse_datagram(answer, TAG), Challenge)


@pytest.mark.parametrize(
    "changes",
    [
        {"responder": MALLORY.node_id},
        {"sent_to": MALLORY_AT},
        {"identity": ALICE},
    ],
)
def test_request_for_another_node_or_address_or_of_ourselves_gets_no_answer(changes):
    dht = make_dht()
    assert ask(dht, Ping(), **changes) is None
    assert dht.counters()[DhtCount.WRONG_RESPONDER] == 1
    assert dht.contact_count == 0


def test_responder_may_be_unknown_in_a_ping_alone():
    assert ask(make_dht(), Ping(), responder=None) == Pong()
    for request in (FindNode(bytes(20)), FindRecord(ALICE.node_id), Leave(0)):
        assert ask(make_dht(), request, responder=None) is None


def test_address_is_not_checked_where_the_owner_says_so():
    assert ask(make_dht(endpoints=()), Ping(), sent_to=MALLORY_AT) == Pong()
    assert ask(make_dht(endpoints=[MALLORY_AT]), Ping(), sent_to=MALLORY_AT) == Pong()
    assert ask(make_dht(endpoints=[MALLORY_AT]), Ping()) is None


def test_forged_signature_is_counted_and_unanswered():
    dht = make_dht()
    envelopes = Envelopes(BOB, NETWORK_ID)
    fields = {"request_id": b"1" * 12, "responder": ALICE.node_id, "sent_to": ALICE_AT}
    dht.receive([(envelopes.request(Ping(), cookie=b"", **fields), BOB_AT)], START)
    cookie = parse_datagram(dht.datagrams_to_send(START)[0][0], TAG).cookie
    data = bytearray(envelopes.request(Ping(), cookie=cookie, **fields))
    data[-1] ^= 1
    dht.receive([(bytes(data), BOB_AT)], START)
    assert dht.datagrams_to_send(START) == []
    assert dht.counters()[DhtCount.NOT_AUTHENTIC] == 1


def test_other_network_is_counted_and_unanswered():
    dht = make_dht()
    assert ask(dht, Ping(), network_id="other") is None
    assert dht.counters() == {DhtCount.OTHER_NETWORK: 1}


@pytest.mark.parametrize("host", ["10.0.0.1", "224.0.0.1", "fe80::1%eth0", "not an address"])
def test_refused_source_gets_no_answer(host):
    dht = make_dht()
    assert ask(dht, Ping(), source=Endpoint(host, 9)) is None
    assert set(dht.counters()) <= {DhtCount.REFUSED_ENDPOINT, DhtCount.MALFORMED}


def test_private_sources_are_welcome_where_configured():
    dht = make_dht(allow_private_endpoints=True)
    assert ask(dht, Ping(), source=Endpoint("10.0.0.1", 9)) == Pong()


@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.1", "0.0.0.0", "239.1.1.1"])
def test_bootstrap_endpoint_that_is_not_allowed_is_a_configuration_error(host):
    with pytest.raises(ConfigurationError, match="allow_private_endpoints"):
        make_dht().bootstrap([Endpoint(host, 4500)], START)


def test_only_the_own_and_the_latest_descriptor_is_published():
    dht = make_dht()
    dht.publish(make_descriptor(ALICE, ALICE_AT, sequence=3), START)
    for wrong in (
        make_descriptor(BOB, BOB_AT),
        make_descriptor(ALICE, ALICE_AT, network_id="other"),
        make_descriptor(ALICE, ALICE_AT, sequence=2),
    ):
        with pytest.raises(ValueError, match="published"):
            dht.publish(wrong, START)


def test_own_endpoint_among_the_bootstrap_peers_is_not_greeted():
    dht = make_dht()
    dht.bootstrap([ALICE_AT], START)
    assert dht.datagrams_to_send(START) == []
    assert dht.next_deadline() == float("inf")


def test_fresh_core_sleeps_for_ever():
    assert make_dht().next_deadline() == float("inf")


def test_deadline_handled_early_changes_nothing():
    dht = make_dht()
    dht.bootstrap([BOB_AT], START)
    assert len(dht.datagrams_to_send(START)) == 1
    deadline = dht.next_deadline()
    dht.handle_deadline(START + 0.01)
    assert dht.datagrams_to_send(START) == []
    assert dht.next_deadline() == deadline


def test_crawl_without_contacts_finishes_with_nothing():
    dht = make_dht()
    dht.crawl(START)
    assert dht.events() == [CrawlFinished(0, START)]
    assert dht.events() == []


def test_node_that_left_answers_no_request_and_cannot_be_used_again():
    dht = make_dht()
    assert ask(dht, Ping()) == Pong()
    dht.leave(START)
    dht.leave(START)
    assert ask(dht, Ping()) is None
    for again in (
        lambda: dht.bootstrap([BOB_AT], START),
        lambda: dht.seed([], START),
        lambda: dht.publish(make_descriptor(ALICE, ALICE_AT, sequence=2), START),
    ):
        with pytest.raises(ValueError, match="left"):
            again()
    dht.crawl(START)
    while dht.next_deadline() < float("inf"):
        now = dht.next_deadline()
        dht.handle_deadline(now)
        assert dht.next_deadline() > now
    assert dht.calls_in_flight == 0


def test_leave_of_the_only_contact_leaves_no_contact():
    dht = make_dht()
    ask(dht, Ping())
    dht.events()
    ask(dht, Leave(0))
    assert dht.events() == [NodeLeft(BOB.node_id)]
    assert dht.contact_count == 0


def far_identities(count):
    """Identities whose ids differ from Alice's in the first bit: one bucket, never split."""
    found = []
    for number in range(100, 200):
        identity = make_identity(number)
        if (identity.node_id[0] ^ ALICE.node_id[0]) & 0x80:
            found.append((identity, public_endpoint(number)))
    return found[:count]


def pings(dht, now):
    sent = [(parse_datagram(data, TAG), to) for data, to in dht.datagrams_to_send(now)]
    return [to for m, to in sent if isinstance(m, UnverifiedRequest) and m.request == Ping()]


def wait(dht, now, until):
    while dht.next_deadline() <= until:
        now = dht.next_deadline()
        dht.handle_deadline(now)
    dht.datagrams_to_send(until)


@pytest.mark.parametrize("request_", [FindNode(bytes(20)), Ping()])
def test_silent_contact_of_a_full_bucket_is_pinged_and_gives_way_but_not_for_a_ping(request_):
    settings = {"k": 1, "contact_max_failures": 10, "crawl_first_interval_s": 500.0}
    dht = make_dht(**settings)
    (old, old_at), (new, new_at), (other, other_at) = far_identities(3)
    assert ask(dht, Ping(), identity=old, source=old_at) == Pong()
    wait(dht, START, START + 100)
    assert dht.contact_count == 1
    pinged = []
    for identity, source in ((new, new_at), (new, new_at)):
        envelopes = Envelopes(identity, NETWORK_ID)
        fields = {"request_id": b"n" * 12, "responder": ALICE.node_id, "sent_to": ALICE_AT}
        dht.receive([(envelopes.request(request_, cookie=b"", **fields), source)], START + 100)
        cookie = parse_datagram(dht.datagrams_to_send(START + 100)[-1][0], TAG).cookie
        dht.receive([(envelopes.request(request_, cookie=cookie, **fields), source)], START + 100)
        pinged += pings(dht, START + 100)
    if request_ == Ping():  # or every ping would cause another, all over the overlay
        assert pinged == []
        return
    assert pinged == [old_at]  # once, though the newcomer asks twice
    wait(dht, START + 100, START + 110)
    reply = ask(dht, FindNode(new.node_id), identity=other, source=other_at, now=START + 110)
    assert [contact.node_id for contact in reply.contacts] == [new.node_id]


@pytest.mark.parametrize("neighbour_is_nearer", [False, True])
def test_full_store_makes_room_only_where_this_node_is_among_the_nearest(neighbour_is_nearer):
    def nearer_than_alice(one, target):
        place = int.from_bytes(target[0].node_id)
        gaps = [int.from_bytes(who.node_id) ^ place for who in (one[0], ALICE)]
        return gaps[0] < gaps[1]

    people = [(make_identity(n), public_endpoint(n)) for n in range(100, 160)]
    farthest = max(
        people, key=lambda p: int.from_bytes(p[0].node_id) ^ int.from_bytes(ALICE.node_id)
    )
    later, neighbour = next(
        (later, neighbour)
        for later, neighbour in itertools.permutations(people, 2)
        if farthest not in (later, neighbour)
        and not nearer_than_alice(farthest, later)
        and nearer_than_alice(neighbour, later) == neighbour_is_nearer
    )
    dht = make_dht(k=1, max_records=1, crawl_first_interval_s=500.0)
    for identity, at in (farthest, neighbour, later):
        ask(dht, Ping(), identity=identity, source=at)
    verdicts = []
    for identity, at in (farthest, later):
        record = make_descriptor(identity, at).encoded
        verdicts.append(ask(dht, Store(record), identity=identity, source=at))
    assert verdicts == [Stored(True), Stored(not neighbour_is_nearer)]


def test_record_is_refused_by_a_node_that_knows_three_times_k_nearer_ones():
    def gap(one, other):
        return int.from_bytes(one.node_id) ^ int.from_bytes(other.node_id)

    people = [(make_identity(n), public_endpoint(n)) for n in range(100, 200)]
    owner, owner_at = max(people, key=lambda p: gap(p[0], ALICE))
    record = make_descriptor(owner, owner_at).encoded
    dht = make_dht(k=3, crawl_first_interval_s=500.0)
    verdicts = []
    neighbours = [each for each in people if each[0] is not owner]
    for second, (identity, at) in enumerate(neighbours):
        # One address gets few challenges within a second.
        now = START + second
        ask(dht, Ping(), identity=identity, source=at, now=now)
        accepted = ask(dht, Store(record), identity=owner, source=owner_at, now=now).accepted
        nearer = sum(
            gap(contact, owner) < gap(ALICE, owner)
            for contact in DhtInspection(dht).contacts()
            if contact.node_id != owner.node_id
        )
        assert accepted == (nearer < 9), nearer
        verdicts.append(accepted)
    assert {True, False} == set(verdicts)


def test_whole_run_logs_no_address_nor_id(caplog):
    with caplog.at_level(logging.DEBUG):
        network, members = grown(3, settings=DhtSettings(), run=3)
        network.do(members[0], lambda dht: dht.leave(network.now))
        network.run(2)
    assert caplog.records == []


def test_package_loggers_are_silent_even_when_everything_is_shown(caplog):
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("kademlia.protocol").warning("no response from %s", "80.1.2.3")
        logging.getLogger("rpcudp.protocol").error("did not receive %s", "80.1.2.3")
    assert caplog.records == []


def test_same_seed_gives_the_same_run():
    def run():
        network = Network(seed=4, settings=DhtSettings(k=4, alpha=3))
        network.record_traffic = True
        first, second, third = (network.add(n) for n in range(3))
        network.bootstrap(second, first)
        network.bootstrap(third, first)
        network.run(3)
        return network.traffic

    traffic = run()
    assert len(traffic) > 50
    assert traffic == run()
