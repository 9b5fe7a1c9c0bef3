"""The node for Python programs: a context manager, and anonymous paths inside it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random, SystemRandom
from types import TracebackType
from typing import Self

import trio

from overlay.addresses import IpNetwork
from overlay.config import Configuration
from overlay.control.server import serve_control
from overlay.control.service import PathReport
from overlay.errors import BackendError
from overlay.identity import LocalIdentity
from overlay.logs import EventLog
from overlay.node.asked import Destination, Hop, request_of
from overlay.node.running import RunningNode
from overlay.node.service import NodeService
from overlay.node.shells.operating_system import LinuxOperatingSystem, OperatingSystem
from overlay.node.shells.packet_transport import PacketEngine

__all__ = ["AnonymousPath", "OverlayNode", "run_node"]

_log = EventLog(__name__)


@dataclass(frozen=True, slots=True)
class AnonymousPath:
    """Open paths, which carry the packets of all programs to ``destinations``.

    Each destination has a path of its own. ``number`` and ``destination`` are those of the first.
    """

    numbers: tuple[int, ...]
    destinations: tuple[IpNetwork, ...]
    _report: Callable[[int], PathReport]

    @property
    def number(self) -> int:
        """The number of the first path."""
        return self.numbers[0]

    @property
    def destination(self) -> IpNetwork:
        """The first destination."""
        return self.destinations[0]

    def report(self) -> PathReport:
        """Return the state of the first path: hops, inner addresses, what stays open."""
        return self._report(self.number)

    def reports(self) -> list[PathReport]:
        """Return the state of all paths, in the order of the destinations."""
        return [self._report(number) for number in self.numbers]


class OverlayNode:
    """One node of the overlay; an async context manager.

    Leaving the context stops the node. Destinations of paths that were not closed stay blocked,
    also after cancellation or an error. The next node with the same state directory restores the
    paths. To release the destinations, close the paths before leaving
    (``await node.service.close_path(None)``), or run ``overlay stop --release`` afterwards.

    Args:
        configuration: the settings of the node.
        identity: the keys of the node.
        rng: source of randomness; the operating system's by default.
        engine: a userspace IPsec engine that is used whatever the configuration says.
        host: the operating system; Linux by default.

    If the host's time is set by more than two minutes, :meth:`wait_stopped` returns and
    ``clock_was_set`` is True. Then the caller must create a new node, as :func:`run_node` does.
    """

    def __init__(
        self,
        configuration: Configuration,
        identity: LocalIdentity,
        *,
        rng: Random | None = None,
        engine: PacketEngine | None = None,
        host: OperatingSystem | None = None,
    ) -> None:
        if not isinstance(configuration, Configuration):
            raise TypeError(
                "configuration must be what overlay.config.load_configuration returns, not "
                f"{type(configuration).__name__}."
            )
        if not isinstance(identity, LocalIdentity):
            raise TypeError(
                "identity must be what overlay.keyfile.read_identity returns, not "
                f"{type(identity).__name__}."
            )
        self._configuration = configuration
        self._identity = identity
        self._rng = rng or SystemRandom()
        self._engine = engine
        self._host = host or LinuxOperatingSystem(
            [each.port for each in configuration.network.listen]
        )
        self._lifetime: AbstractAsyncContextManager[NodeService] | None = None
        self._service: NodeService | None = None
        self._stopped = trio.Event()
        self.clock_was_set = False
        self._entered = False

    async def __aenter__(self) -> Self:
        """Start the node.

        Raises:
            RuntimeError: no trio program is running, or the node was entered before.
            OverlayError: the node could not start.
        """
        _insist_on_trio()
        if self._entered:
            raise RuntimeError("a node is entered once; make another OverlayNode.")
        self._entered = True
        self._lifetime = self._running()
        self._service = await self._lifetime.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        lifetime, self._lifetime, self._service = self._lifetime, None, None
        return await lifetime.__aexit__(kind, error, trace) if lifetime is not None else None

    @property
    def service(self) -> NodeService:
        """The service of the running node: paths, status and peers.

        Raises:
            RuntimeError: the node does not run.
        """
        if self._service is None:
            raise RuntimeError('a node works inside "async with node:" only.')
        return self._service

    async def wait_stopped(self) -> None:
        """Return when :meth:`stop` was called."""
        await self._stopped.wait()

    def stop(self) -> None:
        """Let :meth:`wait_stopped` return, so that the caller leaves the context."""
        self._stopped.set()

    @asynccontextmanager
    async def anonymous_path(
        self,
        destination: Destination | Iterable[Destination],
        *,
        hops: int | None = None,
        strategy: str | None = None,
        via: Iterable[Hop] = (),
        both_versions: bool | None = None,
    ) -> AsyncIterator[AnonymousPath]:
        """Carry packets to ``destination`` through anonymous circuits inside the context.

        At the normal end of the context the paths are closed and their destinations released,
        except for those in ``[paths] permanent``. After an error or a cancellation the destinations
        stay blocked, and the next call for them takes the paths over. The same holds for the next
        process if this one dies.

        Args:
            destination: an address or a prefix, or several of them, as text or as values of
                :mod:`ipaddress`. All are blocked before the first circuit is begun.
            hops: number of Mix-nodes, the exit included, 1 to 5; as configured if None.
            strategy: name of a path selection strategy; as configured if None.
            via: the first hops in order: entries of ``service.peers()``, or node ids or overlay
                addresses, as text or bytes.
            both_versions: whether to block the other IP version meanwhile, except for local
                addresses; as configured if None.

        Raises:
            TypeError: an argument has a wrong type.
            PathError: a path could not be opened. If no path of the request was opened, nothing
                remains. Otherwise all destinations stay blocked or carried until they are closed.
            ConfigurationError: the request is not possible.
            BackendError: this host refused a change that a path needs. At the end of the context:
                it refused to release the destination, which stays blocked for now.
        """
        service = self.service
        request = request_of(
            destination, hops=hops, strategy=strategy, via=via, both_versions=both_versions
        )
        reports = await service.open_paths(request)
        numbers = tuple(report.number for report in reports)
        try:
            yield AnonymousPath(numbers, request.destinations, service.path)
        except BaseException:
            for number in numbers:
                service.disown(number)
            raise
        _leave_scopes(service, numbers)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[NodeService]:
        with ExitStack() as stack, _undisguised():
            running = RunningNode(
                self._configuration, self._identity, self._host, self._engine, self._rng, stack
            )
            async with trio.open_nursery() as nursery:
                try:
                    running.start(nursery)
                    nursery.start_soon(self._end_after_step, running)
                    yield NodeService(running, self.stop)
                finally:
                    if running.failed:
                        running.note_blocked()
                    else:
                        with trio.CancelScope(shield=True):
                            await running.stop()
                    nursery.cancel_scope.cancel()

    async def _end_after_step(self, running: RunningNode) -> None:
        await running.clock_was_set.wait()
        self.clock_was_set = True
        self.stop()


async def run_node(
    configuration: Configuration,
    identity: LocalIdentity,
    *,
    engine: PacketEngine | None = None,
    host: OperatingSystem | None = None,
    task_status: trio.TaskStatus[Callable[[], int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node with its control socket until it is stopped or cancelled.

    If the host's time is set, the node starts again. Its destinations stay blocked meanwhile.
    ``engine`` and ``host`` are as for :class:`OverlayNode`. ``task_status`` gets a function that
    returns how many destinations are blocked or carried, or were so when the node stopped.

    Raises:
        OverlayError: the node could not start, or failed.
    """
    protected: list[Callable[[], int]] = []
    while True:
        node = OverlayNode(configuration, identity, engine=engine, host=host)
        async with node:
            with _undisguised():
                async with trio.open_nursery() as nursery:
                    path = configuration.node.control_socket
                    await nursery.start(serve_control, node.service, path)
                    if not protected:
                        task_status.started(lambda: protected[-1]())
                    protected[:] = [node.service.protected_count]
                    _log.info("node.up")
                    await node.wait_stopped()
                    nursery.cancel_scope.cancel()
        if not node.clock_was_set:
            return
        if engine is not None:
            engine.flush()
        _log.info("node.starts_anew")


def _insist_on_trio() -> None:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        raise RuntimeError(
            "OverlayNode runs under trio alone; start the program with trio.run(main), or use the "
            "node that runs on this host (overlay.control.ControlClient)."
        ) from None


@contextlib.contextmanager
def _undisguised() -> Iterator[None]:
    """Raise the error of an inner nursery as itself and not as a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        error = group.exceptions[0]
        raise error from error.__cause__


def _leave_scopes(service: NodeService, numbers: Sequence[int]) -> None:
    """Close every path of a scope, then raise the first refusal of the host, if there was one."""
    refusal: BackendError | None = None
    for number in numbers:
        try:
            service.leave_scope(number)
        except BackendError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
