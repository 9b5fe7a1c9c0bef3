"""Publish this node's descriptor, according to its host, its exit and tests by other nodes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from overlay.addresses import Endpoint, IpNetwork
from overlay.config import Configuration
from overlay.dht.core import Dht
from overlay.dht.descriptor import Role
from overlay.dht.events import DhtEvent, ReachChanged
from overlay.identity import LocalIdentity
from overlay.node.exit_role import ExitRole
from overlay.node.own_descriptor import own_descriptor, proof_descriptor, roles_of
from overlay.node.reach_role import ReachRole

__all__ = ["Publication"]


class Publication:
    """Sign and publish this node's descriptor, and have its endpoints tested.

    Args:
        configuration: has the configured roles.
        identity: signs the descriptor.
        dht: publishes the descriptor and tests endpoints.
        suites: ESP suites of the backend.
        published: returns the endpoints of this node that others may use.
        exit_role: the present state of the exit, None if the node is not configured as an exit.
        next_sequence: returns a sequence number above all earlier ones; its argument is the time.
    """

    def __init__(
        self,
        configuration: Configuration,
        identity: LocalIdentity,
        dht: Dht,
        *,
        suites: frozenset[int],
        published: Callable[[], tuple[Endpoint, ...]],
        exit_role: ExitRole | None,
        next_sequence: Callable[[float], int],
    ) -> None:
        self._configuration = configuration
        self._identity = identity
        self._dht = dht
        self._suites = suites
        self._published = published
        self._exit_role = exit_role
        self._next_sequence = next_sequence
        self.reach = ReachRole(dht.reachability.tests.standings)

    @property
    def exit_versions(self) -> frozenset[int]:
        """The IP versions over which this node is an exit now."""
        return self._exit_role.offered if self._exit_role is not None else frozenset()

    @property
    def roles(self) -> frozenset[Role]:
        """The roles that this node offers now; none while other nodes do not reach it."""
        return self._wanted() if self.reach.offered(self._published()) else frozenset()

    def publish(self, now: float) -> None:
        """Sign and publish a descriptor, unless the node has no role or no public endpoint.

        If other nodes do not reach this node, the descriptor has no roles, so that they stop using
        it.

        Raises:
            ConfigurationError: the descriptor would be too large.
        """
        published = self._published()
        if not published or not self._wanted():
            return
        offered = self.reach.offered(published)
        refused: tuple[IpNetwork, ...] = ()
        if self._exit_role is not None:
            refused = self._exit_role.own_links
        descriptor = own_descriptor(
            self._configuration,
            self._identity,
            endpoints=offered or published,
            esp_suites=self._suites,
            exit_versions=self.exit_versions,
            now=now,
            sequence=self._next_sequence(now),
            refused=refused,
            serves=bool(offered),
        )
        self._dht.publish(descriptor, now)

    def test(self, now: float) -> None:
        """Have other nodes test the endpoints of this node, soon and then at intervals."""
        interval_s = self._configuration.network.reachability_test_s
        published = self._published() if interval_s and self._wanted() else ()
        sign = partial(
            proof_descriptor, self._configuration, self._identity, published, self._suites
        )
        self._dht.reachability.tests.follow(published, sign, interval_s=interval_s, now=now)

    def observe(self, event: DhtEvent, now: float) -> None:
        """Process the results of tests among the events of the DHT core.

        Raises:
            ConfigurationError: see :meth:`publish`.
        """
        if isinstance(event, ReachChanged):
            self.tested(event, now)

    def tested(self, change: ReachChanged, now: float) -> None:
        """Log the result of an endpoint's tests, and publish a descriptor that agrees with it.

        Raises:
            ConfigurationError: see :meth:`publish`.
        """
        self.reach.note(change, self._published())
        self.publish(now)

    def problems(self) -> tuple[str, ...]:
        """Return sentences about endpoints that other nodes do not reach, with the remedy."""
        return self.reach.problems(self._published())

    def report(self) -> dict[str, str]:
        """Return the result of the tests for each published endpoint."""
        return self.reach.report(self._published())

    def _wanted(self) -> frozenset[Role]:
        return roles_of(self._configuration, self.exit_versions)
