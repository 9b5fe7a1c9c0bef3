"""The bodies of DHT requests and replies: typed values and strict parsers.

A body is a msgpack array whose layout its kind fixes:

==============  ====  =========================  =====================================
kind            code  body                       answer
==============  ====  =========================  =====================================
PING            1     []                         PONG
FIND_NODE       2     [target (20)]              CONTACTS
FIND_RECORD     3     [key (20)]                 RECORD, or CONTACTS
STORE           4     [descriptor (<= 1000)]     STORED
LEAVE           5     [sequence (u64)]           LEFT
WANT_PROBE      6     [descriptor, port (u16),   PROBE_STATE
                      nonce (12)]
SEND_PROBE      7     [descriptor, address       PROBE_STATE
                      (4 or 16), port (u16),
                      nonce (12)]
PONG            11    []
CONTACTS        12    [[contact, ...]]
RECORD          13    [descriptor (<= 1000)]
STORED          14    [accepted (bool)]
LEFT            15    []
PROBE_STATE     16    [state (0 to 2)]
==============  ====  =========================  =====================================

A contact is one byte string, ``address (4 or 16) | port (2) | identity key (32)``. Its
NodeId is not sent: the receiver hashes the key, so nobody can invent an id close to a
target without paying for it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from overlay.addresses import NODE_ID_BYTES, Endpoint, NodeId
from overlay.dht.descriptor import MAX_DESCRIPTOR_BYTES, MAX_TIME_S
from overlay.errors import Malformed
from overlay.identity import PUBLIC_KEY_BYTES, node_id_of
from overlay.wire import ByteReader

__all__ = [
    "MAX_CONTACTS_BYTES",
    "MAX_PROOF_BYTES",
    "PROBE_NONCE_BYTES",
    "Contact",
    "Contacts",
    "FindNode",
    "FindRecord",
    "Kind",
    "Leave",
    "Left",
    "Ping",
    "Pong",
    "ProbeProgress",
    "ProbeState",
    "Record",
    "Reply",
    "Request",
    "SendProbe",
    "Store",
    "Stored",
    "WantProbe",
    "contacts_that_fit",
    "parse_reply",
    "parse_request",
]

MAX_CONTACTS_BYTES: Final = 1040
"""Room for contacts in one reply: 20 with IPv6 or 26 with IPv4 endpoints."""

_LARGEST_CONTACT_BYTES: Final = 16 + 2 + PUBLIC_KEY_BYTES + 2
"""An IPv6 address, a port, a key and two bytes of msgpack header."""

_MAX_CONTACTS: Final = 32

MAX_PROOF_BYTES: Final = 512
"""A descriptor without an exit policy; one of 1,000 bytes and an endpoint would exceed 1,200."""

PROBE_NONCE_BYTES: Final = 12
"""As long as a request id, because it becomes the request id of the probe."""


class Kind(enum.IntEnum):
    """What a datagram is; the number on the wire."""

    CHALLENGE = 0
    PING = 1
    FIND_NODE = 2
    FIND_RECORD = 3
    STORE = 4
    LEAVE = 5
    WANT_PROBE = 6
    SEND_PROBE = 7
    PONG = 11
    CONTACTS = 12
    RECORD = 13
    STORED = 14
    LEFT = 15
    PROBE_STATE = 16

    @property
    def is_request(self) -> bool:
        """Whether it asks for an answer."""
        return Kind.PING <= self <= Kind.SEND_PROBE


class Contact(NamedTuple):
    """Another node: the id follows from the key; the endpoint is a claim until it answers."""

    node_id: NodeId
    endpoint: Endpoint
    identity_key: bytes

    @classmethod
    def of(cls, identity_key: bytes, endpoint: Endpoint) -> Contact:
        """Build the contact of a 32-byte identity key."""
        return cls(node_id_of(identity_key), endpoint, identity_key)

    @classmethod
    def decode(cls, packed: object) -> Contact:
        """Parse ``address (4 or 16) | port (2) | identity key (32)``.

        Raises:
            Malformed: any other layout, or a port or address that is none.
        """
        if not isinstance(packed, bytes) or len(packed) not in _CONTACT_ADDRESS_BYTES:
            raise Malformed("a contact is an address, a port and an identity key")
        return _decode_contact(packed)

    @property
    def encoded_bytes(self) -> int:
        """How many bytes :meth:`encode` returns."""
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
    """Are you there?"""

    @property
    def kind(self) -> Kind:
        """PING."""
        return Kind.PING

    def body(self) -> list[object]:
        """No fields."""
        return []


@dataclass(frozen=True, slots=True)
class FindNode:
    """Which contacts do you know closest to ``target``?"""

    target: NodeId

    @property
    def kind(self) -> Kind:
        """FIND_NODE."""
        return Kind.FIND_NODE

    def body(self) -> list[object]:
        """The target."""
        return [self.target]


@dataclass(frozen=True, slots=True)
class FindRecord:
    """Do you hold the descriptor of the node ``key``?"""

    key: NodeId

    @property
    def kind(self) -> Kind:
        """FIND_RECORD."""
        return Kind.FIND_RECORD

    def body(self) -> list[object]:
        """The key."""
        return [self.key]


@dataclass(frozen=True, slots=True)
class Store:
    """Keep my descriptor (encoded, signed) until it expires."""

    record: bytes

    @property
    def kind(self) -> Kind:
        """STORE."""
        return Kind.STORE

    def body(self) -> list[object]:
        """The encoded descriptor."""
        return [self.record]


@dataclass(frozen=True, slots=True)
class Leave:
    """Goodbye: forget me and my descriptors up to this sequence number."""

    sequence: int

    @property
    def kind(self) -> Kind:
        """LEAVE."""
        return Kind.LEAVE

    def body(self) -> list[object]:
        """The sequence number."""
        return [self.sequence]


@dataclass(frozen=True, slots=True)
class WantProbe:
    """Let another node probe my endpoint at the address that this request comes from.

    ``record`` is the sender's descriptor, which names the endpoint. The probe is a PING whose
    request id is ``nonce``. The same request again asks what has come of it.
    """

    record: bytes
    port: int
    nonce: bytes

    @property
    def kind(self) -> Kind:
        """WANT_PROBE."""
        return Kind.WANT_PROBE

    def body(self) -> list[object]:
        """The descriptor, the port and the nonce."""
        return [self.record, self.port, self.nonce]


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Probe this endpoint of another node, which its descriptor ``record`` names."""

    record: bytes
    endpoint: Endpoint
    nonce: bytes

    @property
    def kind(self) -> Kind:
        """SEND_PROBE."""
        return Kind.SEND_PROBE

    def body(self) -> list[object]:
        """The descriptor, the endpoint and the nonce."""
        return [self.record, self.endpoint.packed, self.endpoint.port, self.nonce]


