"""The interface of an IPsec backend as a plug-in, found through the entry point ``overlay.ipsec``.

A backend declares what it can do, so that the node chooses one without building it. It brings its
packet shell. ``tests/conformance/test_ipsec_backend.py`` runs over each registered backend.

Reasons: docs/decisions/0061.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, ClassVar, Protocol

from overlay.config import Configuration
from overlay.hop_limit import MAX_HOPS
from overlay.ipsec.interface import IpsecBackend

if TYPE_CHECKING:  # the doctor reads features without loading the node
    from overlay.node.shells.operating_system import OperatingSystem
    from overlay.node.shells.packet_shell import PacketShell
    from overlay.node.shells.sockets import Sockets

__all__ = ["BackendFeatures", "BackendPlugin", "ShellSetup"]


@dataclass(frozen=True, slots=True)
class BackendFeatures:
    """What a backend can do, declared by its class.

    Attributes:
        in_kernel: whether SAs and policies are in the kernel, and remain there after a crash.
        max_hops: most Mix-nodes of a path.
        sends_dummies: whether it sends the dummy packets of a TFC strategy.
        calls_forwarding_rules: whether packets pass the configured forwarding rules. If not, it
            enforces the rules ``standard`` in another way, and no others.
    """

    in_kernel: bool
    max_hops: int = MAX_HOPS
    sends_dummies: bool = True
    calls_forwarding_rules: bool = True


@dataclass(frozen=True, slots=True)
class ShellSetup:
    """What a backend gets to open its packet shell.

    Attributes:
        configuration: the configuration of the node.
        host: creates devices and filters.
        sockets: the UDP sockets of the node.
        rng: draws IVs and SPIs.
        reason: why this backend was chosen, as a clause for ``overlay status``.
    """

    configuration: Configuration
    host: OperatingSystem
    sockets: Sockets
    rng: Random
    reason: str


class BackendPlugin(Protocol):
    """An IPsec backend that a node can run with; its constructor takes no arguments."""

    features: ClassVar[BackendFeatures]

    def open_backend(self, rng: Random) -> AbstractContextManager[IpsecBackend]:
        """Return a backend alone, without devices and sockets; leaving the context removes it.

        Raises:
            BackendError: the operating system refused.
        """
        ...

    def open_shell(self, setup: ShellSetup) -> PacketShell:
        """Open the backend with its devices, filters and sockets.

        Raises:
            BackendError: the operating system refused, or a configured suite is missing.
        """
        ...
