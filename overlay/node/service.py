"""What a running node does for its owner: paths on request, and reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

import trio

from overlay.addresses import NodeId, OverlayAddress
from overlay.control.model import OpenPathRequest, PathReport, PeerReport, StatusReport
from overlay.errors import BackendError, ConfigurationError, NoSuitablePath
from overlay.node.assembly import path_mtu
from overlay.node.destinations import check_destination
from overlay.node.own_descriptor import roles_of
from overlay.node.reports import path_report, peer_report, status_report
from overlay.node.requested_path import RequestedPath
from overlay.node.running import RunningNode

__all__ = ["NodeService"]

_LEARNING_S: Final = 20.0
"""After its start, how long a node may need for its first crawls of the overlay."""

_ASK_AGAIN_S: Final = 0.25


class NodeService:
    """Implements ``overlay.control.model.ControlService``; a view that owns nothing."""

    def __init__(self, running: RunningNode, stop: Callable[[], None]) -> None:
        self._running = running
        self._plane = running.plane
        self._stop = stop

    def stop(self) -> None:
        """Begin to stop the node."""
        self._stop()

    # -- paths -----------------------------------------------------------------------

    async def open_path(self, request: OpenPathRequest) -> PathReport:
        """Open a path and return when it carries packets; cancelled, nothing of it remains.

        Raises:
            PathError: no path could be had.
            ConfigurationError: the request is not possible.
            BackendError: this host refused what a path needs.
            LimitReached: this node has as many circuits as it may.
        """
        path = await self._requested_patiently(request)
        try:
            self._running.settle(self._now())
            await path.settled.wait()
        except BaseException:
            self.abandon(path.number)
            raise
        if path.error is not None:
            raise path.error
        return self._report(path)

    async def close_path(self, number: int | None) -> int:
        """Close one path, or all (None); return how many.

        Raises:
            ConfigurationError: there is none of that number.
            BackendError: a destination stays blocked for now; every path was tried.
        """
        await trio.lowlevel.checkpoint()
        if number is not None:
            self.close(number)
            return 1
        numbers = [path.number for path in self._plane.paths.all()]
        refusal = None
        for each in numbers:
            try:
                self.close(each)
            except BackendError as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal
        return len(numbers)

    def close(self, number: int) -> None:
        """Close one path at once; see :meth:`close_path`."""
        now = self._now()
        try:
            self._plane.paths.close(number, now)
        finally:
            self._running.settle(now)

    def abandon(self, number: int) -> None:
        """Close a path whose asker is gone; it may be closed already."""
        # What the host refused is tried again, and shows in the list of paths meanwhile.
        with contextlib.suppress(ConfigurationError, BackendError):
            self.close(number)

    async def _requested_patiently(self, request: OpenPathRequest) -> RequestedPath:
        """Request a path; a node that has just started may still be learning whom there is."""
        while True:
            try:
                return self._requested(request)
            except NoSuitablePath:
                if self._now() >= self._running.started_at + _LEARNING_S:
                    raise
            await trio.sleep(_ASK_AGAIN_S)

    def _requested(self, request: OpenPathRequest) -> RequestedPath:
        configuration = self._running.configuration
        selection, exit_settings = configuration.selection, configuration.exit
        check_destination(
            request.destination,
            own_addresses=self._running.host.own_addresses(),
            inner_networks=(exit_settings.inner_ipv4, exit_settings.inner_ipv6),
        )
        can = self._plane.engine.capabilities()
        every_hop_named = len(request.via) if request.strategy == "explicit" else 0
        hops = request.hops or every_hop_named or selection.hops
        if can.in_kernel and hops > can.max_templates - 1:
            raise ConfigurationError(
                f'the IPsec backend "{can.name}" carries circuits of at most '
                f"{can.max_templates - 1} hops, not {hops}: ask for fewer, or write "
                '[ipsec] backend = "userspace".'
            )
        return self._plane.paths.request(
            request.destination,
            hops=hops,
            strategy=request.strategy or selection.strategy,
            via=tuple(self._node_id(via) for via in request.via),
            now=self._now(),
        )

    def _node_id(self, named: NodeId | OverlayAddress) -> NodeId:
        """Return the NodeId of a hop that the user named by NodeId or overlay address."""
        if len(named) != 16:
            return NodeId(named)
        descriptor = self._plane.table.by_overlay_address(OverlayAddress(named))
        if descriptor is None:
            raise ConfigurationError("a node named in via is not known; see: overlay peers.")
        return descriptor.node_id

    # -- reports ---------------------------------------------------------------------

    def status(self) -> StatusReport:
        """Return how the node is."""
        running, plane = self._running, self._plane
        counters = dict(running.sockets.counters())
        counters |= running.shell.backend.association_counts()
        counters |= running.shell.path.counters()
        troubles = {
            "chores failed": plane.chores.failures,
            "guard changes refused": plane.paths.guard_refusals,
            "links refused": plane.neighbours.refused,
            "inner addresses not forgotten": running.shell.unforgotten,
        }
        return status_report(
            running.configuration,
            running.identity,
            plane,
            now=self._now(),
            uptime_s=self._now() - running.started_at,
            roles=roles_of(running.configuration),
            counters=counters | {name: count for name, count in troubles.items() if count},
            backend_reason=running.shell.choice.reason,
        )

    def peers(self) -> list[PeerReport]:
        """Return the Mix-nodes of the topology table."""
        now, plane = self._now(), self._plane
        return [
            peer_report(descriptor, linked=descriptor.overlay_address in plane.neighbours, now=now)
            for descriptor in plane.table.view(now)
        ]

    def paths(self) -> list[PathReport]:
        """Return the paths that the user asked for."""
        return [self._report(path) for path in self._plane.paths.all()]

    def path(self, number: int) -> PathReport:
        """Return one of them.

        Raises:
            ConfigurationError: there is none of that number.
        """
        return self._report(self._plane.paths.get(number))

    def _report(self, path: RequestedPath) -> PathReport:
        circuits = {circuit.number: circuit for circuit in self._plane.circuits.circuits()}
        circuit = circuits.get(path.circuit) if path.circuit is not None else None
        mtu = path_mtu(self._running.configuration)
        return path_report(path, circuit, now=self._now(), mtu=mtu)

    def _now(self) -> float:
        return self._running.clock.now()
