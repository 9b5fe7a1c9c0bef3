"""The link handshake between two authenticated identities, with one type for each phase.

::

    initiator                                             responder
    SentInitiation.create()   --- initiation --->   OpenedInitiation.open()
                                                      timestamp checked by the caller
                                                    .verify() -> VerifiedInitiation
                              <--- response ----    .respond() -> Agreement
    .complete() -> Agreement

Noise IK proves the link keys. Each side also sends its identity key and a signature of that key
over its link key. The node id and the overlay address follow from the identity key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from overlay.addresses import NodeId, OverlayAddress
from overlay.errors import Malformed, NotAuthentic, Refused
from overlay.identity import LocalIdentity, node_id_of, overlay_address_of, verify_signature
from overlay.ipsec.interface import Spi
from overlay.link.events import LinkPeer
from overlay.link.handshake import (
    GEOMETRY,
    VERSION,
    IdentityProof,
    Initiation,
    InitiationPayload,
    MessageType,
    Response,
    ResponsePayload,
    header,
)
from overlay.link.keymat import PairSecrets, derive_pair
from overlay.link.noise import InitiatorAwaiting, ResponderAnswering, begin, read_initiation

__all__ = [
    "LINK_SUITES",
    "Agreement",
    "Credentials",
    "OpenedInitiation",
    "SentInitiation",
    "VerifiedInitiation",
    "WrongIdentity",
]

LINK_SUITES: Final = frozenset({1, 2, 3, 4})
"""The AEAD suites of :mod:`overlay.ipsec.suites`. Links do not need the older suites."""

_PROLOGUE_LABEL: Final = b"overlay link v1"
_IDENTITY_LABEL: Final = b"overlay link key v1"


class WrongIdentity(NotAuthentic):
    """The responder has the expected link key, but another identity."""


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """The keys, signature and suites that a node uses in every handshake, computed once."""

    link_private: X25519PrivateKey
    link_key: bytes
    overlay_address: OverlayAddress
    proof: IdentityProof
    network_hash: bytes
    suites: tuple[int, ...]

    @classmethod
    def of(cls, identity: LocalIdentity, network_id: str, suites: Sequence[int]) -> Credentials:
        """Prepare the credentials of ``identity`` in one network.

        Raises:
            ValueError: ``suites`` is empty, has one twice, or has one that links do not use.
        """
        chosen = tuple(suites)
        if not chosen or len(set(chosen)) != len(chosen) or not LINK_SUITES.issuperset(chosen):
            raise ValueError("links need distinct ESP suites from 1 to 4, at least one.")
        signature = identity.sign(_IDENTITY_LABEL + identity.link_key)
        return cls(
            link_private=X25519PrivateKey.from_private_bytes(identity.link_private.reveal()),
            link_key=identity.link_key,
            overlay_address=identity.overlay_address,
            proof=IdentityProof(identity.identity_key, signature),
            network_hash=hashlib.sha256(network_id.encode()).digest(),
            suites=chosen,
        )

    def prologue(self, sender_index: int) -> bytes:
        """Return the Noise prologue: protocol, version, network and the header of message 1."""
        index = header(MessageType.INITIATION, sender_index)
        return _PROLOGUE_LABEL + bytes((VERSION,)) + self.network_hash + index


@dataclass(frozen=True, slots=True)
class Agreement:
    """The result of a handshake for one side: an authenticated peer and the keys of the pair."""

    overlay_address: OverlayAddress
    node_id: NodeId
    link_key: bytes
    secrets: PairSecrets


@dataclass(frozen=True, slots=True, repr=False)
class SentInitiation:
    """An initiation that awaits its response; ``message`` lacks the two MACs."""

    credentials: Credentials
    peer: LinkPeer
    index: int
    inbound_spi: Spi
    message: bytes
    _noise: InitiatorAwaiting

    @classmethod
    def create(
        cls,
        credentials: Credentials,
        peer: LinkPeer,
        *,
        index: int,
        inbound_spi: Spi,
        timestamp_us: int,
        ephemeral: bytes,
    ) -> SentInitiation:
        """Write an initiation to ``peer``.

        Args:
            credentials: of this node.
            peer: the responder.
            index: 32 random bits that the response repeats.
            inbound_spi: the SPI on which this node will receive.
            timestamp_us: Unix time, greater than in all earlier initiations of this link key.
            ephemeral: 32 new random bytes.

        Raises:
            NotAuthentic: the peer's link key cannot be used.
        """
        payload = InitiationPayload(
            timestamp_us, inbound_spi, credentials.suites, credentials.proof
        )
        noise, message = begin(
            credentials.link_private,
            ephemeral,
            peer.link_key,
            credentials.prologue(index),
            payload.encode(),
        )
        whole = header(MessageType.INITIATION, index) + message
        return cls(credentials, peer, index, inbound_spi, whole, noise)

    def is_from_responder(self, response: Response) -> bool:
        """Tell at the cost of one hash whether a response comes from the reader of this initiation.

        Without this check a forged response would cost two key exchanges. An observer that knows
        the index can send many of them.
        """
        return hmac.compare_digest(response.mac, _response_mac(self._noise.binding(), response))

    def complete(self, response: Response) -> Agreement:
        """Read the response. A forged one has no effect, so the genuine one can still be read.

        Raises:
            NotAuthentic: the sender does not have the peer's link key, or it answers another
                initiation.
            WrongIdentity: the sender has the link key, but another identity than the peer.
            Malformed: the sender has the link key, but the response violates the protocol.
        """
        if not self.is_from_responder(response):
            raise NotAuthentic("the mac of a handshake response does not fit")
        split, plaintext = self._noise.complete(response.noise)
        payload = ResponsePayload.parse(plaintext)
        _verify_proof(payload.proof, self.peer.link_key)
        if overlay_address_of(payload.proof.identity_key) != self.peer.overlay_address:
            raise WrongIdentity("the peer is another node than the one that was meant")
        if payload.suite not in self.credentials.suites:
            raise Malformed("the peer chose a suite that was not offered")
        secrets = derive_pair(
            split,
            suite=payload.suite,
            initiator_spi=self.inbound_spi,
            responder_spi=payload.inbound_spi,
            initiator=True,
        )
        node_id = node_id_of(payload.proof.identity_key)
        return Agreement(self.peer.overlay_address, node_id, self.peer.link_key, secrets)


@dataclass(frozen=True, slots=True, repr=False)
class OpenedInitiation:
    """A decrypted initiation. Its link key is proved, but not its age and its identity."""

    payload: InitiationPayload
    receiver_index: int
    _noise: ResponderAnswering

    @classmethod
    def open(cls, credentials: Credentials, initiation: Initiation) -> OpenedInitiation:
        """Decrypt an initiation to this node.

        Raises:
            NotAuthentic: it is for another node or network, or its sender does not have the private
                key of its link key.
            Malformed: the plaintext is not a payload.
        """
        prologue = credentials.prologue(initiation.sender_index)
        noise = read_initiation(credentials.link_private, prologue, initiation.noise)
        payload = InitiationPayload.parse(noise.payload)
        return cls(payload, initiation.sender_index, noise)

    @property
    def link_key(self) -> bytes:
        """The initiator's static key."""
        return self._noise.initiator_static

    def verify(self) -> VerifiedInitiation:
        """Check the signature of the identity key in the payload over the link key.

        Raises:
            NotAuthentic: the signature is not valid.
        """
        _verify_proof(self.payload.proof, self.link_key)
        identity_key = self.payload.proof.identity_key
        return VerifiedInitiation(
            overlay_address_of(identity_key), node_id_of(identity_key), self, self._noise
        )


