"""The node as a Python program uses it: a context, and anonymous paths inside it."""

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
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.logs import EventLog
from overlay.node.asked import Destination, Hop, request_of
from overlay.node.operating_system import LinuxOperatingSystem, OperatingSystem
from overlay.node.running import RunningNode
from overlay.node.service import NodeService

__all__ = ["AnonymousPath", "OverlayNode", "run_node"]

_log = EventLog(__name__)


@dataclass(frozen=True, slots=True)
class AnonymousPath:
    """Open paths: from now on any program's packets to ``destinations`` travel through them.

    Each destination has a path of its own. ``number`` and ``destination`` are the first one's.
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
        """Return how the first path is now: hops, inner addresses, what stays open."""
        return self._report(self.number)

    def reports(self) -> list[PathReport]:
        """Return how all paths are now, in the order of the destinations."""
        return [self._report(number) for number in self.numbers]


class OverlayNode:
    """One participant of the overlay; an async context manager.

    Leaving it stops the node. Destinations of paths that were not closed stay blocked, however
    it was left: normally, by cancellation or with an error. The next node with the same state
    directory restores the paths. To free the destinations, close the paths before leaving
    (``await node.service.close_path(None)``), or run ``overlay stop --release`` afterwards.

    Args:
        configuration: what the user wants.
        identity: this node's keys.
        rng: randomness; the system's unless a test seeds it.
        engine: a userspace IPsec engine; as configured, unless a laboratory watches one.
        host: the operating system; Linux unless a test has another.

    If the host's time is set by more than two minutes, :meth:`wait_stopped` returns and
    ``clock_was_set`` is True: the caller makes a new node, as :func:`run_node` does.
    """

    def __init__(
        self,
        configuration: Configuration,
        identity: LocalIdentity,
        *,
        rng: Random | None = None,
        engine: UserspaceEngine | None = None,
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
            RuntimeError: this is no trio program, or the node was entered before.
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
        """What the node does for its owner.

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
        """Ask whoever runs the node to leave its context."""
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
        """Carry packets to ``destination`` through anonymous circuits while inside.

        Left normally, the paths are closed and their destinations are free again, except for
        those that ``[paths] permanent`` lists. Left with an error or by cancellation, the
        destinations stay blocked, and the next call for them takes the paths over; so does the
        next process after one that died.

        Args:
            destination: an address or a prefix, or several of them, as text or as values of
                :mod:`ipaddress`. All are guarded before the first circuit is begun.
            hops: Mix-nodes between here and there, the exit included, 1 to 5; configured if None.
            strategy: a path selection strategy's name; configured if None.
            via: the first hops in order: entries of ``service.peers()``, or node ids or overlay
                addresses, as text or bytes.
            both_versions: whether to block the other IP version while inside, except for local
                addresses; configured if None.

        Raises:
            TypeError: an argument is of a type that is never right.
            PathError: a path could not be had. If none of several could, nothing remains.
                Otherwise all destinations stay blocked or carried until they are closed.
            ConfigurationError: the request itself is not possible.
            BackendError: this host refused what a path needs; or, at the end, to free the
                destination, which then stays blocked for now.
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
    engine: UserspaceEngine | None = None,
    host: OperatingSystem | None = None,
    task_status: trio.TaskStatus[Callable[[], int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node with its control socket until it is told to stop, or cancelled.

    If the host's time is set, the node starts anew, with its destinations blocked meanwhile.
    ``engine`` and ``host`` are as for :class:`OverlayNode`. ``task_status`` gets a function that
    returns how many destinations are blocked or carried, or were so when the node stopped.

    Raises:
        OverlayError: the node could not start, or failed.
    """
    guarded: list[Callable[[], int]] = []
    while True:
        node = OverlayNode(configuration, identity, engine=engine, host=host)
        async with node:
            with _undisguised():
                async with trio.open_nursery() as nursery:
                    path = configuration.node.control_socket
                    await nursery.start(serve_control, node.service, path)
                    if not guarded:
                        task_status.started(lambda: guarded[-1]())
                    guarded[:] = [node.service.guarded_count]
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
    """Raise the error of a nursery that nobody outside knows of as itself, not as a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        error = group.exceptions[0]
        raise error from error.__cause__


def _leave_scopes(service: NodeService, numbers: Sequence[int]) -> None:
    """Close every path of a scope, then raise what the host refused first, if anything."""
    refusal: BackendError | None = None
    for number in numbers:
        try:
            service.leave_scope(number)
        except BackendError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
