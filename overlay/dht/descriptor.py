"""The Mix descriptor: what a node signs and publishes about itself.

``UnverifiedDescriptor`` is what came from the network or the disk; only
:meth:`UnverifiedDescriptor.verify` makes a ``MixDescriptor`` of it, and only those enter
the Mix-nodes Topology Table.

::

    bytes ──parse──> UnverifiedDescriptor ──verify(network, now)──> MixDescriptor
                                                                        │ .encoded
    LocalIdentity ──sign_descriptor──> MixDescriptor                    └──> bytes

Encoded form (``docs/formats/mix-descriptor.md``): one canonical msgpack list, the body,
followed by the 64 bytes of an Ed25519 signature over a label and the body.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from overlay.addresses import Endpoint, NodeId, OverlayAddress
from overlay.errors import Malformed, NotAuthentic, Replayed
from overlay.exit_policy import ExitPolicy
from overlay.identity import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    LocalIdentity,
    node_id_of,
    overlay_address_of,
    verify_signature,
)
from overlay.special_networks import forbidden_network
from overlay.wire import pack_canonical, unpack_bounded

__all__ = [
    "CLOCK_SKEW_S",
    "FORMAT_VERSION",
    "MAX_DESCRIPTOR_BYTES",
    "MAX_ENDPOINTS",
    "MAX_ESP_SUITES",
    "MAX_NETWORK_ID_CHARS",
    "MAX_ONION_KEYS",
    "MAX_VALIDITY_S",
    "MixDescriptor",
    "OnionKey",
    "Role",
    "UnverifiedDescriptor",
    "is_public",
    "sign_descriptor",
]

FORMAT_VERSION: Final = 1

MAX_DESCRIPTOR_BYTES: Final = 1000
"""Encoded size with signature. One descriptor fits one DHT datagram of 1,200 bytes."""

CLOCK_SKEW_S: Final = 600
"""How many seconds a publisher's clock may be ahead of ours."""

VALIDITY_S: Final = 3 * 3600
"""Time from ``valid_from`` to the expiry of the descriptors that nodes of this version sign."""

RESIGN_INTERVAL_S: Final = 3600.0
"""A descriptor is renewed when a third of its life is over, so that two renewals may fail."""

BACKDATED_S: Final = 60
"""``valid_from`` is this much before the signature, because clocks of other nodes may be behind."""

MAX_VALIDITY_S: Final = VALIDITY_S + CLOCK_SKEW_S
"""Three hours outlive two missed hourly publications; the skew lets ``valid_from`` lie behind."""

MAX_NETWORK_ID_CHARS: Final = 32
MAX_ONION_KEYS: Final = 4
MAX_ONION_KEY_BYTES: Final = 64
"""Limit for suites that this version does not know. Keys of known suites have a fixed size."""
MAX_ESP_SUITES: Final = 16
MAX_ENDPOINTS: Final = 4
MAX_BANDWIDTH_KBIT: Final = 2**32 - 1
MAX_SEQUENCE: Final = 2**64 - 1
MAX_TIME_S: Final = 2**40
"""Later than any real time, and small enough to be exact as a float."""

_LABEL: Final = b"overlay mix descriptor v1\0"
_BODY_FIELDS: Final = 13
_X25519_SUITE: Final = 1

