"""Choose the IPsec backend of a node: the configured one, or the best one for ``auto``.

The choice is stored with its reason, which ``overlay status`` shows::

    auto ──> do the settings need features that xfrm lacks? ─yes─> userspace, with the reason
             does xfrm open (ESP, suites, rights, filter)? ──no──> userspace, likewise
             ────────────────────────────────────────────────────> xfrm
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final, cast

from overlay.config import Configuration
from overlay.errors import BackendError, ConfigurationError
from overlay.ipsec.suites import SUITES
from overlay.node.backend_plugin import BackendFeatures, BackendPlugin, ShellSetup
from overlay.plugins import load_plugin

if TYPE_CHECKING:  # the doctor uses obstacle_of() without loading the node
    from overlay.node.shells.operating_system import OperatingSystem
    from overlay.node.shells.packet_shell import PacketShell
    from overlay.node.shells.packet_transport import PacketEngine
    from overlay.node.shells.sockets import Sockets

__all__ = ["Obstacle", "load_backend", "obstacle_of", "open_shell"]

_AUTO: Final = "auto"
_USERSPACE: Final = "userspace"
_KERNEL: Final = "xfrm"
_CONFIGURED: Final = "[ipsec] backend names it"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A configured feature that a backend does not have, and what to write instead."""

    what: str
    remedy: str


def load_backend(name: str) -> BackendPlugin:
    """Return a registered backend.

    Raises:
        ConfigurationError: no backend with this name is registered, or it declares no features.
    """
    plugin = load_plugin("overlay.ipsec", name)
    if not isinstance(getattr(plugin, "features", None), BackendFeatures):
        raise ConfigurationError(
            f'[ipsec] backend = "{name}" declares no features (overlay.node.backend_plugin); '
            f'write "{_AUTO}", "{_USERSPACE}" or "{_KERNEL}".'
        )
    return cast(BackendPlugin, plugin())


def obstacle_of(configuration: Configuration, name: str) -> Obstacle | None:
    """Return why a backend cannot run a node with these settings, or None if it might."""
    features = load_backend(name).features
    if configuration.selection.hops > features.max_hops:
        return Obstacle(
            f'the backend "{name}" carries circuits of at most {features.max_hops} hops',
            f"write [selection] hops = {features.max_hops} or fewer",
        )
    if not features.sends_dummies and _wants_dummies(configuration):
        return Obstacle(
            f'the backend "{name}" sends no dummy packets',
            f'choose another [tfc] strategy than "{configuration.tfc.strategy}", or no dummies',
        )
    if not features.calls_forwarding_rules and configuration.forwarding.rules != "standard":
        return Obstacle(
            f'the backend "{name}" passes no packet to a plug-in',
            'write [forwarding] rules = "standard"',
        )
    return None


def open_shell(
    configuration: Configuration,
    host: OperatingSystem,
    network: Sockets,
    rng: Random,
    engine: PacketEngine | None,
) -> PacketShell:
    """Choose the backend and open its devices, filters and sockets.

    Args:
        configuration: its ``[ipsec]`` section names a backend or ``auto``.
        host: creates devices and filters.
        network: the UDP sockets of the node.
        rng: draws IVs and the SPIs of trial SAs.
        engine: an engine that is used whatever the configuration says, or None.

    Raises:
        ConfigurationError: the named backend does not support the settings.
        BackendError: the operating system refused an operation that the named backend needs.
    """
    if engine is not None:
        from overlay.node.shells.userspace_shell import UserspaceShell

        return UserspaceShell(configuration, host, network, engine, "the program brought it")
    name = configuration.ipsec.backend
    setup = ShellSetup(configuration, host, network, rng, _CONFIGURED)
    if name == _AUTO:
        return _best(setup)
    obstacle = obstacle_of(configuration, name)
    if obstacle is not None:
        raise ConfigurationError(
            f'[ipsec] backend = "{name}" cannot do what is configured, because {obstacle.what}: '
            f'{obstacle.remedy}, or [ipsec] backend = "{_AUTO}".'
        )
    return _open(name, setup)


def _best(setup: ShellSetup) -> PacketShell:
    """Open the kernel's backend, or the userspace backend if that fails."""
    obstacle = obstacle_of(setup.configuration, _KERNEL)
    if obstacle is not None:
        return _open(_USERSPACE, replace(setup, reason=obstacle.what))
    try:
        reason = "this kernel has ESP with the configured suites"
        return _open(_KERNEL, replace(setup, reason=reason))
    except BackendError as error:
        return _open(_USERSPACE, replace(setup, reason=str(error).rstrip(".")))


def _open(name: str, setup: ShellSetup) -> PacketShell:
    backend = load_backend(name)
    if not backend.features.in_kernel:
        # A node that ran with the kernel's backend here and was killed leaves SAs and policies.
        setup.host.clear_kernel_ipsec()
    return _with_suites(name, backend.open_shell(setup), setup.configuration)


def _with_suites(name: str, shell: PacketShell, configuration: Configuration) -> PacketShell:
    """Return the shell if its backend has the configured suites; otherwise close it.

    Raises:
        BackendError: a suite is missing.
    """
    suites = shell.backend.capabilities().suites
    for suite in (configuration.ipsec.link_suite, configuration.ipsec.esp_suite):
        if suite not in suites:
            shell.close()
            raise BackendError(
                f'the IPsec backend "{name}" has no {SUITES[suite].name}: name another suite in '
                f'[ipsec], or write backend = "{_USERSPACE}".'
            )
    return shell


def _wants_dummies(configuration: Configuration) -> bool:
    """Tell whether the TFC strategy sends dummy packets; yes if it does not say."""
    name = configuration.tfc.strategy
    tells: Callable[[object], bool] | None = getattr(
        load_plugin("overlay.tfc", name), "sends_dummies", None
    )
    return tells is None or tells(configuration.plugin_settings("overlay.tfc", name))
