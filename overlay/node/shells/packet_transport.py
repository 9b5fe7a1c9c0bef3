"""What the cores need of the backend that carries packets.

There are two implementations: :mod:`.userspace_transport` gives batches of packets to the userspace
engine. With :mod:`.kernel_transport` the Linux kernel processes all packets except control packets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from overlay.addresses import Endpoint
from overlay.ipsec.interface import Drop, IpsecBackend, IpsecConfiguration, SaIdentity
from overlay.ipsec.userspace.engine import AttackedLink, Processed

__all__ = ["Arrived", "DatagramSink", "NodeBackend", "PacketEngine", "PacketTransport"]


class DatagramSink(Protocol):
    """Sends datagrams from the UDP port. A full buffer drops and counts them, as a network does."""

    def send_batch(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send without waiting."""
        ...

    def send_whole(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send datagrams without waiting, and forbid their fragmentation."""
        ...


class NodeBackend(IpsecBackend, Protocol):
    """An IPsec backend as a node uses it: it also reports expired SAs and drops."""

    def relocate(
        self, pairs: Sequence[IpsecConfiguration], local: Endpoint, remote: Endpoint
    ) -> list[IpsecConfiguration] | None:
        """Move all SAs of one link to other endpoints.

        Returns:
            The installed configurations, in the same order, or None if this backend cannot do it.

        Raises:
            ValueError: an outbound SA to that endpoint is the same.
            BackendError: the operating system refused.
        """
        ...

    def limit_link(self, reqid: int, datagram_bytes: int) -> None:
        """Let link SAs of this reqid make no larger datagrams, if this backend can do that.

        ``datagram_bytes`` counts from SPI to ICV.
        """
        ...

    def soft_expired(self) -> list[SaIdentity]:
        """Return the SAs whose soft lifetime ended since the last call, each once."""
        ...

    def drops(self) -> dict[Drop, int]:
        """Return how many packets were dropped since the start, by reason."""
        ...

    def association_counts(self) -> dict[str, int]:
        """Return how many SAs are installed, by kind; the user sees it."""
        ...


class PacketEngine(NodeBackend, Protocol):
    """A backend that processes batches of packets in this process."""

    @property
    def has_soft_expired(self) -> bool:
        """Whether :meth:`soft_expired` has SAs to return."""
        ...

    def process_inbound(
        self,
        datagrams: Sequence[tuple[bytes, Endpoint]],
        now: float,
        *,
        defer_doubtful: bool = False,
    ) -> Processed:
        """Open ESP datagrams; ``defer_doubtful`` is as for :meth:`PacketTransport.from_network`."""
        ...

    def process_outbound(self, packets: Sequence[bytes], now: float) -> Processed:
        """Seal IP packets of this host into the tunnels of their OUT policy."""
        ...

    def attacked_links(self) -> list[AttackedLink]:
        """Return the installed link SAs that received many forged packets."""
        ...

    def dummy(self, reqid: int, now: float) -> tuple[bytes, Endpoint] | None:
        """Return one dummy packet for a link; None if the link cannot send."""
        ...


@dataclass(slots=True)
class Arrived:
    """What the cores learn of received packets.

    Attributes:
        to_control: IPv6 packets for an overlay or circuit address of this host that passed its
            inbound policies.
        worn: SAs must be replaced now, and not at the next deadline.
        idle: no packet resulted from the batch, so all of it may have been garbage.
        deferred: datagrams that the caller has to pass again.
        attacked: links that received many forged packets.
        moved: by the inbound SPI of a link, the other endpoint from which authentic packets came.
    """

    to_control: list[bytes] = field(default_factory=list)
    worn: bool = False
    idle: bool = False
    deferred: list[tuple[bytes, Endpoint]] = field(default_factory=list)
    attacked: list[AttackedLink] = field(default_factory=list)
    moved: Mapping[int, Endpoint] = field(default_factory=dict)


class PacketTransport(Protocol):
    """Carries packets of this node to the network, and control packets to its cores."""

    def from_network(
        self,
        datagrams: Sequence[tuple[bytes, Endpoint]],
        now: float,
        *,
        defer_doubtful: bool = False,
    ) -> Arrived:
        """Process ESP datagrams that reached the node's own socket.

        With ``defer_doubtful``, doubtful datagrams of a link under attack are returned: their
        endpoint is not the peer's, or their sequence number is far ahead.
        """
        ...

    def send(self, packets: Sequence[bytes], now: float) -> None:
        """Seal IPv6 packets between overlay and circuit addresses, and send them."""
        ...

    def send_dummy(self, reqid: int, now: float) -> None:
        """Send one dummy packet on a link, if it is up."""
        ...

    def counters(self) -> dict[str, int]:
        """Return the counters that the user sees."""
        ...
