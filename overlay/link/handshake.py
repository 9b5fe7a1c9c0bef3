"""Encode and parse the messages between two neighbours.

::

    initiation    1 | version | sender index (4) | Noise IK message 1 | mac1 (16) | mac2 (16)
    response      2 | version | receiver index (4) | Noise IK message 2 | mac (16)
    cookie reply  3 | version | receiver index (4) | nonce (16) | cookie + tag (32)
    confirm       4 | version | receiver's SPI (4) | zero (26)  | tag (16)
    close         5 | version | receiver's SPI (4) | zero (26)  | tag (16)
    challenge     6 | version | receiver's SPI (4) | token (26) | tag (16)
    echo          7 | version | receiver's SPI (4) | token (26) | tag (16)
    own address   8 | version | receiver's SPI (4) | token (26) | tag (16)
    probe         9 | version | receiver's SPI (4) | token (26) | tag (16) | zeros
    probed       10 | version | receiver's SPI (4) | token (26) | tag (16)

What Noise encrypts::

    payload 1     timestamp in µs (8) | SPI (4) | suites (4) | identity key (32) | signature (64)
    payload 2     suite (1)           | SPI (4)              | identity key (32) | signature (64)

All messages except probes have a fixed size, and all integers are big-endian.
``docs/formats/link-handshake.md`` has the reasons.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from overlay.errors import Malformed
from overlay.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from overlay.ipsec.interface import MIN_SPI, Spi
from overlay.link.noise import KEY_BYTES, TAG_BYTES
from overlay.wire import ByteReader

__all__ = [
    "GEOMETRY",
    "MESSAGE_BYTES",
    "NUMBER_AT",
    "PADDED",
    "VERSION",
    "CookieReply",
    "Geometry",
    "IdentityProof",
    "Initiation",
    "InitiationPayload",
    "LinkMessage",
    "MessageType",
    "Notice",
    "Response",
    "ResponsePayload",
    "header",
    "parse_message",
]

VERSION: Final = 1


class MessageType(enum.IntEnum):
    """The first byte of every message."""

    INITIATION = 1
    RESPONSE = 2
    COOKIE_REPLY = 3
    CONFIRM = 4
    CLOSE = 5
    CHALLENGE = 6
    ECHO = 7
    OWN_ADDRESS = 8
    PROBE = 9
    PROBED = 10


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of all messages and their parts, in bytes."""

    header: int
    mac: int
    token: int
    cookie_nonce: int
    suite_slots: int
    initiation_payload: int
    response_payload: int
    initiation_noise: int
    response_noise: int
    initiation: int
    response: int
    cookie_reply: int
    notice: int

    @classmethod
    def compute(
        cls, *, mac: int = 16, token: int = 26, cookie_nonce: int = 16, suite_slots: int = 4
    ) -> Geometry:
        """Compute the sizes of the messages from the sizes of their fields."""
        message_header = 1 + 1 + 4
        proof = PUBLIC_KEY_BYTES + SIGNATURE_BYTES
        payload_1 = 8 + 4 + suite_slots + proof
        payload_2 = 1 + 4 + proof
        noise_1 = KEY_BYTES + KEY_BYTES + TAG_BYTES + payload_1 + TAG_BYTES
        noise_2 = KEY_BYTES + payload_2 + TAG_BYTES
        return cls(
            header=message_header,
            mac=mac,
            token=token,
            cookie_nonce=cookie_nonce,
            suite_slots=suite_slots,
            initiation_payload=payload_1,
            response_payload=payload_2,
            initiation_noise=noise_1,
            response_noise=noise_2,
            initiation=message_header + noise_1 + 2 * mac,
            response=message_header + noise_2 + mac,
            cookie_reply=message_header + cookie_nonce + mac + TAG_BYTES,
            notice=message_header + token + mac,
        )


GEOMETRY: Final = Geometry.compute()


