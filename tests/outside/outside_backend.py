"""An IPsec backend of another distribution: an example of what CONTRIBUTING.md describes.

Its engine is no subclass of an engine of the overlay. It leaves ESP to one that it owns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random

from overlay.addresses import Endpoint
from overlay.ipsec.interface import (
    BackendCapabilities,
    Drop,
    IpsecConfiguration,
    SaCounters,
    SaIdentity,
)
from overlay.ipsec.userspace.engine import AttackedLink, Processed, UserspaceEngine
from overlay.node.backend_plugin import BackendFeatures, ShellSetup
from overlay.node.shells.userspace_shell import UserspaceShell

__all__ = ["OutsideBackend", "OutsideEngine"]


# Large: the protocol PacketEngine has these methods.
class OutsideEngine:
    """Implements ``overlay.node.shells.packet_transport.PacketEngine``."""

    def __init__(self, *, rng: Random) -> None:
        self._engine = UserspaceEngine(rng=rng)

    def capabilities(self) -> BackendCapabilities:
        """Return the capabilities of the engine under the name of this backend."""
        return replace(self._engine.capabilities(), name="outside")

    def install(self, configuration: IpsecConfiguration) -> None:
        """Install SAs, policies and addresses."""
        self._engine.install(configuration)

    def remove(self, configuration: IpsecConfiguration) -> None:
        """Remove what was installed."""
        self._engine.remove(configuration)

    def query(self, identity: SaIdentity) -> SaCounters | None:
        """Return the counters of an SA."""
        return self._engine.query(identity)

    def flush(self) -> None:
        """Remove everything."""
        self._engine.flush()

    def relocate(
        self, pairs: Sequence[IpsecConfiguration], local: Endpoint, remote: Endpoint
    ) -> list[IpsecConfiguration] | None:
        """Move a link to another endpoint."""
        return self._engine.relocate(pairs, local, remote)

    def limit_link(self, reqid: int, datagram_bytes: int) -> None:
        """Limit the size of datagrams of a link."""
        self._engine.limit_link(reqid, datagram_bytes)

    @property
    def has_soft_expired(self) -> bool:
        """Whether SAs passed a soft limit."""
        return self._engine.has_soft_expired

    def soft_expired(self) -> list[SaIdentity]:
        """Return SAs that passed a soft limit."""
        return self._engine.soft_expired()

    def drops(self) -> dict[Drop, int]:
        """Return dropped packets by reason."""
        return self._engine.drops()

    def association_counts(self) -> dict[str, int]:
        """Return installed SAs by kind."""
        return self._engine.association_counts()

    def process_inbound(
        self,
        datagrams: Sequence[tuple[bytes, Endpoint]],
        now: float,
        *,
        defer_doubtful: bool = False,
    ) -> Processed:
        """Open ESP datagrams."""
        return self._engine.process_inbound(datagrams, now, defer_doubtful=defer_doubtful)

    def process_outbound(self, packets: Sequence[bytes], now: float) -> Processed:
        """Seal IP packets."""
        return self._engine.process_outbound(packets, now)

    def attacked_links(self) -> list[AttackedLink]:
        """Return links under attack."""
        return self._engine.attacked_links()

    def dummy(self, reqid: int, now: float) -> tuple[bytes, Endpoint] | None:
        """Return a dummy packet for a link."""
        return self._engine.dummy(reqid, now)


class OutsideBackend:
    """Implements ``overlay.node.backend_plugin.BackendPlugin``."""

    features = BackendFeatures(in_kernel=False, max_hops=3)

    @contextmanager
    def open_backend(self, rng: Random) -> Iterator[OutsideEngine]:
        """Yield an engine without devices."""
        engine = OutsideEngine(rng=rng)
        yield engine
        engine.flush()

    def open_shell(self, setup: ShellSetup) -> UserspaceShell:
        """Open the packet shell of the userspace backend with this engine."""
        engine = OutsideEngine(rng=setup.rng)
        return UserspaceShell(setup.configuration, setup.host, setup.sockets, engine, setup.reason)