@dataclass(frozen=True, slots=True)
class Pong:
    """The node is there, and its clock says ``time_s`` (Unix seconds).

    The time is for the user alone, who learns that a clock is wrong; no decision uses it.
    """

    time_s: int = field(default=0, compare=False)

    @property
    def kind(self) -> Kind:
        """PONG."""
        return Kind.PONG

    def body(self) -> list[object]:
        """The time."""
        return [self.time_s]


@dataclass(frozen=True, slots=True)
class Contacts:
    """The closest contacts, closest first. ``refused`` counts entries that were no contacts."""

    contacts: tuple[Contact, ...]
    refused: int = 0

    @property
    def kind(self) -> Kind:
        """CONTACTS."""
        return Kind.CONTACTS

    def body(self) -> list[object]:
        """One list of packed contacts."""
        return [[contact.encode() for contact in self.contacts]]


@dataclass(frozen=True, slots=True)
class Record:
    """The encoded descriptor that was asked for; its reader verifies it."""

    record: bytes

    @property
    def kind(self) -> Kind:
        """RECORD."""
        return Kind.RECORD

    def body(self) -> list[object]:
        """The encoded descriptor."""
        return [self.record]


@dataclass(frozen=True, slots=True)
class Stored:
    """Whether the descriptor was taken; never why not."""

    accepted: bool

    @property
    def kind(self) -> Kind:
        """STORED."""
        return Kind.STORED

    def body(self) -> list[object]:
        """The verdict."""
        return [self.accepted]


