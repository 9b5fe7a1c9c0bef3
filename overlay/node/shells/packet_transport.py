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
    """Where datagrams of the UDP port go; a full buffer drops and counts, as a network does."""

    def send_batch(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send without waiting."""
        ...

    def send_whole(self, batch: Sequence[tuple[bytes, Endpoint]]) -> None:
        """Send without waiting what must not be fragmented."""
        ...


class NodeBackend(IpsecBackend, Protocol):
    """An IPsec backend as a node runs it: beside enforcing, it tells what happened."""

    def relocate(
        self, pairs: Sequence[IpsecConfiguration], local: Endpoint, remote: Endpoint
    ) -> list[IpsecConfiguration] | None:
        """Let all SAs of one link go on between other endpoints.

        Returns:
            What is installed now, in the same order, or None if this backend cannot do that.

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
        """Return, once each, the SAs that want to be replaced since the last call."""
        ...

    def drops(self) -> dict[Drop, int]:
        """Return how many packets were dropped so far, by reason."""
        ...

    def association_counts(self) -> dict[str, int]:
        """Return how many SAs are installed, by kind, for the node's owner."""
        ...


class PacketEngine(NodeBackend, Protocol):
    """A backend that processes packets in this process; the node hands it batches."""

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
        """Return the installed link SAs for which many forged packets came."""
        ...

    def dummy(self, reqid: int, now: float) -> tuple[bytes, Endpoint] | None:
        """Return one dummy packet for a link; None if the link cannot send."""
        ...


@dataclass(slots=True)
class Arrived:
    """What the cores are told of packets that came.

    ``to_control`` are IPv6 packets for an overlay or circuit address of this host that passed
    its in-policies; ``worn`` tells that SAs want to be replaced now, and not at the next deadline;
    ``idle`` tells that no packet came out, so that all of the batch may have been garbage;
    ``deferred`` are datagrams that have to be handed over again; ``attacked`` are the links of
    which many packets were forged; ``moved`` tells for inbound SPIs of links from where else than
    expected authentic packets came.
    """

    to_control: list[bytes] = field(default_factory=list)
    worn: bool = False
    idle: bool = False
    deferred: list[tuple[bytes, Endpoint]] = field(default_factory=list)
    attacked: list[AttackedLink] = field(default_factory=list)
    moved: Mapping[int, Endpoint] = field(default_factory=dict)


class PacketTransport(Protocol):
    """How packets of this node's own reach the network, and control packets its cores."""

    def from_network(
        self,
        datagrams: Sequence[tuple[bytes, Endpoint]],
        now: float,
        *,
        defer_doubtful: bool = False,
    ) -> Arrived:
        """Take ESP datagrams that reached the node's own socket.

        With ``defer_doubtful`` those of a link under attack are returned that come from another
        endpoint than its peer's or whose number is far ahead.
        """
        ...

    def send(self, packets: Sequence[bytes], now: float) -> None:
        """Seal IPv6 packets between overlay and circuit addresses, and send them."""
        ...

    def send_dummy(self, reqid: int, now: float) -> None:
        """Send one dummy packet on a link, if it is up."""
        ...

    def counters(self) -> dict[str, int]:
        """Return what the node's owner may see of it."""
        ...