_FIELD_PRIME: Final = 2**255 - 19
_SMALL_ORDER_U: Final = frozenset(
    {
        0,
        1,
        _FIELD_PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)
"""Points of Curve25519 whose order divides 8: a key agreement with them gives all zeros
whatever the private key (RFC 7748, section 6.1). Other encodings of them reduce to these."""


class Role(enum.Enum):
    """The services that a Mix-node offers."""

    RELAY = "relay"
    EXIT = "exit"


_ROLE_BITS: Final = {Role.RELAY: 1, Role.EXIT: 2}


@dataclass(frozen=True, slots=True)
class OnionKey:
    """A public key for one onion suite (``overlay.apm.crypto`` numbers the suites)."""

    suite: int
    public: bytes


@dataclass(frozen=True, slots=True)
class MixDescriptor:
    """A verified descriptor. Times are Unix seconds, bandwidth is in kbit/s.

    ``encoded`` is the exact signed form, which is what is stored and passed on.
    """

    network_id: str
    identity_key: bytes
    onion_keys: tuple[OnionKey, ...]
    link_key: bytes
    esp_suites: tuple[int, ...]
    endpoints: tuple[Endpoint, ...]
    roles: frozenset[Role]
    exit_policy: ExitPolicy | None
    bandwidth_kbit: int
    sequence: int
    valid_from: int
    expires: int
    encoded: bytes

    @property
    def node_id(self) -> NodeId:
        """The node's place in Kademlia's key space, and the DHT key of this descriptor."""
        return node_id_of(self.identity_key)

    @property
    def overlay_address(self) -> OverlayAddress:
        """The node's address inside the overlay."""
        return overlay_address_of(self.identity_key)

    def onion_key(self, suite: int) -> bytes | None:
        """Return the public key for an onion suite, or None if the node does not support it."""
        for key in self.onion_keys:
            if key.suite == suite:
                return key.public
        return None


@dataclass(frozen=True, slots=True)
class UnverifiedDescriptor:
    """A well-formed descriptor that any node may have made. Its properties are unproved claims."""

    _claimed: MixDescriptor

    @classmethod
    def parse(cls, data: bytes) -> UnverifiedDescriptor:
        """Check the form and the bounds of every field; costs no signature check.

        Raises:
            Malformed: too large, not canonical, of an unknown version, or a field is out of
                its bounds.
        """
        if not SIGNATURE_BYTES < len(data) <= MAX_DESCRIPTOR_BYTES:
            raise Malformed(f"a descriptor takes at most {MAX_DESCRIPTOR_BYTES} bytes")
        body = unpack_bounded(data[:-SIGNATURE_BYTES], max_bytes=MAX_DESCRIPTOR_BYTES)
        return cls(_decode_body(body, bytes(data)))

    @property
    def node_id(self) -> NodeId:
        """The claimed node id, which is enough to refuse it under another DHT key."""
        return self._claimed.node_id

    @property
    def sequence(self) -> int:
        """The claimed sequence number: enough to skip one that is known already."""
        return self._claimed.sequence

    @property
    def expires(self) -> int:
        """The claimed end of its validity in Unix seconds."""
        return self._claimed.expires

    def verify(self, *, network_id: str, now: float) -> MixDescriptor:
        """Check network, validity and signature, cheapest first.

        The publisher's clock may run ahead by ``CLOCK_SKEW_S``; at the end no tolerance is
        given, as a fresher descriptor has been published long before.

        Args:
            network_id: the network that this node belongs to.
            now: Unix seconds.

        Raises:
            Malformed: it belongs to another network.
            Replayed: it has expired, or is not valid yet.
            NotAuthentic: the signature does not fit.
        """
        claimed = self._claimed
        if claimed.network_id != network_id:
            raise Malformed("the descriptor belongs to another network")
        if now >= claimed.expires:
            raise Replayed("the descriptor has expired")
        if now < claimed.valid_from - CLOCK_SKEW_S:
            raise Replayed("the descriptor is from the future")
        body = claimed.encoded[:-SIGNATURE_BYTES]
        verify_signature(claimed.identity_key, claimed.encoded[-SIGNATURE_BYTES:], _LABEL + body)
        return claimed


def sign_descriptor(
    identity: LocalIdentity,
    *,
    network_id: str,
    onion_keys: Iterable[OnionKey],
    esp_suites: Iterable[int],
    endpoints: Iterable[Endpoint],
    roles: Iterable[Role],
    exit_policy: ExitPolicy | None,
    bandwidth_kbit: int,
    sequence: int,
    valid_from: int,
    expires: int,
) -> MixDescriptor:
    """Sign a descriptor of this node; identity and link key are those of ``identity``.

    Times are whole Unix seconds. ``sequence`` must exceed that of every descriptor this
    identity has signed before.

    Raises:
        ValueError: a value is out of its bounds, or all together exceed
            ``MAX_DESCRIPTOR_BYTES`` (the exit policy is what grows).
    """
    body = [
        FORMAT_VERSION,
        network_id,
        identity.identity_key,
        [[key.suite, key.public] for key in onion_keys],
        identity.link_key,
        list(esp_suites),
        [_encode_endpoint(endpoint) for endpoint in endpoints],
        sum(_ROLE_BITS[role] for role in frozenset(roles)),
        None if exit_policy is None else exit_policy.encode(),
        bandwidth_kbit,
        sequence,
        valid_from,
        expires,
    ]
    try:
        packed = pack_canonical(body)
        encoded = packed + identity.sign(_LABEL + packed)
        # Parsing our own bytes applies each bound once, in one place.
        parsed = UnverifiedDescriptor.parse(encoded)
        return parsed.verify(network_id=network_id, now=valid_from)
    except (Malformed, NotAuthentic, OverflowError) as error:
        raise ValueError(f"this descriptor cannot be published: {error}") from error


def is_public(endpoint: Endpoint) -> bool:
    """Tell whether an endpoint lies outside every private, loopback or otherwise special range.

    Otherwise another node could name an address that makes this node send into its own network.
    """
    return forbidden_network(endpoint.address) is None


# -- the body's fields, in order -------------------------------------------------------


def _encode_endpoint(endpoint: Endpoint) -> list[object]:
    try:
        checked = Endpoint.parse(endpoint.host, endpoint.port)
    except Malformed as error:
        raise ValueError(f"this descriptor cannot be published: {error}") from error
    return [checked.packed, checked.port]


def _decode_body(body: object, encoded: bytes) -> MixDescriptor:
    fields = body if isinstance(body, list) else []
    if not fields or type(fields[0]) is not int or fields[0] != FORMAT_VERSION:
        raise Malformed("the descriptor has an unknown format version")
    if len(fields) != _BODY_FIELDS:
        raise Malformed(f"a descriptor has {_BODY_FIELDS} fields")
    roles = _roles(fields[7])
    valid_from, expires = _validity(fields[11], fields[12])
    return MixDescriptor(
        network_id=_network_id(fields[1]),
        identity_key=_curve_key(fields[2], "identity key"),
        onion_keys=_onion_keys(fields[3]),
        link_key=_x25519_key(fields[4], "link key"),
        esp_suites=_esp_suites(fields[5]),
        endpoints=_endpoints(fields[6]),
        roles=roles,
        exit_policy=_exit_policy(fields[8], roles),
        bandwidth_kbit=_integer(fields[9], 0, MAX_BANDWIDTH_KBIT, "bandwidth"),
        sequence=_integer(fields[10], 0, MAX_SEQUENCE, "sequence number"),
        valid_from=valid_from,
        expires=expires,
        encoded=encoded,
    )


def _integer(value: object, lowest: int, highest: int, what: str) -> int:
    if type(value) is not int or not lowest <= value <= highest:
        raise Malformed(f"the {what} must be an integer from {lowest} to {highest}")
    return value


def _list(value: object, at_most: int, what: str) -> list[object]:
    if not isinstance(value, list) or not 1 <= len(value) <= at_most:
        raise Malformed(f"a descriptor has 1 to {at_most} {what}")
    return value


def _distinct(values: Iterable[object], count: int, what: str) -> None:
    if len(set(values)) != count:
        raise Malformed(f"a descriptor names each of its {what} once")


def _network_id(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NETWORK_ID_CHARS:
        raise Malformed(f"the network id must have 1 to {MAX_NETWORK_ID_CHARS} characters")
    if not value.isascii() or not value.isprintable():
        raise Malformed("the network id must be printable ASCII")
    return value


def _curve_key(value: object, what: str) -> bytes:
    if not isinstance(value, bytes) or len(value) != PUBLIC_KEY_BYTES:
        raise Malformed(f"the {what} must have {PUBLIC_KEY_BYTES} bytes")
    return value


def _x25519_key(value: object, what: str) -> bytes:
    key = _curve_key(value, what)
    # X25519 ignores the top bit (RFC 7748, section 5).
    if (int.from_bytes(key, "little") % 2**255) % _FIELD_PRIME in _SMALL_ORDER_U:
        raise Malformed(f"the {what} is a point of small order")
    return key


def _onion_keys(value: object) -> tuple[OnionKey, ...]:
    keys = tuple(_onion_key(pair) for pair in _list(value, MAX_ONION_KEYS, "onion keys"))
    _distinct((key.suite for key in keys), len(keys), "onion suites")
    return keys


def _onion_key(pair: object) -> OnionKey:
    if not isinstance(pair, list) or len(pair) != 2:
        raise Malformed("an onion key is a pair of suite and key")
    suite = _integer(pair[0], 1, 255, "onion suite")
    if suite == _X25519_SUITE:
        return OnionKey(suite, _x25519_key(pair[1], "onion key"))
    if not isinstance(pair[1], bytes) or not 1 <= len(pair[1]) <= MAX_ONION_KEY_BYTES:
        raise Malformed(f"an onion key must have 1 to {MAX_ONION_KEY_BYTES} bytes")
    return OnionKey(suite, pair[1])


def _esp_suites(value: object) -> tuple[int, ...]:
    numbers = _list(value, MAX_ESP_SUITES, "ESP suites")
    suites = tuple(_integer(number, 1, 255, "ESP suite") for number in numbers)
    _distinct(suites, len(suites), "ESP suites")
    return suites


def _endpoints(value: object) -> tuple[Endpoint, ...]:
    endpoints = tuple(_endpoint(pair) for pair in _list(value, MAX_ENDPOINTS, "endpoints"))
    _distinct(endpoints, len(endpoints), "endpoints")
    return endpoints


def _endpoint(pair: object) -> Endpoint:
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], bytes):
        raise Malformed("an endpoint is a pair of packed address and port")
    endpoint = Endpoint.from_packed(pair[0], pair[1])
    address = endpoint.address
    if endpoint.packed != pair[0]:
        raise Malformed("an endpoint's IPv4 address must have 4 bytes")
    if address.is_multicast or address.is_unspecified or endpoint.host == "255.255.255.255":
        raise Malformed("an endpoint must be the address of one host")
    return endpoint


def _roles(value: object) -> frozenset[Role]:
    # No role: other nodes do not reach this node at present.
    bits = _integer(value, 0, sum(_ROLE_BITS.values()), "set of roles")
    return frozenset(role for role, bit in _ROLE_BITS.items() if bits & bit)


def _exit_policy(value: object, roles: frozenset[Role]) -> ExitPolicy | None:
    if (value is not None) != (Role.EXIT in roles):
        raise Malformed("an exit, and nobody else, has an exit policy")
    return None if value is None else ExitPolicy.decode(value)


def _validity(valid_from: object, expires: object) -> tuple[int, int]:
    start = _integer(valid_from, 0, MAX_TIME_S, "start of validity")
    end = _integer(expires, 0, MAX_TIME_S, "end of validity")
    if not 0 < end - start <= MAX_VALIDITY_S:
        raise Malformed(f"a descriptor is valid for at most {MAX_VALIDITY_S} seconds")
    return start, end
