"""Encode, sign, parse and verify the datagram around every DHT message.

There are three layouts. Each is one canonical msgpack array of at most 1,200 bytes::

    request    [version, network tag (8), kind, request id (12), responder id (0|20),
                sent-to address (4|16), sent-to port, cookie (0|16), identity key (32),
                body, signature (64)]
    reply      [version, network tag (8), kind, request id (12), identity key (32),
                body, signature (64)]
    challenge  [version, network tag (8), 0, request id (12), cookie (16)]

A request's signature covers the responder and the address to which it was sent. So another node
cannot use it again elsewhere. A reply's signature covers the hash of the whole request, so it
answers only that request, sent to that node at that address. A challenge is not signed. It is sent
before any signature is verified, and grants only a cookie.

The network tag is a hash, so that it has a fixed size. The signatures cover the network's name
itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, NamedTuple

from overlay.addresses import NODE_ID_BYTES, Endpoint, NodeId
from overlay.dht.messages import MessageKind, Reply, Request, parse_reply, parse_request
from overlay.errors import Malformed
from overlay.identity import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    LocalIdentity,
    node_id_of,
    verify_signature,
)
from overlay.wire import pack_canonical, unpack_bounded

__all__ = [
    "COOKIE_BYTES",
    "MAX_DATAGRAM_BYTES",
    "OPENINGS",
    "REQUEST_ID_AT",
    "REQUEST_ID_BYTES",
    "SMALLEST_BYTES",
    "SMALLEST_REQUEST_BYTES",
    "BareRequest",
    "Challenge",
    "Envelopes",
    "OtherNetwork",
    "UnverifiedReply",
    "UnverifiedRequest",
    "network_tag",
    "parse_datagram",
]

VERSION: Final = 1
MAX_DATAGRAM_BYTES: Final = 1200
"""Fits IPv6's least MTU of 1,280 with the IP, UDP and control headers."""

REQUEST_ID_BYTES: Final = 12
COOKIE_BYTES: Final = 16
NETWORK_TAG_BYTES: Final = 8

# Fixed places and bytes of the canonical encoding (msgpack): array | version | bin 8 | tag | ...
_ARRAY: Final = 0x90
_CHALLENGE_FIELDS: Final = 5
_REQUEST_FIELDS: Final = 11
_FIELDS: Final = (_CHALLENGE_FIELDS, 7, _REQUEST_FIELDS)
_OPENINGS: Final = frozenset(_ARRAY + fields for fields in _FIELDS)
_TAG_HEADER: Final = slice(2, 4)
_EIGHT_BYTES: Final = b"\xc4\x08"
_TAG: Final = slice(4, 4 + NETWORK_TAG_BYTES)
REQUEST_ID_AT: Final = 15
"""Offset of the request id in each datagram."""

_REQUEST_ID: Final = slice(REQUEST_ID_AT, REQUEST_ID_AT + REQUEST_ID_BYTES)
KIND_AT: Final = 4 + NETWORK_TAG_BYTES
_REQUEST_KINDS: Final = frozenset(int(kind) for kind in MessageKind if kind.is_request)
_ID_HEADER: Final = slice(KIND_AT + 1, REQUEST_ID_AT)
_TWELVE_BYTES: Final = b"\xc4\x0c"
SMALLEST_BYTES: Final = _REQUEST_ID.stop
"""Every datagram is larger than its part up to the request id."""

SMALLEST_REQUEST_BYTES: Final = (
    _REQUEST_ID.stop + 2 + (2 + 4) + 1 + 2 + (2 + PUBLIC_KEY_BYTES) + 1 + (2 + SIGNATURE_BYTES)
)
"""A request to no known id at an IPv4 address, without a cookie and with an empty body."""

OPENINGS: Final = {
    bytes((_ARRAY + fields, VERSION)) + _EIGHT_BYTES: fields != _REQUEST_FIELDS
    for fields in _FIELDS
}
"""The bytes before the network tag, and whether the datagram answers a request."""

_EMPTY: Final = b"\xc4\x00"
_NO_COOKIE_THEN_KEY: Final = _EMPTY + bytes((0xC4, PUBLIC_KEY_BYTES))
_SIXTEEN_BYTES: Final = bytes((0xC4, COOKIE_BYTES))
_UINT8: Final = 0xCC

_REQUEST_LABEL: Final = b"overlay dht request v1"
_REPLY_LABEL: Final = b"overlay dht reply v1"
_TAG_LABEL: Final = b"overlay network tag v1"


class OtherNetwork(Malformed):
    """A well-formed datagram of another version or network."""


class BareRequest(NamedTuple):
    """The fields of a request without a cookie that a challenge needs; the rest is not parsed."""

    request_id: bytes
    identity_key: bytes


