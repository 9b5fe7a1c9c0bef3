"""The server of the control socket, a Unix socket that only the user of the node can reach.

Three checks protect it, and each is sufficient: the directory of the socket has mode 0700, the
socket has mode 0600, and the user of every connection is read (SO_PEERCRED, unix(7)).

::

    accept ──> owner? ──> room? ──> line ──> decode ──> service ──> encode ──> line ...
                 │no        │no       │ too long or idle: close
                 └─ close   └─ send an error, close
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Final

import trio

from overlay.control.codec import (
    MAX_REQUEST_BYTES,
    Failure,
    decode_request,
    encode_failure,
    encode_success,
)
from overlay.control.failure import failure_of, overlay_error_in
from overlay.control.service import (
    ClosePathRequest,
    ControlService,
    OpenPathsRequest,
    PathsRequest,
    PeersRequest,
    Request,
    StatusRequest,
    StopRequest,
)
from overlay.control.socket_file import claimed_socket
from overlay.errors import LimitReached, Malformed, TooManyConnections
from overlay.logs import EventLog

__all__ = ["IDLE_TIMEOUT_S", "MAX_CONNECTIONS", "REQUEST_TIMEOUT_S", "serve_control"]

MAX_CONNECTIONS: Final = 128
"""Maximum number of connections; a command that opens a path keeps one until the path is open."""

REQUEST_TIMEOUT_S: Final = 120.0
"""Seconds until a request fails. To open a path, a node may have to try several circuits."""

IDLE_TIMEOUT_S: Final = 60.0
"""Seconds after which a connection without a request, or with an unread answer, is closed."""

_RECEIVE_BYTES: Final = 8192
_CREDENTIALS: Final = struct.Struct("=iII")
"""struct ucred { pid_t pid; uid_t uid; gid_t gid; } (unix(7))."""

_log = EventLog(__name__)


async def serve_control(
    service: ControlService,
    path: Path,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests on the Unix socket ``path`` until cancelled, then remove the socket.

    Raises:
        ConfigurationError: a running node has the socket, or its directory is not private.
        BackendError: the operating system could not create the socket.
    """
    with claimed_socket(path) as claimed:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(claimed))
        server = _Server(service)
        await trio.serve_listeners(
            server.handle, [listener], task_status=_without_value(task_status)
        )


def _without_value(task_status: trio.TaskStatus[None]) -> trio.TaskStatus[object]:
    class Started:
        def started(self, value: object = None) -> None:  # noqa: ARG002 - the listeners
            task_status.started()

    return Started()


class _Server:
    """Accept connections, at most ``MAX_CONNECTIONS`` at the same time."""

    def __init__(self, service: ControlService) -> None:
        self._service = service
        self._connections = 0

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection; serve_listeners closes it afterwards."""
        if not _is_owner(stream.socket):
            _log.warning("control.stranger", peer_triggered=True)
            return
        self._connections += 1
        try:
            connection = _Connection(stream, self._service)
            if self._connections > MAX_CONNECTIONS:
                await connection.refuse()
            else:
                await connection.run()
        except trio.BrokenResourceError:
            pass  # the client closed the connection
        finally:
            self._connections -= 1


class _Connection:
    """One connection of a client. Each request is answered before the next one is read."""

    def __init__(self, stream: trio.SocketStream, service: ControlService) -> None:
        self._stream = stream
        self._service = service
        self._received = bytearray()

    async def refuse(self) -> None:
        """Answer that the node has too many connections."""
        failure = Failure(
            f"{MAX_CONNECTIONS} commands are connected to this node, which is the most that it "
            "serves at once; try again when some have ended.",
            TooManyConnections.__name__,
        )
        await self._send(encode_failure(failure))

    async def run(self) -> None:
        """Answer lines until the client closes the connection, is idle or sends too long a line."""
        while True:
            try:
                line = await self._next_line()
            except Malformed as error:
                await self._send(encode_failure(failure_of(error)))
                return
            if line is None or not await self._handle(line):
                return

    async def _handle(self, line: bytes) -> bool:
        """Answer one line; return whether to keep the connection."""
        try:
            request = decode_request(line)
        except Malformed as error:
            return await self._send(encode_failure(failure_of(error)))
        response = await self._answer_in_time(request)
        if response is None or not await self._send(response):
            return False
        if isinstance(request, StopRequest):
            self._service.stop()  # after the answer: stopping cancels this task
        return True

    async def _answer_in_time(self, request: Request) -> bytes | None:
        """Return the response, or None if the client has closed the connection meanwhile."""
        response = None
        with trio.move_on_after(REQUEST_TIMEOUT_S) as limit:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_at_hang_up, nursery.cancel_scope)
                response = await self._answer(request)
                nursery.cancel_scope.cancel()
        if limit.cancelled_caught:
            return encode_failure(Failure(_late(request), LimitReached.__name__))
        return response

    async def _answer(self, request: Request) -> bytes:
        try:
            return await _perform(self._service, request)
        except Exception as error:
            # The client gets an answer for every exception, and the log records a bug.
            if overlay_error_in(error) is None:
                _log.error("control.bug", cause=error)
            return encode_failure(failure_of(error))

    async def _cancel_at_hang_up(self, scope: trio.CancelScope) -> None:
        """Cancel the request if the client closes the connection; keep what it sends meanwhile."""
        while len(self._received) <= MAX_REQUEST_BYTES:
            if not await self._receive():
                scope.cancel()
                return

    async def _next_line(self) -> bytes | None:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > MAX_REQUEST_BYTES:
                raise Malformed(f"a request has at most {MAX_REQUEST_BYTES} bytes.")
            with trio.move_on_after(IDLE_TIMEOUT_S) as limit:
                if not await self._receive():
                    return None
            if limit.cancelled_caught:
                return None
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    async def _receive(self) -> bool:
        """Receive bytes into the buffer; return False if the client has closed the connection."""
        try:
            data = await self._stream.receive_some(_RECEIVE_BYTES)
        except trio.BrokenResourceError:
            return False
        self._received += data
        return bool(data)

    async def _send(self, response: bytes) -> bool:
        """Send a response; return False if the client does not read it in time."""
        with trio.move_on_after(IDLE_TIMEOUT_S) as limit:
            await self._stream.send_all(response)
        return not limit.cancelled_caught


def _late(request: Request) -> str:
    if isinstance(request, OpenPathsRequest):
        return (
            f"the node did not open it within {REQUEST_TIMEOUT_S:.0f} seconds and tries again; "
            'its packets stay blocked meanwhile. See "overlay path list", or close it with '
            '"overlay path close".'
        )
    return f"the node did not finish within {REQUEST_TIMEOUT_S:.0f} seconds; try again."


async def _perform(service: ControlService, request: Request) -> bytes:
    match request:
        case StatusRequest():
            return encode_success(service.status())
        case PeersRequest():
            return encode_success(list(service.peers()))
        case PathsRequest():
            return encode_success(list(service.paths()))
        case OpenPathsRequest():
            return encode_success(list(await service.open_paths(request)))
        case ClosePathRequest(path=path):
            return encode_success(await service.close_path(path))
        case StopRequest(release=release):
            return encode_success(await service.leave(release=release))


def _is_owner(stream: trio.socket.SocketType) -> bool:
    """Tell whether the process of the client runs as the user of this node, or as root."""
    packed = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, user, _group = _CREDENTIALS.unpack(packed)
    return user in (0, os.geteuid())
