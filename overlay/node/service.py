"""What a running node does for its owner: paths on request, and reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import trio

from overlay.addresses import IpNetwork, NodeId, OverlayAddress, format_address
from overlay.control.service import (
    OpenPathsRequest,
    PathReport,
    PeerReport,
    StatusReport,
    StopReport,
)
from overlay.errors import (
    BackendError,
    ConfigurationError,
    NoSuitablePath,
    OverlayError,
    PathError,
)
from overlay.ipsec.interface import MAX_TEMPLATES
from overlay.ipsec.suites import SUITES
from overlay.logs import EventLog
from overlay.node.asked import request_of
from overlay.node.exposure import exposed
from overlay.node.reports import path_report, path_sizes, peer_report, status_report
from overlay.node.running import RunningNode
from overlay.node.shared_requests import SharedRequests
from overlay.node.shells.source_kill_switch import UnprotectedDestinations
from overlay.node.status_summary import judged
from overlay.node.unjoined import LEARNING_S, explained
from overlay.paths.destinations import check_destination
from overlay.paths.requested_path import PathTerms, RequestedPath

__all__ = ["NodeService"]

_log = EventLog(__name__)


# Large: one method for each request of the control socket.
class NodeService:
    """Implements ``overlay.control.service.ControlService``; a view that owns nothing."""

    def __init__(self, running: RunningNode, stop: Callable[[], None]) -> None:
        self._running = running
        self._cores = running.cores
        self._stop = stop
        self._shared = SharedRequests(
            lambda requests: self._cores.paths.open_each(
                requests, self._now(), patient_until=running.started_at + LEARNING_S
            )
        )

    @property
    def running(self) -> RunningNode:
        """The node itself, for laboratories that examine and drive its cores."""
        return self._running

    def stop(self) -> None:
        """Begin to stop the node."""
        self._stop()

    # -- paths -----------------------------------------------------------------------

    async def open_paths(self, request: OpenPathsRequest) -> list[PathReport]:
        """Open paths and return when all carry packets.

        All destinations are blocked before the first circuit is begun. A path without an owner,
        which an earlier process or client left, is taken over. A node that has just started waits
        until it knows enough Mix-nodes. If no path of the request can be opened, nothing of it
        remains, except for what was there before. If only some can, all destinations stay blocked
        or carried. If the call is cancelled, the destinations stay blocked, and the node continues
        to open the paths.

        Raises:
            PathError: a path could not be opened.
            ConfigurationError: the request is not possible; nothing was changed.
            BackendError: this host refused a change that a path needs.
            LimitReached: this node has the most circuits that its settings allow.
        """
        request = request_of(
            request.destinations,
            hops=request.hops,
            strategy=request.strategy,
            via=request.via,
            both_versions=request.both_versions,
        )
        paths = await self._requested(request)
        try:
            self._running.settle(self._now())
            for path in paths:
                await self._running.answers.wait(path)
        except BaseException:
            self._disown(paths)
            raise
        failed = [path for path in paths if path.error is not None]
        self._running.remember_paths()
        if failed:
            self._disown(paths)
            raise self._failure(failed, paths)
        # The kill switch was set a moment ago. For 50 requests at once, reading it for each answer
        # would take as long as setting it.
        exposure = self._running.shell.kill_switch.unprotected()
        return [self._report(path, exposure) for path in paths]

    async def close_path(self, which: int | IpNetwork | None) -> int:
        """Close one path, or all (None); return how many.

        Raises:
            ConfigurationError: there is no such path.
            BackendError: a destination stays blocked for now; every path was tried.
        """
        await trio.lowlevel.checkpoint()
        with self._versions_logged():
            return self._close(which)

    @contextlib.contextmanager
    def _versions_logged(self) -> Iterator[None]:
        """Log which IP versions the statements inside have unblocked."""
        before = self._cores.paths.blocked
        try:
            yield
        finally:
            for version in sorted(before - self._cores.paths.blocked):
                _log.warning("kill_switch.version_unblocked", ip_version=version)

    def _close(self, which: int | IpNetwork | None) -> int:
        if which is not None:
            self.close(which)
            return 1
        paths, now = self._cores.paths, self._now()
        count = len(paths.all())
        try:
            paths.close_all(now)
        finally:
            try:
                paths.release_left()
            finally:
                self._running.settle(now)
        return count

    def close(self, which: int | IpNetwork) -> None:
        """Close one path at once; see :meth:`close_path`."""
        now = self._now()
        try:
            self._cores.paths.close(which, now)
        finally:
            self._running.settle(now)

    def leave_scope(self, number: int) -> None:
        """Close a path that its program no longer needs; a permanent one stays.

        Raises:
            BackendError: the destination stays blocked for now.
        """
        with contextlib.suppress(ConfigurationError):  # closed from elsewhere meanwhile
            if self._cores.paths.get(number).permanent:
                self.disown(number)
            else:
                self.close(number)

    def disown(self, number: int) -> None:
        """Remove the owner of a path; its destination stays protected until it is closed."""
        self._cores.paths.disown(number)

    async def leave(self, *, release: bool) -> StopReport:
        """Report what stays blocked when the node stops; with ``release`` close all paths first."""
        paths = self._cores.paths
        before, versions = paths.all(), paths.blocked
        if release:
            with contextlib.suppress(BackendError):  # remaining destinations are counted below
                await self.close_path(None)
        unprotected = self._running.unprotected_count()
        return StopReport(
            blocked=self._running.blocked_count(),
            released=max(0, len(before) - len(paths.all())),
            permanent=sum(path.permanent for path in before) if release else 0,
            unprotected=unprotected,
            unblocked_versions=tuple(f"IPv{each}" for each in sorted(versions - paths.blocked)),
        )

    def _disown(self, paths: Iterable[RequestedPath]) -> None:
        for path in paths:
            self.disown(path.number)

    def _failure(self, failed: list[RequestedPath], paths: list[RequestedPath]) -> OverlayError:
        """Return the error of a request, with the state of its destinations."""
        error = failed[0].error or PathError("the path could not be opened.")
        if isinstance(error, NoSuitablePath):
            error = self._explained(error)
        remaining = [path for path in paths if self._cores.paths.of(path.destination) is path]
        if not remaining:
            return error
        numbers = " ".join(str(path.number) for path in remaining)
        tried = ", ".join(str(path.number) for path in failed)
        sentence = (
            f"{str(error).rstrip('.')}; packets to the destination of path {tried} stay blocked, "
            f"and the node tries again; to end this, type: overlay path close {numbers}"
        )
        return PathError(sentence) if isinstance(error, PathError) else BackendError(sentence)

    def _explained(self, error: NoSuitablePath) -> NoSuitablePath:
        bootstrap = self._running.configuration.network.bootstrap
        return explained(error, contacts=self._cores.dht.contact_count, bootstrap=bootstrap)

    async def _requested(self, request: OpenPathsRequest) -> list[RequestedPath]:
        exit_settings = self._running.configuration.exit
        for destination in request.destinations:
            check_destination(
                destination,
                own_addresses=self._running.host.own_addresses(),
                inner_networks=(exit_settings.inner_ipv4, exit_settings.inner_ipv6),
            )
        all_terms = [self._terms(request, each) for each in dict.fromkeys(request.destinations)]
        try:
            return await self._shared.request(all_terms)
        except NoSuitablePath as error:
            raise self._explained(error) from error

    def _terms(self, request: OpenPathsRequest, destination: IpNetwork) -> PathTerms:
        """Return what a request asks for, with what was left or configured for the rest."""
        configuration = self._running.configuration
        selection = configuration.selection
        left = self._cores.paths.of(destination)
        both = request.both_versions
        both = configuration.paths.both_versions if both is None else both
        # A version of which a destination is named is not blocked by another of the request.
        both = both and len({each.version for each in request.destinations}) == 1
        if left is not None and not (request.hops or request.strategy or request.via):
            return replace(left.terms, both_versions=both or left.terms.both_versions)
        every_hop_named = len(request.via) if request.strategy == "explicit" else 0
        hops = request.hops or every_hop_named or selection.hops
        self._check_hops(hops)
        via = tuple(self._node_id(named) for named in request.via)
        return PathTerms(destination, hops, request.strategy or selection.strategy, via, both)

    def _check_hops(self, hops: int) -> None:
        can = self._cores.engine.capabilities()
        if can.max_templates < MAX_TEMPLATES and hops > can.max_templates - 1:
            raise ConfigurationError(
                f'the IPsec backend "{can.name}" carries circuits of at most '
                f"{can.max_templates - 1} hops, not {hops}: ask for fewer, or write "
                '[ipsec] backend = "userspace".'
            )

    def _node_id(self, named: NodeId | OverlayAddress) -> NodeId:
        """Return the NodeId of a hop that the user named by NodeId or overlay address."""
        if len(named) != 16:
            return NodeId(named)
        address = format_address(named)
        descriptor = self._cores.table.by_overlay_address(OverlayAddress(named))
        if named == self._running.identity.overlay_address:
            raise ConfigurationError(
                f"via names {address}, which is this node itself; name others: overlay peers."
            )
        if descriptor is None:
            raise ConfigurationError(
                f"via names {address}, which is no node that this one knows; see: overlay peers."
            )
        return descriptor.node_id

    # -- reports ---------------------------------------------------------------------

    def protected_count(self) -> int:
        """Return how many destinations are blocked or carried, or were so at the stop."""
        left = self._running.left_blocked
        return self._running.blocked_count() if left is None else left

    def status(self) -> StatusReport:
        """Return how the node is, with the verdict on it."""
        missing = self._missing()
        exposure = self._exposure(missing)
        report = self._status(missing, exposure)
        paths = [self._report(path, exposure) for path in self._cores.paths.all()]
        bootstrap = self._running.configuration.network.bootstrap
        return judged(report, paths, [str(each) for each in bootstrap])

    def _status(self, missing: tuple[str, ...], exposure: UnprotectedDestinations) -> StatusReport:
        running, cores = self._running, self._cores
        counters = dict(running.sockets.counters())
        counters |= running.shell.backend.association_counts()
        counters |= running.shell.path.counters()
        troubles = {
            "periodic_tasks_failed": cores.periodic_tasks.failures,
            "kill_switch_changes_refused": cores.paths.kill_switch_refusals,
            "links_refused": cores.neighbours.refused,
            "path_file_not_written": running.paths_not_remembered,
            "path_file_entries_lost": running.damaged_entries,
            "inner_addresses_not_forgotten": running.shell.unforgotten,
            "repairs_refused": running.enforcement.refused,
        }
        troubles |= {
            f"repaired_{name}": count for name, count in running.enforcement.repaired.items()
        }
        role = running.shell.exit_role
        exit_problems = tuple(map(str, role.problems)) if role is not None else ()
        if role is not None and role.repaired:
            troubles["exit_repaired"] = role.repaired
        return status_report(
            running.configuration,
            running.identity,
            cores,
            now=self._now(),
            uptime_s=self._now() - running.started_at,
            roles=running.roles,
            endpoints=running.endpoints.now.published,
            network_problems=self._network_problems(),
            reachability=running.publication.report(),
            exit_problems=exit_problems,
            counters=counters | {name: count for name, count in troubles.items() if count},
            backend_reason=running.shell.choice.reason,
            missing=missing,
            exposure=exposure,
        )

    def _network_problems(self) -> tuple[str, ...]:
        running = self._running
        clock = running.clock_watch.problem(self._now())
        found = (clock, running.sending.problem())
        unreached = running.publication.problems()
        return (*filter(None, found), *running.endpoints.problems(), *unreached)

    def _missing(self) -> tuple[str, ...]:
        """Return the names of mechanisms that are missing in the kernel at this moment."""
        try:
            return self._running.enforcement.missing()
        except BackendError:
            return ("unknown, because the kernel does not answer",)

    def _exposure(self, missing: tuple[str, ...] | None = None) -> UnprotectedDestinations:
        """Return the destinations that should be protected and are not at this moment."""
        missing = self._missing() if missing is None else missing
        return exposed(
            self._running.shell.kill_switch.unprotected(), missing, self._cores.paths.all_terms()
        )

    def peers(self) -> list[PeerReport]:
        """Return the Mix-nodes of the topology table."""
        now, cores = self._now(), self._cores
        return [
            peer_report(
                descriptor,
                linked=descriptor.overlay_address in cores.neighbours,
                heard=(
                    cores.table.heard_at(descriptor.node_id),
                    cores.neighbours.heard_at(descriptor.overlay_address),
                ),
                now=now,
                link_bytes=cores.links.datagram_bytes(descriptor.overlay_address),
            )
            for descriptor in cores.table.view(now)
        ]

    def paths(self) -> list[PathReport]:
        """Return the requested paths."""
        exposure = self._exposure()
        return [self._report(path, exposure) for path in self._cores.paths.all()]

    def path(self, number: int) -> PathReport:
        """Return one requested path.

        Raises:
            ConfigurationError: there is no path with this number.
        """
        return self._report(self._cores.paths.get(number))

    def _report(
        self, path: RequestedPath, exposure: UnprotectedDestinations | None = None
    ) -> PathReport:
        circuits = {circuit.number: circuit for circuit in self._cores.circuits.circuits()}
        circuit = circuits.get(path.circuit) if path.circuit is not None else None
        others = [each.destination for each in self._cores.paths.all() if each is not path]
        configuration = self._running.configuration
        mtu = self._running.shell.path_mtu(path)
        hops = path.mix_path.hops if path.mix_path is not None and path.circuit is not None else ()
        first = self._cores.links.datagram_bytes(hops[0].overlay_address) if hops else None
        onion, link = configuration.ipsec.esp_suite, configuration.ipsec.link_suite
        return path_report(
            path,
            circuit,
            others=others,
            exposure=self._exposure() if exposure is None else exposure,
            now=self._now(),
            mtu=mtu,
            sizes=path_sizes(path, first, onion=SUITES[onion], link=SUITES[link], mtu=mtu),
        )

    def _now(self) -> float:
        return self._running.clock.now()
