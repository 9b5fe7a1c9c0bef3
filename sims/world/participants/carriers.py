"""Two carriers of DHT messages for the same core: encoded bytes, or message values.

``EncodedCarrier`` signs, encodes, parses and verifies as the product does. ``ValueCarrier``
passes the message as a value and computes the exact size of its encoding. The simulation then
knows whether a message is authentic, without cryptography. A test runs one scenario with both
carriers and compares the event digests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, cast

from overlay.addresses import Endpoint, NodeId
from overlay.dht.envelope import (
    KIND_AT,
    BareRequest,
    Challenge,
    Envelopes,
    UnverifiedReply,
    UnverifiedRequest,
)
from overlay.dht.messages import (
    Contacts,
    FindNode,
    FindRecord,
    Leave,
    MessageKind,
    Pong,
    Record,
    Reply,
    Request,
    Store,
    Stored,
)
from overlay.errors import NotAuthentic
from overlay.identity import LocalIdentity
from overlay.wire import pack_canonical
from sims.world.engine.network import FRAMING_BYTES

__all__ = [
    "CHALLENGE_BYTES",
    "DhtMessageCarrier",
    "EncodedCarrier",
    "RawDatagram",
    "ValueCarrier",
    "ValueChallenge",
    "ValueReply",
    "ValueRequest",
    "body_bytes",
]

LINK_KIND: Final = 254
ESP_KIND: Final = 255
"""Numbers in the digest and the counters, beside those of DHT messages."""

CHALLENGE_BYTES: Final = 45
_REQUEST_BYTES: Final = 1 + 1 + 10 + 1 + 14 + 34 + 66
"""Header, version, tag, kind, request id, identity key and signature."""

_REPLY_BYTES: Final = 1 + 1 + 10 + 1 + 14 + 34 + 66
_NO_FIELDS: Final = 1
_FORGED: Final = b""


class DhtMessageCarrier(Protocol):
    """The interface between a simulation and one form of messages."""

    def envelopes(self, identity: LocalIdentity, network_id: str) -> Envelopes:
        """Return the object that makes and reads the datagrams of one node."""
        ...

    def measure(self, datagram: bytes) -> tuple[int, int]:
        """Return the size of a datagram in bytes without framing, and the number of its kind."""
        ...


class RawDatagram:
    """A UDP payload of the product that is not a DHT message: link handshakes and ESP."""

    __slots__ = ("code", "data", "wire_bytes")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.wire_bytes = max(0, len(data) - FRAMING_BYTES)
        self.code = LINK_KIND if data.startswith(bytes(4)) else ESP_KIND

    def as_payload(self) -> bytes:
        """Return itself, as what the network carries; it never looks inside."""
        return cast(bytes, self)


class EncodedCarrier:
    """Datagrams as the product sends them, with real Ed25519 signatures."""

    def envelopes(self, identity: LocalIdentity, network_id: str) -> Envelopes:
        """Return the product's envelopes."""
        return Envelopes(identity, network_id)

    def measure(self, datagram: bytes) -> tuple[int, int]:
        """Return size and kind. A datagram of an adversary may have any kind."""
        if isinstance(datagram, RawDatagram):
            return datagram.wire_bytes, datagram.code
        return len(datagram), datagram[KIND_AT] if len(datagram) > KIND_AT else 255


class ValueCarrier:
    """Messages as values, with the size that their encoding would have."""

    def envelopes(self, identity: LocalIdentity, network_id: str) -> Envelopes:
        """Return envelopes that contain the message as a value."""
        return _ValueEnvelopes(identity, network_id)

    def measure(self, datagram: bytes) -> tuple[int, int]:
        """Return the size and the kind that the message has as attributes."""
        message: _Value = datagram  # type: ignore[assignment]  # what its envelopes made
        return message.wire_bytes, message.code


@dataclass(slots=True)
class ValueRequest(UnverifiedRequest):
    """A request as a value."""

    wire_bytes: int
    code: int
    authentic: bool = True

    def __len__(self) -> int:
        """Return the size in bytes that the encoded datagram would have."""
        return self.wire_bytes

    def verify(self, network_id: str) -> Request:  # noqa: ARG002 - the signature binds it already
        """Return the request if its sender has the private key of its identity."""
        if not self.authentic:
            raise NotAuthentic("the signature does not match the identity key")
        return self.request


