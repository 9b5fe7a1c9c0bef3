"""Bodies: strict layouts, and contacts that prove nothing but their form."""

import pytest

from overlay.addresses import Endpoint
from overlay.dht.messages import (
    Contact,
    Contacts,
    MessageKind,
    parse_reply,
    parse_request,
)
from overlay.errors import Malformed
from overlay.identity import node_id_of

V4 = Contact.of(b"k" * 32, Endpoint("80.1.2.3", 4500))
V6 = Contact.of(b"q" * 32, Endpoint("2a00::1", 1))


@pytest.mark.parametrize(("contact", "size"), [(V4, 38), (V6, 50)])
def test_contact_round_trip_and_its_id_is_a_hash_of_its_key(contact, size):
    assert len(contact.encode()) == size
    assert Contact.decode(contact.encode()) == contact
    assert contact.node_id == node_id_of(contact.identity_key)


@pytest.mark.parametrize(
    "packed", [b"", b"x" * 37, b"x" * 39, b"x" * 51, "x" * 38, None, 5, [1, 2, 3]]
)
def test_other_shapes_are_no_contacts(packed):
    with pytest.raises(Malformed):
        Contact.decode(packed)


def test_contact_with_port_zero_is_none():
    with pytest.raises(Malformed):
        Contact.decode(b"\x50\1\2\3\0\0" + b"k" * 32)


def test_bad_and_repeated_contacts_are_left_out_and_counted():
    entries = [V4.encode(), b"junk", V4.encode(), V6.encode(), 7]
    assert parse_reply(MessageKind.CONTACTS, [entries]) == Contacts((V4, V6), refused=3)


def test_more_contacts_than_a_datagram_could_hold_are_refused():
    parse_reply(MessageKind.CONTACTS, [[b""] * 32])
    with pytest.raises(Malformed):
        parse_reply(MessageKind.CONTACTS, [[b""] * 33])


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (MessageKind.PING, [1]),
        (MessageKind.FIND_NODE, []),
        (MessageKind.FIND_NODE, [b"x" * 19]),
        (MessageKind.FIND_NODE, [b"x" * 21]),
        (MessageKind.FIND_NODE, ["x" * 20]),
        (MessageKind.FIND_RECORD, [None]),
        (MessageKind.STORE, [b""]),
        (MessageKind.STORE, [b"x" * 1001]),
        (MessageKind.LEAVE, [-1]),
        (MessageKind.LEAVE, [True]),
        (MessageKind.LEAVE, [1.0]),
        (MessageKind.PONG, []),
        (MessageKind.WANT_PROBE, [b"d", 0, b"n" * 12]),
        (MessageKind.WANT_PROBE, [b"d", True, b"n" * 12]),
        (MessageKind.WANT_PROBE, [b"d", 4500, b"n" * 11]),
        (MessageKind.WANT_PROBE, [b"d" * 513, 4500, b"n" * 12]),
        (MessageKind.WANT_PROBE, [b"", 4500, b"n" * 12]),
        (MessageKind.SEND_PROBE, [b"d", 4500, b"n" * 12]),
        (MessageKind.SEND_PROBE, [b"d", b"\x50\1\2", 4500, b"n" * 12]),
        (MessageKind.SEND_PROBE, [b"d", bytes(10) + b"\xff\xff\x50\1\2\3", 4500, b"n" * 12]),
        (MessageKind.SEND_PROBE, [b"d", "80.1", 4500, b"n" * 12]),
        (MessageKind.MEET, [b"t" * 19, b""]),
        (MessageKind.MEET, [b"t" * 20, None]),
        (MessageKind.MEET, [b"t" * 20, b"s" * 321]),
        (MessageKind.SEND_PROBE, [b"d", b"\x50\1\2\3", 65536, b"n" * 12]),
    ],
)
def test_request_bodies_of_another_layout_are_malformed(kind, body):
    with pytest.raises(Malformed):
        parse_request(kind, body)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (MessageKind.PONG, []),
        (MessageKind.PONG, [-1]),
        (MessageKind.PONG, [1.0]),
        (MessageKind.CONTACTS, []),
        (MessageKind.CONTACTS, [b"x"]),
        (MessageKind.RECORD, [b""]),
        (MessageKind.RECORD, [b"x" * 1001]),
        (MessageKind.STORED, [1]),
        (MessageKind.STORED, []),
        (MessageKind.LEFT, [b""]),
        (MessageKind.PROBE_STATE, []),
        (MessageKind.PROBE_STATE, [3]),
        (MessageKind.PROBE_STATE, [True]),
        (MessageKind.MET, [1, b""]),
        (MessageKind.MET, [True]),
        (MessageKind.MET, [True, b"s" * 321]),
        (MessageKind.PING, []),
    ],
)
def test_reply_bodies_of_another_layout_are_malformed(kind, body):
    with pytest.raises(Malformed):
        parse_reply(kind, body)