@dataclass(frozen=True, slots=True, repr=False)
class VerifiedInitiation:
    """An initiation from an authenticated node."""

    overlay_address: OverlayAddress
    node_id: NodeId
    opened: OpenedInitiation
    _noise: ResponderAnswering

    def choose_suite(self, credentials: Credentials) -> int:
        """Return the first of the initiator's suites that this node supports.

        Raises:
            Refused: this node supports none of them.
        """
        for suite in self.opened.payload.suites:
            if suite in credentials.suites:
                return suite
        raise Refused("the initiator offers no suite that we speak")

    def respond(
        self, credentials: Credentials, *, suite: int, inbound_spi: Spi, ephemeral: bytes
    ) -> tuple[Agreement, Response]:
        """Write the response; the initiator has not yet proved that it holds the keys.

        Raises:
            NotAuthentic: the initiator's ephemeral key cannot be used.
        """
        payload = ResponsePayload(suite, inbound_spi, credentials.proof)
        split, message = self._noise.respond(ephemeral, payload.encode())
        secrets = derive_pair(
            split,
            suite=suite,
            initiator_spi=self.opened.payload.inbound_spi,
            responder_spi=inbound_spi,
            initiator=False,
        )
        agreement = Agreement(self.overlay_address, self.node_id, self.opened.link_key, secrets)
        unsigned = Response(self.opened.receiver_index, message)
        mac = _response_mac(self._noise.binding(), unsigned)
        return agreement, Response(self.opened.receiver_index, message, mac)


def _response_mac(binding: bytes, response: Response) -> bytes:
    return hashlib.blake2s(response.authenticated, digest_size=GEOMETRY.mac, key=binding).digest()


def _verify_proof(proof: IdentityProof, link_key: bytes) -> None:
    verify_signature(proof.identity_key, proof.signature, _IDENTITY_LABEL + link_key)