@dataclass(slots=True)  # not frozen, which would triple the time to make one
class UnverifiedRequest:
    """A request with a valid form, whose signature is not verified yet."""

    request_id: bytes
    responder: NodeId | None
    sent_to: Endpoint
    cookie: bytes
    identity_key: bytes
    sender: NodeId
    request: Request
    datagram: bytes
    _fields: tuple[object, ...]
    _signature: bytes

    def verify(self, network_id: str) -> Request:
        """Check the sender's signature and return what it asks.

        Raises:
            NotAuthentic: the signature does not fit.
        """
        signed = pack_canonical([_REQUEST_LABEL, network_id, *self._fields])
        verify_signature(self.identity_key, self._signature, signed)
        return self.request


@dataclass(slots=True)  # not frozen, which would triple the time to make one
class UnverifiedReply:
    """A reply that is not matched with a request yet, and whose body is not parsed yet."""

    kind: MessageKind
    request_id: bytes
    identity_key: bytes
    sender: NodeId
    _body: list[object]
    _fields: tuple[object, ...]
    _signature: bytes

    def verify(self, network_id: str, request_datagram: bytes) -> Reply:
        """Check that the sender signed this as the answer to exactly that request; parse it.

        Raises:
            NotAuthentic: the signature does not fit.
            Malformed: the body does not have its kind's layout.
        """
        digest = hashlib.sha256(request_datagram).digest()
        signed = pack_canonical([_REPLY_LABEL, network_id, digest, *self._fields])
        verify_signature(self.identity_key, self._signature, signed)
        return parse_reply(self.kind, self._body)


@dataclass(slots=True)  # not frozen, which would triple the time to make one
class Challenge:
    """Repeat your request with this cookie."""

    request_id: bytes
    cookie: bytes


def network_tag(network_id: str) -> bytes:
    """Return the 8 bytes that identify a network on the wire."""
    return hashlib.sha256(_TAG_LABEL + network_id.encode()).digest()[:NETWORK_TAG_BYTES]


class Envelopes:
    """Encode and parse this node's datagrams, with its identity and its network.

    A simulated network, which carries messages in another form, gives the DHT core a subclass.
    """

    def __init__(self, identity: LocalIdentity, network_id: str) -> None:
        self.network_id = network_id
        self.tag = network_tag(network_id)
        self._identity = identity
        self._begins = bytes((VERSION,)) + _EIGHT_BYTES + self.tag
        opening = bytes((_ARRAY + _CHALLENGE_FIELDS,)) + self._begins
        self._challenge_begins = opening + bytes((MessageKind.CHALLENGE,)) + _TWELVE_BYTES

    def request(
        self,
        request: Request,
        *,
        request_id: bytes,
        responder: NodeId | None,
        sent_to: Endpoint,
        cookie: bytes,
    ) -> bytes:
        """Sign a request to ``responder`` (None: not known yet) at ``sent_to``."""
        fields: list[object] = [
            VERSION,
            self.tag,
            int(request.kind),
            request_id,
            responder or b"",
            sent_to.packed,
            sent_to.port,
            cookie,
            self._identity.identity_key,
            request.body(),
        ]
        signed = pack_canonical([_REQUEST_LABEL, self.network_id, *fields])
        return pack_canonical([*fields, self._identity.sign(signed)])

    def reply(self, reply: Reply, to: UnverifiedRequest) -> bytes:
        """Sign the answer to one request."""
        fields: list[object] = [
            VERSION,
            self.tag,
            int(reply.kind),
            to.request_id,
            self._identity.identity_key,
            reply.body(),
        ]
        digest = hashlib.sha256(to.datagram).digest()
        signed = pack_canonical([_REPLY_LABEL, self.network_id, digest, *fields])
        return pack_canonical([*fields, self._identity.sign(signed)])

    def challenge(self, request_id: bytes, cookie: bytes) -> bytes:
        """Return the 45 bytes that a request without a valid cookie gets."""
        # Encoded without msgpack, which takes ten times as long, because a flood causes many.
        return b"".join((self._challenge_begins, request_id, _SIXTEEN_BYTES, cookie))

    def bare_request(self, datagram: bytes) -> BareRequest | None:
        """Return the fields for a challenge of a request without a cookie, None for other data.

        It reads the fixed positions and bytes of the canonical encoding, which takes a tenth of the
        time of :meth:`parse`. The bytes after the identity key may be invalid. This does no harm,
        because a challenge is smaller than any request and grants only a cookie.
        """
        if (
            len(datagram) < SMALLEST_REQUEST_BYTES
            or datagram[0] != _ARRAY + _REQUEST_FIELDS
            or not datagram.startswith(self._begins, 1)
            or datagram[KIND_AT] not in _REQUEST_KINDS
            or datagram[_ID_HEADER] != _TWELVE_BYTES
        ):
            return None
        key = _key_of_bare_request(datagram)
        return None if key is None else BareRequest(datagram[_REQUEST_ID], key)

    def parse(self, datagram: bytes) -> UnverifiedRequest | UnverifiedReply | Challenge:
        """Parse any datagram of this network; see :func:`parse_datagram`."""
        return parse_datagram(datagram, self.tag)


