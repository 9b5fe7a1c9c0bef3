"""Garbage of the link channel is recognised before anything is made of it."""

from random import Random

import pytest
from link_lab import NOW, Host, Lab, mirrored

from overlay.addresses import Endpoint
from overlay.link.drops import LinkDrop
from overlay.link.handshake import GEOMETRY, MESSAGE_BYTES, MessageType, header
from overlay.link.settings import LinkSettings

ANYWHERE = Endpoint("9.9.9.9", 4500)


def forged(kind: MessageType, number: int = 0x12345678) -> bytes:
    begin = header(kind, number)
    return begin + bytes(MESSAGE_BYTES[begin[:2]] - len(begin))


@pytest.mark.parametrize(
    ("data", "drop"),
    [
        (b"", LinkDrop.MALFORMED),
        (b"\x01", LinkDrop.MALFORMED),
        (b"\x63\x01" + bytes(300), LinkDrop.MALFORMED),
        (forged(MessageType.INITIATION)[:-1], LinkDrop.MALFORMED),
        (forged(MessageType.INITIATION), LinkDrop.NOT_AUTHENTIC),
        (forged(MessageType.RESPONSE), LinkDrop.UNKNOWN),
        (forged(MessageType.COOKIE_REPLY), LinkDrop.UNKNOWN),
        (forged(MessageType.CONFIRM), LinkDrop.UNKNOWN),
        (forged(MessageType.CLOSE), LinkDrop.UNKNOWN),
        (forged(MessageType.PROBE) + bytes(1400), LinkDrop.UNKNOWN),
        (forged(MessageType.PROBE)[:-1], LinkDrop.MALFORMED),
        (forged(MessageType.PROBED) + b"\0", LinkDrop.MALFORMED),
    ],
)
def test_garbage_is_counted_without_a_look_at_its_source(data, drop):
    bob = Host(2)
    nowhere = Endpoint("224.0.0.1", 9)  # would be counted as ENDPOINT, which takes longer
    bob.links.receive([(data, nowhere)], NOW)
    assert bob.links.drops() == {drop: 1}
    assert bob.links.datagrams_to_send(NOW) == []


def loaded(**bounds: int) -> Host:
    """A responder that asks everybody for a cookie."""
    return Host(2, LinkSettings(max_unproved_half_open=1, max_half_open=8, **bounds))


def initiations(host: Host, count: int) -> list[bytes]:
    """As many initiations to ``host`` with a valid mac1, each of a node of its own."""
    made = []
    for number in range(10, 10 + count):
        stranger = Host(number)
        stranger.links.connect(host.peer, NOW)
        made += [data for data, _ in stranger.links.datagrams_to_send(NOW)]
    return made


def sources(count: int) -> list[Endpoint]:
    """Endpoints in as many prefixes."""
    return [Endpoint(f"9.{number // 256}.{number % 256}.1", 4500) for number in range(count)]


def test_initiators_without_a_cookie_get_a_bounded_number_of_replies_a_second():
    bob = loaded(max_cookie_replies_per_s=20)
    data = initiations(bob, 30)
    batch = list(zip(data, sources(30), strict=True))
    bob.links.receive(batch, NOW)
    replies = [
        each for each, _ in bob.links.datagrams_to_send(NOW) if len(each) == GEOMETRY.cookie_reply
    ]
    assert len(replies) == 20
    assert bob.links.drops()[LinkDrop.LIMIT] == 9  # the first one got a response
    bob.links.receive(batch[-5:], NOW + 1)
    assert len(bob.links.datagrams_to_send(NOW + 1)) == 5


def test_a_valid_cookie_is_answered_when_no_reply_is_left():
    bob, alice = loaded(max_cookie_replies_per_s=20), Host(1)
    lab = Lab(alice, bob)
    first, *others = initiations(bob, 30)
    bob.links.receive([(first, ANYWHERE)], NOW)
    bob.links.datagrams_to_send(NOW)
    alice.links.connect(bob.peer, NOW)
    lab.step(NOW)
    lab.step(NOW)  # the cookie reply
    bob.links.receive(list(zip(others, sources(29), strict=True)), NOW)
    lab.settle(NOW)
    assert mirrored(alice, bob)


def test_beside_many_initiations_only_one_with_a_cookie_is_parsed(monkeypatch):
    bob = Host(2, LinkSettings(cookie_above_initiations_per_s=5))
    batch = list(zip(initiations(bob, 30), sources(30), strict=True))
    bob.links.receive(batch[:10], NOW)
    bob.links.datagrams_to_send(NOW)
    parsed = []
    monkeypatch.setattr("overlay.link.links.parse_message", parsed.append)
    bob.links.receive(batch[10:], NOW)
    assert parsed == []
    replies = bob.links.datagrams_to_send(NOW)
    assert [to for _, to in replies] == sources(30)[10:]
    assert {len(data) for data, _ in replies} == {GEOMETRY.cookie_reply}


def test_random_bytes_never_get_an_answer():
    bob, rng = Host(2), Random(1)
    sizes = sorted(set(MESSAGE_BYTES.values()))
    batch = [(rng.randbytes(rng.choice(sizes)), ANYWHERE) for _ in range(2000)]
    bob.links.receive(batch, NOW)
    assert bob.links.datagrams_to_send(NOW) == []
    assert sum(bob.links.drops().values()) == 2000
