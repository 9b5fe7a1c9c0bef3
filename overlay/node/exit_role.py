"""Determine whether this node can be an exit now, and over which IP versions.

::

    host ──> own filter, routes and settings unchanged?        ──no──> restore them
         ──> IP version available? an uplink? pool unused?     ──no──> problem: not offered
         ──> does a probe pass through this host?              ──no──> problem: not offered

Sources would also choose an exit that cannot forward, and their paths would carry nothing. So the
node signs only the IP versions that work, and reports the problems of the others.

Reasons: docs/decisions/0038.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from overlay.addresses import IpNetwork
from overlay.apm.layer import IpVersions
from overlay.errors import BackendError, ConfigurationError
from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.node.exit_destinations import host_networks, public_links
from overlay.system.exit_problems import TRACKING_FULL, ExitProblem, unknown_problem

__all__ = ["ExitFirewall", "ExitRole", "families_of", "policy_for"]


class ExitFirewall(Protocol):
    """Forwarding, address translation and packet filter of an exit."""

    def refuse_destinations(self, networks: Iterable[IpNetwork]) -> None:
        """Block packets of circuits to these networks; they replace those of the last call."""
        ...

    def refresh(self) -> bool:
        """Follow the host's routes and restore missing state; return whether any was missing."""
        ...

    def passed(
        self, write: Callable[[Sequence[bytes]], None], policy: ExitPolicy | None = None
    ) -> frozenset[int]:
        """Send a probe per IP version through this host; return the versions that passed."""
        ...

    def way_problems(self) -> list[ExitProblem]:
        """Return why there is no uplink, as of the last refresh; at most one per IP version."""
        ...

    def not_forwarded(self, pool: IpNetwork) -> ExitProblem:
        """Return why this host did not forward the probe of a pool."""
        ...

    @property
    def own_links(self) -> tuple[IpNetwork, ...]:
        """The networks on this host's links that no circuit reaches."""
        ...

    def remove(self) -> None:
        """Remove all of it; a repeated call does nothing."""
        ...


class ExitRole:
    """The IP versions over which this node is an exit; ``repaired`` counts repairs.

    ``offered`` are the IP versions that are signed and whose circuits stay. ``lent`` are those of
    which new circuits get addresses. After one failed review a version is no longer lent, but it is
    still offered until the next review: other programs load their filters in steps.
    """

    def __init__(
        self,
        wall: ExitFirewall,
        pools: Sequence[IpNetwork],
        policy: ExitPolicy | None,
        *,
        write: Callable[[Sequence[bytes]], None],
        examine: Callable[[Sequence[IpNetwork]], list[ExitProblem]],
    ) -> None:
        """Start with an installed filter; nothing is offered before :meth:`review`.

        Args:
            wall: packet filter and forwarding of the exit's device.
            pools: the networks of inner addresses.
            policy: the exit policy, or None.
            write: passes packets to the kernel as if the exit's device had received them.
            examine: returns what keeps this host from being an exit with these pools.
        """
        self._wall = wall
        self._pools = tuple(pools)
        self._policy = policy
        self._write = write
        self._examine = examine
        self.offered: frozenset[int] = frozenset()
        self.lent: frozenset[int] = frozenset()
        self.problems: tuple[ExitProblem, ...] = ()
        self.repaired = 0

    @property
    def doubted(self) -> frozenset[int]:
        """The IP versions whose next review decides whether they are still offered."""
        return self.offered - self.lent

    @property
    def own_links(self) -> tuple[IpNetwork, ...]:
        """The networks on this host's links that no circuit reaches."""
        return self._wall.own_links

    def check_pools(self) -> None:
        """Check that this host uses no pool of inner addresses for something else.

        Raises:
            ConfigurationError: a pool is in use; the message names the setting and the other use.
            BackendError: the kernel could not be read.
        """
        for problem in self._examine(self._pools):
            if problem.of_configuration:
                raise ConfigurationError(f"{problem}.")

    def review(self) -> bool:
        """Examine the host; return whether ``offered`` or ``lent`` has changed.

        Raises:
            BackendError: the kernel could not be read, or it refused a repair.
        """
        # Uplinks are looked up as for packets from the pools, so the pools' routes come first.
        self.repaired += self._wall.refresh()
        problems = self._examine(self._pools)
        wrong = {each.version for each in problems}
        problems += [each for each in self._wall.way_problems() if each.version not in wrong]
        wrong = {each.version for each in problems}
        possible = {int(pool.version) for pool in self._pools if pool.version not in wrong}
        passed = self._passed(possible)
        problems += [
            self._wall.not_forwarded(pool)
            for pool in self._pools
            if pool.version in possible and pool.version not in passed
        ]
        return self._conclude(possible & passed, problems)

    def not_reviewed(self, error: BackendError) -> bool:
        """Treat all IP versions as failed, because the review itself failed with ``error``.

        The result is that of :meth:`review`.
        """
        return self._conclude(set(), [unknown_problem(pool, error) for pool in self._pools])

    def _conclude(self, working: set[int], problems: list[ExitProblem]) -> bool:
        before, works = (self.offered, self.lent), frozenset(working)
        # A full connection table refuses new connections, and outsiders can fill it. Existing
        # connections go on, so their circuits stay.
        full = {each.version for each in problems if each.kind == TRACKING_FULL}
        # A version that worked at the last review gets one more; two failures withdraw it.
        kept = (self.offered & self.lent) | (self.offered & full)
        self.offered, self.lent = works | kept, works
        self.problems = tuple(problems)
        return before != (self.offered, self.lent)

    def refuse_destinations(self, addresses: frozenset[bytes]) -> None:
        """Block packets of circuits to these packed addresses; they replace the last ones.

        Raises:
            BackendError: the kernel refused.
        """
        self._wall.refuse_destinations(host_networks(addresses))

    def _passed(self, possible: set[int]) -> frozenset[int]:
        """Return the versions that this host forwards. A lost probe is repeated once."""
        passed: frozenset[int] = frozenset()
        for _ in range(2):
            if not possible <= passed:
                passed |= self._wall.passed(self._write, self._policy)
        return passed


def families_of(versions: Iterable[int]) -> IpVersions:
    """Return IP versions (4, 6) in the form of the onion layer."""
    families = IpVersions(0)
    for version in versions:
        families |= IpVersions.IPV4 if version == 4 else IpVersions.IPV6
    return families


def policy_for(
    policy: ExitPolicy, versions: frozenset[int], refused: Iterable[IpNetwork] = ()
) -> ExitPolicy:
    """Return the policy to sign for these IP versions.

    It begins with rules that refuse those ``refused`` networks that the policy would permit.
    """
    part = ExitPolicy(
        tuple(rule for rule in policy.rules if rule.network.version in versions),
        tuple(each for each in policy.allowed_forbidden if each.version in versions),
    )
    links = public_links((each for each in refused if each.version in versions), part)
    refusals = tuple(ExitRule(accept=False, network=each) for each in links)
    return ExitPolicy(refusals + part.rules, part.allowed_forbidden)
