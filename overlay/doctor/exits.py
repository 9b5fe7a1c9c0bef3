"""Check whether this host can be an exit, and whether other filters drop a relay's packets."""

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
    """Return for each IP version whether the node can be an exit over it.

    One version is enough for an exit, so a problem of only the other version is advice. But a pool
    that is in use keeps the node from starting. If the node is to be an exit, forwarding is tried:
    its filter is installed, a probe is sent through it, and the filter is removed. If a node runs
    with this configuration, it is asked instead, because a host can have only one exit.
    """
    running = setup.status
    if running is not None and setup.configuration.roles.exit:
        return _running(running)
    given = setup.configuration.exit
    pools: tuple[IpNetwork, ...] = (given.inner_ipv4, given.inner_ipv6)
    is_exit = setup.configuration.roles.exit
    try:
        # For an exit, _try_forwarding looks up routes itself, with packets like those of circuits.
        problems = (examine or (host_problems if is_exit else exit_problems))(pools)
        wrong = {problem.version for problem in problems}
        possible = tuple(pool for pool in pools if pool.version not in wrong)
        if is_exit and possible:
            attempt = try_forwarding or _try_forwarding
            problems += attempt(possible, setup.configuration.exit_policy())
    except BackendError as error:
        said = f"the check could not run: {error}"
        return [Finding("exit", Outcome.UNKNOWN, said, _EXIT)]
    found = {problem.version: problem for problem in problems}
    every_version = len(found) == len(pools)
    return [_finding(pool.version, found.get(pool.version), every_version) for pool in pools]


def relay_filters(
    setup: Setup, chains: Callable[[int], list[ForeignChain]] = foreign_chains
) -> list[Finding]:
    """Name packet filters that may drop IPv6 packets which the kernel forwards for a relay.

    The userspace backend forwards nothing in the kernel. The outcome is UNKNOWN and not LACKS,
    because a rule may accept these packets, and no such packet can be sent without a circuit.
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
        f"a packet filter may drop packets that the kernel forwards for circuits "
        f"({', '.join(chain.name for chain in found)}); accept them with: {'; '.join(commands)}"
    )
    return [Finding("relay's packets", Outcome.UNKNOWN, said, needed_for)]


def _running(status: StatusReport) -> list[Finding]:
    """Return the exit problems that the running node has found in the last seconds."""
    needed_for = _ADVICE if "exit" in status.roles else _EXIT
    return [
        Finding("exit", Outcome.LACKS, f"{problem.rstrip('.')}.", needed_for)
        for problem in status.exit_problems
    ] or [Finding("exit", Outcome.WORKS, "the running node forwards packets", _EXIT)]


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
