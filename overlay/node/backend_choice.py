"""Choose the IPsec backend of a node: the configured one, or the best one for ``auto``.

The choice is stored with its reason, which ``overlay status`` shows::

    auto ──> do the settings need what no kernel supports? ─yes─> userspace, with the reason
             does the kernel backend open (ESP, suites, rights, filter)? ─no─> userspace, likewise
             ────────────────────────────────────────────────────────> xfrm
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from overlay.config import Configuration
from overlay.errors import BackendError, ConfigurationError
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.ipsec.xfrm.backend import XfrmBackend
from overlay.ipsec.xfrm.entries import KERNEL_MAX_TEMPLATES
from overlay.node.assembly import build_tfc
from overlay.node.kernel_shell import KernelShell
from overlay.node.operating_system import OperatingSystem
from overlay.node.packet_shell import PacketShell
from overlay.node.sockets import Sockets
from overlay.node.userspace_shell import UserspaceShell
from overlay.plugins import load_plugin
from overlay.tfc.strategy import LinkHandle

__all__ = ["Obstacle", "kernel_obstacle", "open_shell"]

_AUTO: Final = "auto"
_USERSPACE: Final = "userspace"
_KERNEL: Final = "xfrm"
_MOST_HOPS: Final = KERNEL_MAX_TEMPLATES - 1
_CONFIGURED: Final = "[ipsec] backend names it"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A configured feature that the kernel does not support, and what to write instead."""

    what: str
    remedy: str


def kernel_obstacle(configuration: Configuration, rng: Random) -> Obstacle | None:
    """Return why no kernel can run a node with these settings, or None if a kernel might."""
    if configuration.selection.hops > _MOST_HOPS:
        return Obstacle(
            f"the kernel carries circuits of at most {_MOST_HOPS} hops",
            f"write [selection] hops = {_MOST_HOPS} or fewer",
        )
    if _wants_dummies(configuration, rng):
        return Obstacle(
            "the kernel sends no dummy packets",
            f'choose another [tfc] strategy than "{configuration.tfc.strategy}", or no dummies',
        )
    if configuration.forwarding.rules != "standard":
        return Obstacle(
            "the kernel hands no packet to a plug-in",
            'write [forwarding] rules = "standard"',
        )
    return None


def open_shell(
    configuration: Configuration,
    host: OperatingSystem,
    network: Sockets,
    rng: Random,
    engine: UserspaceEngine | None,
) -> PacketShell:
    """Choose the backend and open its devices, filters and sockets.

    Args:
        configuration: its ``[ipsec]`` section names a backend or ``auto``.
        host: creates devices and filters of the userspace backend.
        network: the UDP sockets of the node.
        rng: draws IVs and the SPIs of trial SAs.
        engine: a userspace engine that is used whatever the configuration says, or None.

    Raises:
        ConfigurationError: the named backend does not support the settings.
        BackendError: the operating system refused an operation that the named backend needs.
    """
    if engine is not None:
        return UserspaceShell(configuration, host, network, engine, "the program brought it")
    name = configuration.ipsec.backend
    backend = load_plugin("overlay.ipsec", _KERNEL if name == _AUTO else name)

    def userspace(reason: str) -> PacketShell:
        # A node that ran with the kernel backend here and was killed leaves SAs and policies.
        host.clear_kernel_ipsec()
        kind = load_plugin("overlay.ipsec", _USERSPACE if name == _AUTO else name)
        return UserspaceShell(configuration, host, network, kind(rng=rng), reason)

    if name == _AUTO:
        return _best(configuration, network, rng, backend, userspace)
    if issubclass(backend, UserspaceEngine):
        return userspace(_CONFIGURED)
    if not issubclass(backend, XfrmBackend):
        raise ConfigurationError(
            f'[ipsec] backend = "{name}" carries no packets for a node; '
            f'write "{_AUTO}", "{_USERSPACE}" or "{_KERNEL}".'
        )
    obstacle = kernel_obstacle(configuration, rng)
    if obstacle is not None:
        raise ConfigurationError(
            f'[ipsec] backend = "{name}" cannot do what is configured, for {obstacle.what}: '
            f'{obstacle.remedy}, or [ipsec] backend = "{_AUTO}".'
        )
    return _kernel(configuration, network, rng, backend, _CONFIGURED)


def _best(
    configuration: Configuration,
    network: Sockets,
    rng: Random,
    backend: Any,  # noqa: ANN401 - a plug-in, checked by what it does
    userspace: Callable[[str], PacketShell],
) -> PacketShell:
    """Open the kernel backend, or the userspace backend if that fails."""
    obstacle = kernel_obstacle(configuration, rng)
    if obstacle is not None:
        return userspace(obstacle.what)
    try:
        reason = "this kernel has ESP with the configured suites"
        return _kernel(configuration, network, rng, backend, reason)
    except BackendError as error:
        return userspace(str(error).rstrip("."))


def _kernel(
    configuration: Configuration,
    network: Sockets,
    rng: Random,
    backend: Any,  # noqa: ANN401 - a plug-in, checked by its caller
    reason: str,
) -> PacketShell:
    """Open the kernel backend.

    Raises:
        BackendError: the kernel lacks a configured suite, or the operating system refused.
    """
    with ExitStack() as opened:
        kernel: XfrmBackend = backend(rng=rng)
        opened.callback(kernel.close)
        for suite in (configuration.ipsec.link_suite, configuration.ipsec.esp_suite):
            if suite not in kernel.capabilities().suites:
                raise BackendError(
                    f"this kernel has no {SUITES[suite].name}: load its module, name another "
                    f'suite in [ipsec], or write backend = "{_USERSPACE}".'
                )
        opened.pop_all()
    return KernelShell(configuration, network, kernel, reason)


def _wants_dummies(configuration: Configuration, rng: Random) -> bool:
    """Tell whether the TFC strategy sends dummy packets.

    Such a strategy sets a deadline as soon as a link opens, so a trial link shows it.
    """
    strategy = build_tfc(configuration, rng)
    strategy.link_opened(LinkHandle(0), 0.0)
    return strategy.next_deadline() < math.inf
