"""The node as a Python program uses it: a context, and anonymous paths inside it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random, SystemRandom
from types import TracebackType
from typing import Self

import trio

from overlay.addresses import IpNetwork, NodeId, OverlayAddress
from overlay.config import Configuration
from overlay.control.model import OpenPathRequest, PathReport
from overlay.control.server import serve_control
from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.logs import EventLog
from overlay.node.host import Host, LinuxHost
from overlay.node.running import RunningNode
from overlay.node.service import NodeService

__all__ = ["AnonymousPath", "OverlayNode", "run_node"]

_log = EventLog(__name__)


@dataclass(frozen=True, slots=True)
class AnonymousPath:
    """An open path: from now on any program's packets to ``destination`` travel through it."""

    number: int
    destination: IpNetwork
    _report: Callable[[], PathReport]

    def report(self) -> PathReport:
        """Return how the path is now: hops, inner addresses, round-trip time."""
        return self._report()


class OverlayNode:
    """One participant of the overlay; an async context manager.

    Leaving it, or being cancelled inside, stops the node cleanly: paths are closed, their
    destinations are free again. Leaving it with an error keeps destinations guarded, until a
    node on this host takes them over: whatever went wrong, no packet goes out in the clear.

    Args:
        configuration: what the user wants.
        identity: this node's keys.
        rng: randomness; the system's unless a test seeds it.
        engine: a userspace IPsec engine; as configured, unless a laboratory watches one.
        host: the operating system; Linux unless a test has another.
    """

    def __init__(
        self,
        configuration: Configuration,
        identity: LocalIdentity,
        *,
        rng: Random | None = None,
        engine: UserspaceEngine | None = None,
        host: Host | None = None,
    ) -> None:
        self._configuration = configuration
        self._identity = identity
        self._rng = rng or SystemRandom()
        self._engine = engine
        self._host = host or LinuxHost([each.port for each in configuration.network.listen])
        self._lifetime: AbstractAsyncContextManager[NodeService] | None = None
        self._service: NodeService | None = None
        self._stopped = trio.Event()

    async def __aenter__(self) -> Self:
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
            raise RuntimeError('a node works inside "async with" only.')
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
        destination: IpNetwork,
        *,
        hops: int | None = None,
        strategy: str | None = None,
        via: Sequence[NodeId | OverlayAddress] = (),
    ) -> AsyncIterator[AnonymousPath]:
        """Carry packets to ``destination`` through an anonymous circuit while inside.

        Args:
            destination: an address (a /32 or /128) or a prefix.
            hops: Mix-nodes between here and there, the exit included; configured if None.
            strategy: a path selection strategy's name; configured if None.
            via: NodeIds or overlay addresses of the first hops, in order.

        Raises:
            PathError: no path could be had; nothing of it remains.
            ConfigurationError: the request itself is not possible.
            BackendError: this host refused what a path needs; or, at the end, to free the
                destination, which then stays blocked for now.
        """
        service = self.service
        report = await service.open_path(OpenPathRequest(destination, hops, strategy, tuple(via)))
        number = report.number
        try:
            yield AnonymousPath(number, destination, lambda: service.path(number))
        except BaseException:
            service.abandon(number)
            raise
        with contextlib.suppress(ConfigurationError):  # closed from elsewhere meanwhile
            service.close(number)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[NodeService]:
        with ExitStack() as stack, _undisguised():
            running = RunningNode(
                self._configuration, self._identity, self._host, self._engine, self._rng, stack
            )
            async with trio.open_nursery() as nursery:
                error: BaseException | None = None
                try:
                    running.start(nursery)
                    yield NodeService(running, self.stop)
                except BaseException as raised:
                    error = raised
                    raise
                finally:
                    if not running.failed:
                        with trio.CancelScope(shield=True):
                            await running.stop(release=error is None or _is_cancellation(error))
                    nursery.cancel_scope.cancel()


async def run_node(
    configuration: Configuration,
    identity: LocalIdentity,
    *,
    engine: UserspaceEngine | None = None,
    host: Host | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node with its control socket until it is told to stop, or cancelled.

    ``engine`` and ``host`` are as for :class:`OverlayNode`.

    Raises:
        OverlayError: the node could not start, or failed.
    """
    node = OverlayNode(configuration, identity, engine=engine, host=host)
    async with node:
        with _undisguised():
            async with trio.open_nursery() as nursery:
                path = configuration.node.control_socket
                await nursery.start(serve_control, node.service, path)
                task_status.started()
                _log.info("node.up")
                await node.wait_stopped()
                nursery.cancel_scope.cancel()


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


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)
