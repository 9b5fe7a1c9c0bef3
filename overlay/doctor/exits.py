"""What keeps this host from being an exit: pools in use, no route, IPv6 off, other filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from overlay.addresses import OVERLAY_NETWORKS, IpNetwork
from overlay.control.service import StatusReport
from overlay.doctor.findings import Finding, Outcome, Purpose, Setup
from overlay.errors import BackendError
from overlay.exit_policy import ExitPolicy
from overlay.system.exit_filter import ExitFilter
from overlay.system.exit_problems import ExitProblem, exit_problems, host_problems
from overlay.system.foreign_filters import ForeignChain, foreign_chains
from overlay.system.tun import MIN_MTU, TunDevice

__all__ = ["exit_role", "relay_filters"]

Attempt = Callable[[Sequence[IpNetwork], ExitPolicy | None], list[ExitProblem]]

_EXIT: Final = (Purpose.EXIT,)
_ADVICE: Final = (Purpose.ADVICE,)


def exit_role(
    setup: Setup,
    examine: Callable[[Sequence[IpNetwork]], list[ExitProblem]] | None = None,
    try_forwarding: Attempt | None = None,
) -> list[Finding]:
    """Tell over which IP versions the node would offer itself as an exit.

    An exit over one version alone is one, so that what the other lacks is advice; a pool that is
    in use keeps the node from starting. Forwarding is tried if the node is to be an exit: its
    filter is installed, a probe passes through it, and all is given back. A node that runs with
    this configuration is asked instead, because a host holds one exit.
    """
    running = setup.status
    if running is not None and setup.configuration.roles.exit:
        return _running(running)
    given = setup.configuration.exit
    pools: tuple[IpNetwork, ...] = (given.inner_ipv4, given.inner_ipv6)
    is_exit = setup.configuration.roles.exit
    try:
        # An attempt looks up the routes of circuits' own packets.
        problems = (examine or (host_problems if is_exit else exit_problems))(pools)
        wrong = {problem.version for problem in problems}
        possible = tuple(pool for pool in pools if pool.version not in wrong)
        if is_exit and possible:
            attempt = try_forwarding or _try_forwarding
            problems += attempt(possible, setup.configuration.exit_policy())
    except BackendError as error:
        said = f"it could not be tried: {error}"
        return [Finding("exit", Outcome.UNKNOWN, said, _EXIT)]
    found = {problem.version: problem for problem in problems}
    every_version = len(found) == len(pools)
    return [_finding(pool.version, found.get(pool.version), every_version) for pool in pools]


def relay_filters(
    setup: Setup, chains: Callable[[int], list[ForeignChain]] = foreign_chains
) -> list[Finding]:
    """Name filters that drop what a relay forwards in the kernel: IPv6 between overlay addresses.

    Userspace forwards nothing. Whether such packets are spared is not judged, because no packet
    of a circuit can be sent without one.
    """
    configuration = setup.configuration
    if not configuration.roles.relay or configuration.ipsec.backend == "userspace":
        return []
    needed_for = _ADVICE if configuration.ipsec.backend == "auto" else (Purpose.KERNEL_RELAY,)
    found = [chain for chain in chains(6) if chain.certain]
    if not found:
        return [Finding("relay's packets", Outcome.WORKS, "no filter drops them", needed_for)]
    commands = [each for net in OVERLAY_NETWORKS for c in found for each in c.commands(net, "lo")]
    said = (
        f"a packet filter may drop what the kernel forwards for circuits "
        f"({', '.join(chain.name for chain in found)}); let it pass with: {'; '.join(commands)}"
    )
    return [Finding("relay's packets", Outcome.UNKNOWN, said, needed_for)]


def _running(status: StatusReport) -> list[Finding]:
    """Tell what a running node found out about itself in the last seconds."""
    needed_for = _ADVICE if "exit" in status.roles else _EXIT
    return [
        Finding("exit", Outcome.LACKS, f"{problem.rstrip('.')}.", needed_for)
        for problem in status.exit_problems
    ] or [Finding("exit", Outcome.WORKS, "packets leave the node that runs", _EXIT)]


def _finding(version: int, problem: ExitProblem | None, every_version: bool) -> Finding:
    subject = f"exit over IPv{version}"
    if problem is None:
        return Finding(subject, Outcome.WORKS, "packets can leave", _EXIT)
    needed_for = _EXIT if every_version or problem.of_configuration else _ADVICE
    return Finding(subject, Outcome.LACKS, f"{problem}.", needed_for)


def _try_forwarding(pools: Sequence[IpNetwork], policy: ExitPolicy | None) -> list[ExitProblem]:
    with TunDevice.open("exit%d", MIN_MTU) as device, ExitFilter(device.name, pools) as trial:
        problems = trial.way_problems()
        passed = trial.passed(device.write_batch, policy)
        passed |= {problem.version for problem in problems}
        return problems + [trial.not_forwarded(p) for p in pools if p.version not in passed]