def header(kind: MessageType, number: int) -> bytes:
    """Return type, version and the index or SPI that follows them."""
    return bytes((kind, VERSION)) + number.to_bytes(4, "big")


@dataclass(slots=True)  # not frozen, which would triple the time to make one
class Initiation:
    """Message 1 as received; ``encoded`` is the whole message."""

    sender_index: int
    noise: bytes
    mac1: bytes
    mac2: bytes
    encoded: bytes

    @property
    def authenticated(self) -> bytes:
        """The part that mac1 covers."""
        return self.encoded[: -2 * GEOMETRY.mac]

    @property
    def body(self) -> bytes:
        """The part that mac2 covers."""
        return self.encoded[: -GEOMETRY.mac]


@dataclass(frozen=True, slots=True)
class Response:
    """Message 2; ``mac`` proves at the cost of one hash that its sender has read message 1."""

    receiver_index: int
    noise: bytes
    mac: bytes = b""

    @property
    def authenticated(self) -> bytes:
        """The part that the mac covers."""
        return header(MessageType.RESPONSE, self.receiver_index) + self.noise

    def encode(self) -> bytes:
        """Return the bytes on the wire."""
        return self.authenticated + self.mac


@dataclass(slots=True)  # not frozen, which would triple the time to make one
class CookieReply:
    """The answer of a responder under load, which requires proof of the sender's address."""

    receiver_index: int
    nonce: bytes
    sealed: bytes

    def encode(self) -> bytes:
        """Return the bytes on the wire."""
        return header(MessageType.COOKIE_REPLY, self.receiver_index) + self.nonce + self.sealed


@dataclass(frozen=True, slots=True)
class Notice:
    """A message about one pair of SAs, which the inbound SPI of its receiver identifies.

    ``token`` is zero in CONFIRM and CLOSE. OWN_ADDRESS is an ECHO from a peer that knows the
    endpoint in the token to be its own. All notices except PROBE have one size, so that a challenge
    is no larger than the confirm that it answers. A PROBE is padded, and PROBED answers it
    (``overlay.link.mtu_probes``).
    """

    kind: MessageType
    receiver_spi: Spi
    token: bytes
    tag: bytes

    @property
    def authenticated(self) -> bytes:
        """The part that the tag covers."""
        return header(self.kind, self.receiver_spi) + self.token

    def encode(self) -> bytes:
        """Return the bytes on the wire."""
        return self.authenticated + self.tag


LinkMessage = Initiation | Response | CookieReply | Notice

_SIZES: Final = {
    MessageType.INITIATION: GEOMETRY.initiation,
    MessageType.RESPONSE: GEOMETRY.response,
    MessageType.COOKIE_REPLY: GEOMETRY.cookie_reply,
    MessageType.CONFIRM: GEOMETRY.notice,
    MessageType.CLOSE: GEOMETRY.notice,
    MessageType.CHALLENGE: GEOMETRY.notice,
    MessageType.ECHO: GEOMETRY.notice,
    MessageType.OWN_ADDRESS: GEOMETRY.notice,
    MessageType.PROBE: GEOMETRY.notice,
    MessageType.PROBED: GEOMETRY.notice,
}

MESSAGE_BYTES: Final = {bytes((kind, VERSION)): size for kind, size in _SIZES.items()}
"""The size in bytes of each message by its type and version; a probe may be larger."""

PADDED: Final = bytes((MessageType.PROBE, VERSION))
"""Type and version of the probe, the only message that may be padded."""

NUMBER_AT: Final = 2
"""Offset in bytes of the index or SPI in every message."""


