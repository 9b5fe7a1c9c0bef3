"""The bodies of DHT requests and replies: typed values and strict parsers.

A body is a msgpack array. Its kind determines the layout:

==============  ====  =========================  =====================================
kind            code  body                       answer
==============  ====  =========================  =====================================
PING            1     []                         PONG
FIND_NODE       2     [target (20)]              CONTACTS
FIND_RECORD     3     [key (20)]                 RECORD, or CONTACTS
STORE           4     [descriptor (<= 1000)]     STORED
LEAVE           5     [sequence (u64)]           LEFT
PONG            11    []
CONTACTS        12    [[contact, ...]]
RECORD          13    [descriptor (<= 1000)]
STORED          14    [accepted (bool)]
LEFT            15    []
==============  ====  =========================  =====================================

Kinds 6 to 8, 16 and 17 are in ``overlay.dht.help_messages``.

A contact is one byte string, ``address (4 or 16) | port (2) | identity key (32)``. Its NodeId is
not sent. The receiver computes it as a hash of the key. So a node must search for a key if it wants
an id close to a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from overlay.addresses import NODE_ID_BYTES, Endpoint, NodeId
from overlay.dht.descriptor import MAX_DESCRIPTOR_BYTES, MAX_TIME_S
from overlay.dht.help_messages import (
    HelpReply,
    HelpRequest,
    parse_help_reply,
    parse_help_request,
)
from overlay.dht.kinds import MessageKind
from overlay.errors import Malformed
from overlay.identity import PUBLIC_KEY_BYTES, node_id_of
from overlay.wire import ByteReader

__all__ = [
    "MAX_CONTACTS",
    "MAX_CONTACTS_BYTES",
    "Contact",
    "Contacts",
    "FindNode",
    "FindRecord",
    "Leave",
    "Left",
    "MessageKind",
    "Ping",
    "Pong",
    "Record",
    "Reply",
    "Request",
    "Store",
    "Stored",
    "contacts_that_fit",
    "parse_reply",
    "parse_request",
]

MAX_CONTACTS_BYTES: Final = 1040
"""Bytes for contacts in one reply, enough for 20 IPv6 or 26 IPv4 endpoints."""

_LARGEST_CONTACT_BYTES: Final = 16 + 2 + PUBLIC_KEY_BYTES + 2
"""An IPv6 address, a port, a key and two bytes of msgpack header."""

MAX_CONTACTS: Final = 32


class Contact(NamedTuple):
    """Another node: the id follows from the key; the endpoint is a claim until it answers."""

    node_id: NodeId
    endpoint: Endpoint
    identity_key: bytes

    @classmethod
    def of(cls, identity_key: bytes, endpoint: Endpoint) -> Contact:
        """Return the contact with a 32-byte identity key."""
        return cls(node_id_of(identity_key), endpoint, identity_key)

    @classmethod
    def decode(cls, packed: object) -> Contact:
        """Parse ``address (4 or 16) | port (2) | identity key (32)``.

        Raises:
            Malformed: the layout, the port or the address is wrong.
        """
        if not isinstance(packed, bytes) or len(packed) not in _CONTACT_ADDRESS_BYTES:
            raise Malformed("a contact is an address, a port and an identity key")
        return _decode_contact(packed)

    @property
    def encoded_bytes(self) -> int:
        """Number of bytes that :meth:`encode` returns."""
        return (16 if ":" in self.endpoint.host else 4) + 2 + PUBLIC_KEY_BYTES

    def encode(self) -> bytes:
        """Return the 38 (IPv4) or 50 (IPv6) bytes that :meth:`decode` reads."""
        return self.endpoint.packed + self.endpoint.port.to_bytes(2, "big") + self.identity_key


_CONTACT_ADDRESS_BYTES: Final = {size + 2 + PUBLIC_KEY_BYTES: size for size in (4, 16)}


@lru_cache(maxsize=4096)
def _decode_contact(packed: bytes) -> Contact:
    # Cached: a crawl reads each contact some twenty times.
    reader = ByteReader(packed)
    address = reader.take(_CONTACT_ADDRESS_BYTES[len(packed)])
    endpoint = Endpoint.from_packed(address, reader.u16())
    return Contact.of(reader.take(PUBLIC_KEY_BYTES), endpoint)


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask a node for a sign of life."""

    @property
    def kind(self) -> MessageKind:
        """PING."""
        return MessageKind.PING

    def body(self) -> list[object]:
        """No fields."""
        return []


@dataclass(frozen=True, slots=True)
class FindNode:
    """Ask for the contacts closest to ``target``."""

    target: NodeId

    @property
    def kind(self) -> MessageKind:
        """FIND_NODE."""
        return MessageKind.FIND_NODE

    def body(self) -> list[object]:
        """The target."""
        return [self.target]


@dataclass(frozen=True, slots=True)
class FindRecord:
    """Ask for the descriptor of the node ``key``."""

    key: NodeId

    @property
    def kind(self) -> MessageKind:
        """FIND_RECORD."""
        return MessageKind.FIND_RECORD

    def body(self) -> list[object]:
        """The key."""
        return [self.key]


@dataclass(frozen=True, slots=True)
class Store:
    """Ask a node to store the sender's signed descriptor until it expires."""

    record: bytes

    @property
    def kind(self) -> MessageKind:
        """STORE."""
        return MessageKind.STORE

    def body(self) -> list[object]:
        """The encoded descriptor."""
        return [self.record]


