"""The values of the links core: the peer to reach, the keys of a pair, and the events."""

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
    """All that is needed to open a link to a node.

    The overlay address is a hash of the identity key, and the peer proves that key in the
    handshake. So a wrong link key or endpoint only makes the handshake fail. ``others`` has
    further endpoints of the peer, such as those of its other IP version, in the order to try them.
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
    """The keys of a pair. The receiver of each SA chose its SPI, as in IKE (RFC 7296, 2.17)."""

    suite: int
    inbound_spi: Spi
    inbound_keymat: SecretBytes
    outbound_spi: Spi
    outbound_keymat: SecretBytes


class LinkFailure(enum.Enum):
    """Why a link could not be opened, or why it closed."""

    TIMED_OUT = "the peer did not answer"
    NOT_AUTHENTIC = "the peer is not who it should be"
    REFUSED = "the peer refused"
    LIMIT = "too many links"
    IDLE = "no circuit used it"
    PEER_CLOSED = "the peer closed it"
    SHUTDOWN = "the node stops"


@dataclass(frozen=True, slots=True)
class LinkEstablished:
    """A pair of SAs is agreed: install both, and send on the outbound one if ``usable``.

    The first event for a peer opens the link. Later ones, with ``rekeyed``, add new SAs before the
    older ones are removed. At the responder ``usable`` is False until the initiator has proved
    that it has the keys. Then the event follows again with ``usable`` True and the same SPIs.
    """

    overlay_address: OverlayAddress
    node_id: NodeId
    endpoint: Endpoint
    keys: LinkKeys
    usable: bool
    rekeyed: bool


@dataclass(frozen=True, slots=True)
class LinkSaRetired:
    """A newer pair carries all packets: remove the outbound SA of this one, and only that.

    The Linux kernel returns to this SA if the newer one has reached its soft limit. By then the
    peer may no longer receive on it.
    """

    overlay_address: OverlayAddress
    inbound_spi: Spi


@dataclass(frozen=True, slots=True)
class LinkSaRemoved:
    """The time of a retired pair is over: remove both SAs."""

    overlay_address: OverlayAddress
    inbound_spi: Spi
    outbound_spi: Spi


@dataclass(frozen=True, slots=True)
class LinkFailed:
    """A requested link could not be opened."""

    overlay_address: OverlayAddress
    reason: LinkFailure


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """A link is closed: remove all its SAs."""

    overlay_address: OverlayAddress
    reason: LinkFailure


@dataclass(frozen=True, slots=True)
class LinkSizeFound:
    """From now on, datagrams to the peer may have ``datagram_bytes`` bytes of UDP payload."""

    overlay_address: OverlayAddress
    datagram_bytes: int


LinkEvent = (
    LinkEstablished | LinkSaRetired | LinkSaRemoved | LinkFailed | LinkClosed | LinkSizeFound
)
