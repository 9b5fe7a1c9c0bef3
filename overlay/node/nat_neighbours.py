"""Exchange local endpoints with nodes behind the same NAT, so that links can use them.

A descriptor never names a private address. Two nodes that publish the same outside address learn
each other's local endpoints through meeting places (``overlay.dht.meetings``): signed by the one,
sealed to the other (HPKE, RFC 9180), and only after two places have seen both at that address.
Links try these endpoints first; the handshake proves that the right node is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overlay.addresses import Endpoint, NodeId, OverlayAddress, version_of
from overlay.apm.crypto import X25519_SUITE, OnionPrivateKey, nesm_decrypt_data, nesm_encrypt_data
from overlay.dht.admission import host_allowed
from overlay.dht.descriptor import CLOCK_SKEW_S, MAX_ENDPOINTS, MixDescriptor
from overlay.dht.help_messages import MAX_SEALED_BYTES
from overlay.dht.meeting_place import KEPT_S
from overlay.dht.meetings import MAX_NEIGHBOURS, Neighbour, places_of
from overlay.dht.messages import Contact
from overlay.errors import Malformed, NotAuthentic, PeerError, Replayed
from overlay.identity import SIGNATURE_BYTES, LocalIdentity, verify_signature
from overlay.logs import EventLog
from overlay.node.node_cores import NodeCores
from overlay.node.own_endpoints import OwnEndpoints
from overlay.wire import pack_canonical, unpack_bounded

__all__ = ["NatNeighbours", "open_location", "seal_location"]

_LABEL: Final = b"overlay local endpoints v1"
_OLDEST_S: Final = KEPT_S + CLOCK_SKEW_S

_log = EventLog(__name__)


class NatNeighbours:
    """Owner of the local endpoints that neighbours have told; empty unless this node is behind NAT.

    Args:
        identity: signs, and opens what is sealed to this node.
        network_id: what is signed counts in this network only.
        cores: its DHT meets neighbours, and its links use what they tell.
        endpoints: where this node is.
    """

    def __init__(
        self,
        identity: LocalIdentity,
        network_id: str,
        cores: NodeCores,
        endpoints: OwnEndpoints,
    ) -> None:
        self._identity = identity
        self._network_id = network_id
        self._dht = cores.dht
        self._meetings = cores.dht.reachability.meetings
        self._links = cores.links
        self._table = cores.table
        self._own = endpoints
        self._onion_key = OnionPrivateKey(X25519_SUITE, identity.onion_private)
        self._known: dict[NodeId, tuple[Endpoint, ...]] = {}
        self._told: tuple[Endpoint, ...] = ()
        self._meetings.serve(self._seal, self._found)
        cores.nearby = self.endpoints

    def endpoints(self, overlay_address: OverlayAddress) -> tuple[Endpoint, ...]:
        """Return the local endpoints of a neighbour, none if it is none."""
        descriptor = self._table.by_overlay_address(overlay_address) if self._known else None
        return self._known.get(descriptor.node_id, ()) if descriptor is not None else ()

    def review(self, now: float) -> None:
        """Look for nodes that publish an outside address of this one."""
        here = self._own.now
        if here.local != self._told:
            self._told = here.local
            self._meetings.again(now)
        own = {each.packed for each in here.own}
        outside = {
            each.packed
            for each in here.published
            if version_of(each) == 4 and each.packed not in own
        }
        if not (outside and here.local and 4 in self._dht.versions):
            self._meetings.follow((), now)
            return
        self._meetings.follow(self._neighbours(outside), now)

    def _neighbours(self, outside: set[bytes]) -> list[Neighbour]:
        found: list[Neighbour] = []
        others: list[Contact] | None = None
        for mix in self._table:
            shared = next((e.packed for e in mix.endpoints if e.packed in outside), None)
            if shared is None or mix.node_id == self._identity.node_id:
                continue
            others = self._others() if others is None else others
            places = places_of(self._network_id, shared, others)
            found.append(Neighbour(mix.node_id, tuple(places)))
            if len(found) == MAX_NEIGHBOURS:
                break
        return found

    def _others(self) -> list[Contact]:
        own_id = self._identity.node_id
        return [
            Contact.of(mix.identity_key, endpoint)
            for mix in self._table
            if mix.node_id != own_id
            for endpoint in mix.endpoints
            if version_of(endpoint) == 4
        ]

    def _seal(self, target: NodeId, now: float) -> bytes:
        descriptor = self._table.get(target)
        if descriptor is None:
            return b""
        local = self._own.now.local[:MAX_ENDPOINTS]
        return seal_location(self._identity, self._network_id, descriptor, local, now)

    def _found(self, neighbour: NodeId, sealed: Sequence[bytes], now: float) -> bool:
        descriptor = self._table.get(neighbour)
        told: tuple[Endpoint, ...] = ()
        for each in sealed if descriptor is not None else ():
            try:
                told = open_location(
                    self._onion_key, self._identity, self._network_id, descriptor, each, now
                )
                break
            except PeerError:
                continue
        own = self._own.now.own
        self._keep(neighbour, tuple(each for each in told if each not in own))
        return bool(told)

    def _keep(self, neighbour: NodeId, told: tuple[Endpoint, ...]) -> None:
        before = self._known.pop(neighbour, ())
        if told:
            self._known[neighbour] = told
            if not before:
                _log.info("nat.neighbour_found", neighbours=len(self._known))
        self._links.endpoints.local = frozenset(
            each.packed for endpoints in self._known.values() for each in endpoints
        )


def seal_location(
    identity: LocalIdentity,
    network_id: str,
    target: MixDescriptor,
    endpoints: Sequence[Endpoint],
    now: float,
) -> bytes:
    """Sign local endpoints and seal them to another node; empty if its key is not usable."""
    key = target.onion_key(X25519_SUITE)
    body = pack_canonical([int(now), [[each.packed, each.port] for each in endpoints]])
    signature = identity.sign(_signed(network_id, identity.node_id, target.node_id, body))
    try:
        return nesm_encrypt_data(X25519_SUITE, key or b"", body + signature, _LABEL)
    except NotAuthentic:
        return b""


def open_location(
    onion_key: OnionPrivateKey,
    identity: LocalIdentity,
    network_id: str,
    sender: MixDescriptor | None,
    sealed: bytes,
    now: float,
) -> tuple[Endpoint, ...]:
    """Return the local endpoints that ``sender`` has signed for this node.

    Raises:
        NotAuthentic: sealed to another node, or signed by another one.
        Replayed: signed more than 20 minutes ago.
        Malformed: no list of one to four private IPv4 endpoints.
    """
    if sender is None:
        raise NotAuthentic("the sender is not known")
    opened = nesm_decrypt_data(onion_key, sealed, _LABEL)
    body, signature = opened[:-SIGNATURE_BYTES], opened[-SIGNATURE_BYTES:]
    signed = _signed(network_id, sender.node_id, identity.node_id, body)
    verify_signature(sender.identity_key, signature, signed)
    match unpack_bounded(body, max_bytes=MAX_SEALED_BYTES):
        case [int() as signed_at, list() as pairs] if 1 <= len(pairs) <= MAX_ENDPOINTS:
            if abs(now - signed_at) > _OLDEST_S:
                raise Replayed("the endpoints were signed long ago")
            return tuple(map(_local_endpoint, pairs))
        case _:
            raise Malformed("local endpoints are a time and one to four pairs")


def _local_endpoint(pair: object) -> Endpoint:
    match pair:
        case [bytes() as packed, int() as port] if len(packed) == 4 and 1 <= port <= 65535:
            endpoint = Endpoint.from_packed(packed, port)
        case _:
            raise Malformed("a local endpoint is a pair of IPv4 address and port")
    address = endpoint.address
    local = not (address.is_global or address.is_loopback or address.is_link_local)
    # A neighbour that lies must not lead this node to addresses outside of the local network.
    if not (local and host_allowed(endpoint.host, allow_private=True)):
        raise Malformed("a local endpoint is at a private address")
    return endpoint


def _signed(network_id: str, sender: NodeId, target: NodeId, body: bytes) -> bytes:
    return pack_canonical([_LABEL, network_id, sender, target, body])
