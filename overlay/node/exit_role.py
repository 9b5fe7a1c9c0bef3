"""Whether this node can be an exit now, over which IP versions, and what stands in the way.

::

    host ──> own filter, routes, settings as they were?   ──no──> put back
         ──> IP version there? way out? pool free?        ──no──> problem: not offered
         ──> does a probe pass through this host?         ──no──> problem: not offered

An exit that cannot forward would be chosen all the same, and each path through it would carry
nothing. So the node signs only what works, and says what does not.

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
    """Forwarding and address translation of an exit, and the filter around them."""

    def refuse_destinations(self, networks: Iterable[IpNetwork]) -> None:
        """Let no circuit reach these networks from now on, instead of the ones before."""
        ...

    def refresh(self) -> bool:
        """Follow the host's routes, put back what others took away; tell whether that was so."""
        ...

    def passed(
        self, write: Callable[[Sequence[bytes]], None], policy: ExitPolicy | None = None
    ) -> frozenset[int]:
        """Return the IP versions of which a probe passes through this host."""
        ...

    def way_problems(self) -> list[ExitProblem]:
        """Return why circuits have no way out, as of the last refresh; at most one a version."""
        ...

    def not_forwarded(self, pool: IpNetwork) -> ExitProblem:
        """Return what keeps this host from forwarding the probe of a pool."""
        ...

    @property
    def own_links(self) -> tuple[IpNetwork, ...]:
        """The networks on this host's links that no circuit reaches."""
        ...

    def remove(self) -> None:
        """Undo all of it; harmless if repeated."""
        ...


class ExitRole:
    """What an exit can do now; ``repaired`` counts repairs.

    ``offered`` are the IP versions that are signed and whose circuits stay, ``lent`` those for
    new circuits. A version that fails one review is lent no more; it is offered until the next
    review, because other programs load their filters in steps.
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
        """Take over an exit whose filter stands; nothing is offered before :meth:`review`.

        Args:
            wall: around the exit's device.
            pools: the networks of inner addresses.
            policy: what circuits may reach.
            write: hands packets to the kernel as if they came out of the exit's device.
            examine: returns what is wrong with the host for these pools.
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
        """Insist that no pool is in use on this host.

        Raises:
            ConfigurationError: one is; the sentence names the setting and the other use.
            BackendError: the kernel does not tell.
        """
        for problem in self._examine(self._pools):
            if problem.of_configuration:
                raise ConfigurationError(f"{problem}.")

    def review(self) -> bool:
        """Look at the host anew; return whether other IP versions are offered or lent than before.

        Raises:
            BackendError: the kernel does not tell, or refuses a repair.
        """
        # The ways out are those of packets of the pools, so the pools' routes come first.
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
        """Conclude from a review that failed: what cannot be examined is not known to work.

        Returns as :meth:`review` does.
        """
        return self._conclude(set(), [unknown_problem(pool, error) for pool in self._pools])

    def _conclude(self, working: set[int], problems: list[ExitProblem]) -> bool:
        before, works = (self.offered, self.lent), frozenset(working)
        # A full table of connections refuses new ones, and strangers can fill it. Those that exist
        # go on, so their circuits stay.
        full = {each.version for each in problems if each.kind == TRACKING_FULL}
        # What worked until now gets one more review; what failed before as well is withdrawn.
        kept = (self.offered & self.lent) | (self.offered & full)
        self.offered, self.lent = works | kept, works
        self.problems = tuple(problems)
        return before != (self.offered, self.lent)

    def refuse_destinations(self, addresses: frozenset[bytes]) -> None:
        """Let no circuit reach these packed addresses, instead of the ones before.

        Raises:
            BackendError: the kernel refused.
        """
        self._wall.refuse_destinations(host_networks(addresses))

    def _passed(self, possible: set[int]) -> frozenset[int]:
        """Return the versions that are forwarded; one lost probe is no reason to withdraw."""
        passed: frozenset[int] = frozenset()
        for _ in range(2):
            if not possible <= passed:
                passed |= self._wall.passed(self._write, self._policy)
        return passed


def families_of(versions: Iterable[int]) -> IpVersions:
    """Return IP versions as what sources ask for."""
    families = IpVersions(0)
    for version in versions:
        families |= IpVersions.IPV4 if version == 4 else IpVersions.IPV6
    return families


def policy_for(
    policy: ExitPolicy, versions: frozenset[int], refused: Iterable[IpNetwork] = ()
) -> ExitPolicy:
    """Return the part of a policy that is about these IP versions, as it is signed.

    It begins with refusals of the ``refused`` networks that it would permit.
    """
    part = ExitPolicy(
        tuple(rule for rule in policy.rules if rule.network.version in versions),
        tuple(each for each in policy.allowed_forbidden if each.version in versions),
    )
    links = public_links((each for each in refused if each.version in versions), part)
    refusals = tuple(ExitRule(accept=False, network=each) for each in links)
    return ExitPolicy(refusals + part.rules, part.allowed_forbidden)
