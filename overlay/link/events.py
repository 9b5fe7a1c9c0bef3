"""Links as values: whom to reach, what a handshake yields, what happened."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from overlay.addresses import Endpoint, NodeId, OverlayAddress
from overlay.ipsec.interface import Spi
from overlay.sensitive import SecretBytes

__all__ = [
    "LinkClosed",
    "LinkEstablished",
    "LinkEvent",
    "LinkFailed",
    "LinkFailure",
    "LinkKeys",
    "LinkPeer",
    "LinkSaRemoved",
    "LinkSaRetired",
    "LinkSizeFound",
]


@dataclass(frozen=True, slots=True)
class LinkPeer:
    """All that one needs to know of a node to open a link to it.

    The overlay address is a hash of the identity key, which the peer proves in the
    handshake: a wrong link key or endpoint makes the handshake fail, nothing more. ``others``
    are further endpoints of the peer, as of its other IP version, in the order to try them.
    """

    overlay_address: OverlayAddress
    link_key: bytes
    endpoint: Endpoint
    others: tuple[Endpoint, ...] = ()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints, each once, in the order to try them."""
        return tuple(dict.fromkeys((self.endpoint, *self.others)))


@dataclass(frozen=True, slots=True)
class LinkKeys:
    """One pair of link SAs: the receiver of each chose its SPI, as in IKE (RFC 7296, 2.17)."""

    suite: int
    inbound_spi: Spi
    inbound_keymat: SecretBytes
    outbound_spi: Spi
    outbound_keymat: SecretBytes


class LinkFailure(enum.Enum):
    """Why a link could not be had, or ended."""

    TIMED_OUT = "the peer did not answer"
    NOT_AUTHENTIC = "the peer is not who it should be"
    REFUSED = "the peer refused"
    LIMIT = "too many links"
    IDLE = "no circuit used it"
    PEER_CLOSED = "the peer closed it"
    SHUTDOWN = "the node stops"


@dataclass(frozen=True, slots=True)
class LinkEstablished:
    """A pair of SAs is agreed: install both, send on the outbound one when ``usable``.

    The first event for a peer opens the link; later ones (``rekeyed``) replace its SAs
    make-before-break. ``usable`` is False for the responder until the initiator has proved
    with a first packet that it holds the keys (then :class:`LinkEstablished` comes again
    with ``usable`` True and the same SPIs).
    """

    overlay_address: OverlayAddress
    node_id: NodeId
    endpoint: Endpoint
    keys: LinkKeys
    usable: bool
    rekeyed: bool


@dataclass(frozen=True, slots=True)
class LinkSaRetired:
    """Nothing is sent on an older pair any more: remove its outbound SA, and no other.

    An engine that chose among several outbound SAs by rules of its own might else go back to
    this one (the Linux kernel does, once the newer one has reached its soft limit), after the
    peer has ceased to receive on it.
    """

    overlay_address: OverlayAddress
    inbound_spi: Spi


@dataclass(frozen=True, slots=True)
class LinkSaRemoved:
    """An older pair of SAs has had its grace period: remove it."""

    overlay_address: OverlayAddress
    inbound_spi: Spi
    outbound_spi: Spi


@dataclass(frozen=True, slots=True)
class LinkFailed:
    """A link that was asked for could not be opened."""

    overlay_address: OverlayAddress
    reason: LinkFailure


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """A link is gone, with all its SAs."""

    overlay_address: OverlayAddress
    reason: LinkFailure


@dataclass(frozen=True, slots=True)
class LinkSizeFound:
    """Datagrams to the peer may have so many bytes of UDP payload from now on."""

    overlay_address: OverlayAddress
    datagram_bytes: int


LinkEvent = (
    LinkEstablished | LinkSaRetired | LinkSaRemoved | LinkFailed | LinkClosed | LinkSizeFound
)
