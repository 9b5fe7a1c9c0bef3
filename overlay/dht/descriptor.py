"""The Mix descriptor: what a node signs and publishes about itself.

``UnverifiedDescriptor`` is what came from the network or the disk; only
:meth:`UnverifiedDescriptor.verify` makes a ``MixDescriptor`` of it, and only those enter
the Mix-nodes Topology Table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from overlay.addresses import Endpoint, NodeId, OverlayAddress
from overlay.exit_policy import ExitPolicy
from overlay.identity import node_id_of, overlay_address_of

__all__ = ["MAX_DESCRIPTOR_BYTES", "MixDescriptor", "OnionKey", "Role"]

MAX_DESCRIPTOR_BYTES: Final = 1000
"""Encoded size with signature: one stays within one DHT datagram of 1,200 bytes."""


class Role(enum.Enum):
    """What a Mix-node is willing to do."""

    RELAY = "relay"
    EXIT = "exit"


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
        """Return the public key for an onion suite, or None if the node does not speak it."""
        for key in self.onion_keys:
            if key.suite == suite:
                return key.public
        return None