@dataclass(frozen=True, slots=True)
class Leave:
    """Ask a node to forget the sender, and its descriptors up to this sequence number."""

    sequence: int

    @property
    def kind(self) -> MessageKind:
        """LEAVE."""
        return MessageKind.LEAVE

    def body(self) -> list[object]:
        """The sequence number."""
        return [self.sequence]


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a PING, with the time of the responder in Unix seconds.

    The time only serves to tell the user that a clock is wrong. No decision uses it.
    """

    time_s: int = field(default=0, compare=False)

    @property
    def kind(self) -> MessageKind:
        """PONG."""
        return MessageKind.PONG

    def body(self) -> list[object]:
        """The time."""
        return [self.time_s]


@dataclass(frozen=True, slots=True)
class Contacts:
    """The closest contacts, closest first. ``refused`` is the number of invalid entries."""

    contacts: tuple[Contact, ...]
    refused: int = 0

    @property
    def kind(self) -> MessageKind:
        """CONTACTS."""
        return MessageKind.CONTACTS

    def body(self) -> list[object]:
        """One list of packed contacts."""
        return [[contact.encode() for contact in self.contacts]]


@dataclass(frozen=True, slots=True)
class Record:
    """The requested descriptor in encoded form, which the receiver verifies."""

    record: bytes

    @property
    def kind(self) -> MessageKind:
        """RECORD."""
        return MessageKind.RECORD

    def body(self) -> list[object]:
        """The encoded descriptor."""
        return [self.record]


@dataclass(frozen=True, slots=True)
class Stored:
    """Whether the descriptor was stored, without a reason."""

    accepted: bool

    @property
    def kind(self) -> MessageKind:
        """STORED."""
        return MessageKind.STORED

    def body(self) -> list[object]:
        """The verdict."""
        return [self.accepted]


@dataclass(frozen=True, slots=True)
class Left:
    """The answer to LEAVE."""

    @property
    def kind(self) -> MessageKind:
        """LEFT."""
        return MessageKind.LEFT

    def body(self) -> list[object]:
        """No fields."""
        return []


Request = Ping | FindNode | FindRecord | Store | Leave | HelpRequest
Reply = Pong | Contacts | Record | Stored | Left | HelpReply


def contacts_that_fit(contacts: Sequence[Contact], count: int) -> Contacts:
    """Return the first ``count`` contacts, or fewer if they would not fit one datagram."""
    if min(count, len(contacts)) * _LARGEST_CONTACT_BYTES <= MAX_CONTACTS_BYTES:
        return Contacts(tuple(contacts[:count]))
    chosen: list[Contact] = []
    room = MAX_CONTACTS_BYTES
    for contact in contacts[:count]:
        room -= contact.encoded_bytes + 2  # two bytes of msgpack header each
        if room < 0:
            break
        chosen.append(contact)
    return Contacts(tuple(chosen))


def parse_request(kind: MessageKind, body: list[object]) -> Request:
    """Parse the body of a request.

    Raises:
        Malformed: the body does not have its kind's layout.
    """
    match kind, body:
        case MessageKind.PING, []:
            return Ping()
        case MessageKind.FIND_NODE, [target]:
            return FindNode(_node_id(target))
        case MessageKind.FIND_RECORD, [key]:
            return FindRecord(_node_id(key))
        case MessageKind.STORE, [record]:
            return Store(_record(record))
        case MessageKind.LEAVE, [sequence] if type(sequence) is int and 0 <= sequence < 2**64:
            return Leave(sequence)
        case _:
            return parse_help_request(kind, body)


def parse_reply(kind: MessageKind, body: list[object]) -> Reply:
    """Parse the body of a reply.

    Invalid contacts are omitted and counted, because an honest peer may have learned one from a
    node with a newer version.

    Raises:
        Malformed: the body does not have its kind's layout.
    """
    match kind, body:
        case MessageKind.PONG, [time_s] if type(time_s) is int and 0 <= time_s < MAX_TIME_S:
            return Pong(time_s)
        case MessageKind.CONTACTS, [entries] if isinstance(entries, list):
            return _contacts(entries)
        case MessageKind.RECORD, [record]:
            return Record(_record(record))
        case MessageKind.STORED, [accepted] if isinstance(accepted, bool):
            return Stored(accepted)
        case MessageKind.LEFT, []:
            return Left()
        case _:
            return parse_help_reply(kind, body)


def _contacts(entries: list[object]) -> Contacts:
    if len(entries) > MAX_CONTACTS:
        raise Malformed("a reply holds too many contacts")
    contacts: dict[NodeId, Contact] = {}
    for entry in entries:
        try:
            contact = Contact.decode(entry)
        except Malformed:
            continue
        contacts.setdefault(contact.node_id, contact)
    return Contacts(tuple(contacts.values()), refused=len(entries) - len(contacts))


def _node_id(value: object) -> NodeId:
    if not isinstance(value, bytes) or len(value) != NODE_ID_BYTES:
        raise Malformed("a NodeId has 20 bytes")
    return NodeId(value)


def _record(value: object) -> bytes:
    if not isinstance(value, bytes) or not 0 < len(value) <= MAX_DESCRIPTOR_BYTES:
        raise Malformed("a descriptor has at most 1,000 bytes")
    return value
