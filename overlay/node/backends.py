"""The two IPsec backends of this package as plug-ins: userspace, and the kernel's (XFRM)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import TYPE_CHECKING, ClassVar

from overlay.errors import BackendError
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.entries import KERNEL_MAX_TEMPLATES
from overlay.node.backend_plugin import BackendFeatures

if TYPE_CHECKING:
    from overlay.ipsec.interface import IpsecBackend
    from overlay.node.backend_plugin import ShellSetup
    from overlay.node.shells.packet_shell import PacketShell

__all__ = ["KernelBackend", "UserspaceBackend"]


class UserspaceBackend:
    """ESP in this process (implements ``BackendPlugin``)."""

    features: ClassVar = BackendFeatures(in_kernel=False)

    @contextmanager
    def open_backend(self, rng: Random) -> Iterator[IpsecBackend]:
        """Yield an engine, and remove everything from it afterwards."""
        from overlay.ipsec.userspace.engine import UserspaceEngine

        engine = UserspaceEngine(rng=rng)
        try:
            yield engine
        finally:
            engine.flush()

    def open_shell(self, setup: ShellSetup) -> PacketShell:
        """Open TUN devices and the packet filter."""
        from overlay.ipsec.userspace.engine import UserspaceEngine
        from overlay.node.shells.userspace_shell import UserspaceShell

        engine = UserspaceEngine(rng=setup.rng)
        return UserspaceShell(setup.configuration, setup.host, setup.sockets, engine, setup.reason)


class KernelBackend:
    """The kernel's ESP (implements ``BackendPlugin``)."""

    features: ClassVar = BackendFeatures(
        in_kernel=True,
        max_hops=KERNEL_MAX_TEMPLATES - 1,  # one template is the link's
        sends_dummies=False,
        calls_forwarding_rules=False,
    )

    @contextmanager
    def open_backend(self, rng: Random) -> Iterator[IpsecBackend]:
        """Yield the kernel's IPsec, and remove this process's SAs and policies afterwards."""
        from overlay.ipsec.xfrm.backend import XfrmBackend

        with XfrmBackend(rng=rng) as kernel:
            yield kernel

    def open_shell(self, setup: ShellSetup) -> PacketShell:
        """Open the kernel's IPsec, its devices and the packet filter.

        Raises:
            BackendError: the kernel lacks a configured suite, or the operating system refused.
        """
        from overlay.ipsec.xfrm.backend import XfrmBackend
        from overlay.node.shells.kernel_shell import KernelShell

        ipsec = setup.configuration.ipsec
        with ExitStack() as opened:
            kernel = XfrmBackend(rng=setup.rng)
            opened.callback(kernel.close)
            for suite in (ipsec.link_suite, ipsec.esp_suite):
                if suite not in kernel.capabilities().suites:
                    raise BackendError(
                        f"this kernel has no {SUITES[suite].name}: load its module, name another "
                        'suite in [ipsec], or write backend = "userspace".'
                    )
            opened.pop_all()
        return KernelShell(setup.configuration, setup.sockets, kernel, setup.reason)