@dataclass(slots=True)
class ValueReply(UnverifiedReply):
    """A reply as a value, to one request."""

    wire_bytes: int
    code: int
    reply: Reply
    answers: object
    authentic: bool = True

    def __len__(self) -> int:
        """Return the size in bytes that the encoded datagram would have."""
        return self.wire_bytes

    def verify(self, network_id: str, request_datagram: bytes) -> Reply:  # noqa: ARG002 - as above
        """Return the reply if it was made for exactly that request."""
        if not self.authentic or self.answers is not request_datagram:
            raise NotAuthentic("the signature does not match the identity key")
        return self.reply


@dataclass(slots=True)
class ValueChallenge(Challenge):
    """A challenge as a value."""

    wire_bytes: int = CHALLENGE_BYTES
    code: int = int(MessageKind.CHALLENGE)

    def __len__(self) -> int:
        """Return the size in bytes that the encoded datagram would have."""
        return self.wire_bytes


_Value = ValueRequest | ValueReply | ValueChallenge


class _ValueEnvelopes(Envelopes):
    """Makes values instead of datagrams. The core does not look inside datagrams.

    The core's type for a datagram is ``bytes``. This is the only place where a simulation passes
    another type through the core.
    """

    def __init__(self, identity: LocalIdentity, network_id: str) -> None:
        super().__init__(identity, network_id)
        self._key = identity.identity_key
        self._sender = identity.node_id

    def request(
        self,
        request: Request,
        *,
        request_id: bytes,
        responder: NodeId | None,
        sent_to: Endpoint,
        cookie: bytes,
    ) -> bytes:
        """Return the request itself."""
        size = (
            _REQUEST_BYTES
            + (22 if responder else 2)
            + (18 if ":" in sent_to.host else 6)
            + _port_bytes(sent_to.port)
            + 2
            + len(cookie)
            + body_bytes(request)
        )
        return ValueRequest(  # type: ignore[return-value]  # no cast(): it costs a call
            request_id, responder, sent_to, cookie, self._key, self._sender, request,
            b"", (), _FORGED, size, int(request.kind),
        )  # fmt: skip

    def reply(self, reply: Reply, to: UnverifiedRequest) -> bytes:
        """Return the reply itself, bound to its request."""
        kind = reply.kind
        return ValueReply(  # type: ignore[return-value]  # no cast(): it costs a call
            kind, to.request_id, self._key, self._sender, [], (), _FORGED,
            _REPLY_BYTES + body_bytes(reply), int(kind), reply, to,
        )  # fmt: skip

    def challenge(self, request_id: bytes, cookie: bytes) -> bytes:
        """Return the challenge itself."""
        return ValueChallenge(request_id, cookie)  # type: ignore[return-value]  # likewise

    def bare_request(self, datagram: bytes) -> BareRequest | None:  # noqa: ARG002 - as above
        """Return None: a value needs no parsing."""
        return None

    def parse(self, datagram: bytes) -> UnverifiedRequest | UnverifiedReply | Challenge:
        """Return the value that was sent."""
        message: _Value = datagram  # type: ignore[assignment]  # likewise
        return message


def body_bytes(message: Request | Reply) -> int:
    """Return the size of a message's body, as :func:`overlay.wire.pack_canonical` makes it."""
    match message:
        case FindNode() | FindRecord():
            return 23
        case Contacts(contacts):
            v6 = sum([":" in contact.endpoint.host for contact in contacts])
            return (2 if len(contacts) < 16 else 4) + 40 * len(contacts) + 12 * v6
        case Store(record) | Record(record):
            return 1 + (2 if len(record) < 256 else 3) + len(record)
        case Stored():
            return 2
        case Leave(number) | Pong(number):
            return 1 + len(pack_canonical(number))
        case _:
            return _NO_FIELDS


def _port_bytes(port: int) -> int:
    if port < 128:
        return 1
    return 2 if port < 256 else 3