def parse_message(data: bytes) -> LinkMessage:
    """Parse one message of the link channel.

    Raises:
        Malformed: the type or version is unknown, or the size is wrong for the type.
    """
    reader = ByteReader(data)
    kind_byte, version = reader.u8(), reader.u8()
    try:
        kind = MessageType(kind_byte)
    except ValueError as error:
        raise Malformed("unknown link message type") from error
    if kind is MessageType.PROBE:
        data = data[: _SIZES[kind]]
    if version != VERSION or len(data) != _SIZES[kind]:
        raise Malformed("a link message has another version or size")
    number = reader.u32()
    if kind is MessageType.INITIATION:
        macs = len(data) - 2 * GEOMETRY.mac
        mac1, mac2 = data[macs : -GEOMETRY.mac], data[-GEOMETRY.mac :]
        return Initiation(number, data[GEOMETRY.header : macs], mac1, mac2, data)
    if kind is MessageType.RESPONSE:
        return Response(number, reader.take(GEOMETRY.response_noise), reader.take(GEOMETRY.mac))
    if kind is MessageType.COOKIE_REPLY:
        nonce = reader.take(GEOMETRY.cookie_nonce)
        return CookieReply(number, nonce, reader.take(reader.remaining))
    token, tag = reader.take(GEOMETRY.token), reader.take(GEOMETRY.mac)
    return Notice(kind, _checked_spi(number), token, tag)


@dataclass(frozen=True, slots=True)
class IdentityProof:
    """A node's identity key and its signature over its link key."""

    identity_key: bytes
    signature: bytes

    def encode(self) -> bytes:
        """Return identity key (32) and signature (64)."""
        return self.identity_key + self.signature

    @classmethod
    def read(cls, reader: ByteReader) -> IdentityProof:
        """Read a proof from a payload, without verifying it."""
        return cls(reader.take(PUBLIC_KEY_BYTES), reader.take(SIGNATURE_BYTES))


@dataclass(frozen=True, slots=True)
class InitiationPayload:
    """The encrypted part of message 1; ``suites`` has 1 to 4 suites in order of preference."""

    timestamp_us: int
    inbound_spi: Spi
    suites: tuple[int, ...]
    proof: IdentityProof

    def encode(self) -> bytes:
        """Return the plaintext of payload 1."""
        slots = bytes(self.suites).ljust(GEOMETRY.suite_slots, b"\0")
        fixed = self.timestamp_us.to_bytes(8, "big") + self.inbound_spi.to_bytes(4, "big")
        return fixed + slots + self.proof.encode()

    @classmethod
    def parse(cls, data: bytes) -> InitiationPayload:
        """Parse the plaintext of payload 1.

        Raises:
            Malformed: the size is wrong, the SPI is reserved, or the suites are missing, repeated
                or not in the first slots.
        """
        reader = ByteReader(data)
        timestamp_us, spi = reader.u64(), _checked_spi(reader.u32())
        slots = reader.take(GEOMETRY.suite_slots)
        suites = tuple(slots.rstrip(b"\0"))
        if not suites or 0 in suites or len(set(suites)) != len(suites):
            raise Malformed("an initiation must offer distinct suites, unused slots last")
        proof = IdentityProof.read(reader)
        reader.end()
        return cls(timestamp_us, spi, suites, proof)


@dataclass(frozen=True, slots=True)
class ResponsePayload:
    """The encrypted part of message 2, with the suite and SPI that the responder chose."""

    suite: int
    inbound_spi: Spi
    proof: IdentityProof

    def encode(self) -> bytes:
        """Return the plaintext of payload 2."""
        return bytes((self.suite,)) + self.inbound_spi.to_bytes(4, "big") + self.proof.encode()

    @classmethod
    def parse(cls, data: bytes) -> ResponsePayload:
        """Parse the plaintext of payload 2.

        Raises:
            Malformed: the size is wrong, or the SPI is reserved.
        """
        reader = ByteReader(data)
        suite, spi = reader.u8(), _checked_spi(reader.u32())
        proof = IdentityProof.read(reader)
        reader.end()
        return cls(suite, spi, proof)


def _checked_spi(number: int) -> Spi:
    if number < MIN_SPI:
        raise Malformed("an SPI below 256 is reserved")
    return Spi(number)