@dataclass(frozen=True, slots=True)
class Left:
    """The goodbye was heard."""

    @property
    def kind(self) -> Kind:
        """LEFT."""
        return Kind.LEFT

    def body(self) -> list[object]:
        """No fields."""
        return []


class ProbeProgress(enum.IntEnum):
    """What has come of a probe; the number on the wire."""

    REFUSED = 0
    PENDING = 1
    SENT = 2


@dataclass(frozen=True, slots=True)
class ProbeState:
    """Whether the probe was sent, will be sent, or is refused; never why."""

    progress: ProbeProgress

    @property
    def kind(self) -> Kind:
        """PROBE_STATE."""
        return Kind.PROBE_STATE

    def body(self) -> list[object]:
        """The number of the state."""
        return [int(self.progress)]


Request = Ping | FindNode | FindRecord | Store | Leave | WantProbe | SendProbe
Reply = Pong | Contacts | Record | Stored | Left | ProbeState


_PROGRESS: Final = frozenset(map(int, ProbeProgress))


def contacts_that_fit(contacts: Sequence[Contact], count: int) -> Contacts:
    """Take the first ``count`` contacts, fewer if their bytes would not fit one datagram."""
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


def parse_request(kind: Kind, body: list[object]) -> Request:
    """Turn a request's body into a value.

    Raises:
        Malformed: the body does not have its kind's layout.
    """
    match kind, body:
        case Kind.PING, []:
            return Ping()
        case Kind.FIND_NODE, [target]:
            return FindNode(_node_id(target))
        case Kind.FIND_RECORD, [key]:
            return FindRecord(_node_id(key))
        case Kind.STORE, [record]:
            return Store(_record(record))
        case Kind.LEAVE, [sequence] if type(sequence) is int and 0 <= sequence < 2**64:
            return Leave(sequence)
        case Kind.WANT_PROBE, [record, port, nonce]:
            return WantProbe(_proof(record), _port(port), _nonce(nonce))
        case Kind.SEND_PROBE, [record, bytes() as address, port, nonce]:
            endpoint = Endpoint.from_packed(address, _port(port))
            if endpoint.packed != address:
                raise Malformed("an endpoint's IPv4 address must have 4 bytes")
            return SendProbe(_proof(record), endpoint, _nonce(nonce))
        case _:
            raise Malformed("a request's body does not fit its kind")


def parse_reply(kind: Kind, body: list[object]) -> Reply:
    """Turn a reply's body into a value.

    Single contacts that are none are left out and counted: an honest peer may have
    learned one from a newer version.

    Raises:
        Malformed: the body does not have its kind's layout.
    """
    match kind, body:
        case Kind.PONG, [time_s] if type(time_s) is int and 0 <= time_s < MAX_TIME_S:
            return Pong(time_s)
        case Kind.CONTACTS, [entries] if isinstance(entries, list):
            return _contacts(entries)
        case Kind.RECORD, [record]:
            return Record(_record(record))
        case Kind.STORED, [accepted] if isinstance(accepted, bool):
            return Stored(accepted)
        case Kind.LEFT, []:
            return Left()
        case Kind.PROBE_STATE, [state] if type(state) is int and state in _PROGRESS:
            return ProbeState(ProbeProgress(state))
        case _:
            raise Malformed("a reply's body does not fit its kind")


def _contacts(entries: list[object]) -> Contacts:
    if len(entries) > _MAX_CONTACTS:
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


def _proof(value: object) -> bytes:
    if not isinstance(value, bytes) or not 0 < len(value) <= MAX_PROOF_BYTES:
        raise Malformed(f"a descriptor that proves an endpoint has at most {MAX_PROOF_BYTES} bytes")
    return value


def _port(value: object) -> int:
    if type(value) is not int or not 1 <= value <= 65535:
        raise Malformed("a port lies within 1 and 65535")
    return value


def _nonce(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != PROBE_NONCE_BYTES:
        raise Malformed(f"the nonce of a probe has {PROBE_NONCE_BYTES} bytes")
    return value