def parse_datagram(data: bytes, tag: bytes) -> UnverifiedRequest | UnverifiedReply | Challenge:
    """Parse any DHT datagram of the network whose tag is ``tag``.

    Raises:
        OtherNetwork: another version or network.
        Malformed: whatever else the bytes are.
    """
    _check_opening(data, tag)
    fields = unpack_bounded(data, max_bytes=MAX_DATAGRAM_BYTES)
    if not isinstance(fields, list) or len(fields) < 5:
        raise Malformed("a DHT datagram is an array")
    number, request_id = fields[2:4]
    kind = _kind(number)
    _expect_bytes(request_id, REQUEST_ID_BYTES)
    if kind is MessageKind.CHALLENGE:
        return _challenge(fields)
    return _request(kind, fields, data) if kind.is_request else _reply(kind, fields)


def _check_opening(data: bytes, tag: bytes) -> None:
    """Insist on an array that begins with our version and network, before it is unpacked.

    The encoding is canonical, so these are fixed bytes. So invalid datagrams cost very little.
    """
    if len(data) < _TAG.stop or data[0] not in _OPENINGS or data[_TAG_HEADER] != _EIGHT_BYTES:
        raise Malformed("a DHT datagram is an array that begins with its version and network")
    if data[1] != VERSION or data[_TAG] != tag:
        raise OtherNetwork("the datagram belongs to another version or network")


def _key_of_bare_request(data: bytes) -> bytes | None:
    """Return the identity key behind an empty cookie; ``data`` has the size of a request."""
    at = _REQUEST_ID.stop
    if data[at + 1] not in (0, NODE_ID_BYTES):  # the responder
        return None
    at += 2 + data[at + 1]
    if data[at + 1] not in (4, 16):  # the address that it was sent to
        return None
    at += 2 + data[at + 1]
    port = data[at]
    at += 1 if port < _UINT8 else port - _UINT8 + 2
    end = at + len(_NO_COOKIE_THEN_KEY) + PUBLIC_KEY_BYTES
    if not data.startswith(_NO_COOKIE_THEN_KEY, at) or len(data) < end:
        return None
    return data[end - PUBLIC_KEY_BYTES : end]


def _challenge(fields: list[object]) -> Challenge:
    match fields:
        case [_, _, _, bytes() as request_id, cookie]:
            return Challenge(request_id, _expect_bytes(cookie, COOKIE_BYTES))
        case _:
            raise Malformed("a challenge has five fields")


def _request(kind: MessageKind, fields: list[object], data: bytes) -> UnverifiedRequest:
    match fields:
        case [_, _, _, bytes() as request_id, responder, bytes() as host, int() as port,
              cookie, key, list() as body, signature]:  # fmt: skip
            pass
        case _:
            raise Malformed("a request has eleven fields")
    if isinstance(port, bool) or not 1 <= port <= 65535:
        raise Malformed("a port is between 1 and 65535")
    identity_key = _expect_bytes(key, PUBLIC_KEY_BYTES)
    return UnverifiedRequest(
        request_id=request_id,
        responder=NodeId(_expect_bytes(responder, 0, NODE_ID_BYTES)) or None,
        sent_to=Endpoint.from_packed(host, port),
        cookie=_expect_bytes(cookie, 0, COOKIE_BYTES),
        identity_key=identity_key,
        sender=node_id_of(identity_key),
        request=parse_request(kind, body),
        datagram=data,
        _fields=tuple(fields[:-1]),
        _signature=_expect_bytes(signature, SIGNATURE_BYTES),
    )


def _reply(kind: MessageKind, fields: list[object]) -> UnverifiedReply:
    match fields:
        case [_, _, _, bytes() as request_id, key, list() as body, signature]:
            pass
        case _:
            raise Malformed("a reply has seven fields")
    identity_key = _expect_bytes(key, PUBLIC_KEY_BYTES)
    return UnverifiedReply(
        kind=kind,
        request_id=request_id,
        identity_key=identity_key,
        sender=node_id_of(identity_key),
        _body=body,
        _fields=tuple(fields[:-1]),
        _signature=_expect_bytes(signature, SIGNATURE_BYTES),
    )


def _kind(number: object) -> MessageKind:
    if type(number) is not int:
        raise Malformed("a kind is a number")
    try:
        return MessageKind(number)
    except ValueError as error:
        raise Malformed("no such kind of message") from error


def _expect_bytes(value: object, *sizes: int) -> bytes:
    if not isinstance(value, bytes) or len(value) not in sizes:
        raise Malformed("a field has another type or size")
    return value
