"""The asker's side of the control socket: blocking, for a command line that asks one thing."""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from overlay.addresses import IpNetwork
from overlay.control.codec import (
    MAX_RESPONSE_BYTES,
    Failure,
    decode_report_list,
    decode_response,
    encode_request,
)
from overlay.control.reports import decode_report
from overlay.control.service import (
    ClosePathRequest,
    OpenPathRequest,
    OpenPathsRequest,
    PathReport,
    PathsRequest,
    PeerReport,
    PeersRequest,
    Request,
    StatusReport,
    StatusRequest,
    StopReport,
    StopRequest,
)
from overlay.errors import (
    BackendError,
    ConfigurationError,
    InternalError,
    Malformed,
    OverlayError,
    TooManyConnections,
)
from overlay.trust import insist_on_peer

__all__ = ["RESPONSE_TIMEOUT_S", "ControlClient", "NoNodeAnswers", "RequestFailed"]

RESPONSE_TIMEOUT_S: Final = 150.0
"""Longer than the node's own limit, so that its sentence arrives rather than ours."""

_BUSY_S: Final = 20.0
"""How long to try again while the node serves as many connections as it may."""

_PAUSE_S: Final = (0.02, 0.2)
_RECEIVE_BYTES: Final = 65536
_CREDENTIALS: Final = struct.Struct("=iII")
"""struct ucred { pid_t pid; uid_t uid; gid_t gid; } (unix(7)); of whoever called listen(2)."""


class NoNodeAnswers(ConfigurationError):
    """No process listens on the control socket; what a node left behind is still there."""


class RequestFailed(OverlayError):
    """The node said no; the message is its sentence, ``kind`` the class of its error."""

    def __init__(self, sentence: str, kind: str) -> None:
        super().__init__(sentence)
        self.kind = kind


class ControlClient:
    """One connection to a running node; a context manager that hangs up at its end.

    Every method raises :class:`RequestFailed` when the node says no, :class:`InternalError`
    when it reports a bug of its own, and :class:`BackendError` when the connection is lost.
    """

    def __init__(self, path: Path, *, timeout_s: float = RESPONSE_TIMEOUT_S) -> None:
        """Connect.

        Raises:
            NoNodeAnswers: no node answers there.
            ConfigurationError: the socket cannot be used, or another user may have put it there.
        """
        self._path = path
        self._timeout_s = timeout_s
        self._received = bytearray()
        self._socket = _connect(path, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def status(self) -> StatusReport:
        """Ask how the node is."""
        return decode_report(StatusReport, self._ask(StatusRequest()))

    def peers(self) -> list[PeerReport]:
        """Ask for the Mix-nodes of the topology table."""
        return decode_report_list(PeerReport, self._ask(PeersRequest()))

    def paths(self) -> list[PathReport]:
        """Ask for the paths that the user asked for."""
        return decode_report_list(PathReport, self._ask(PathsRequest()))

    def open_path(self, request: OpenPathRequest) -> PathReport:
        """Open a path; returns when it carries packets."""
        return decode_report(PathReport, self._ask(request))

    def open_paths(self, request: OpenPathsRequest) -> list[PathReport]:
        """Open several paths; returns when all carry packets."""
        return decode_report_list(PathReport, self._ask(request))

    def close_path(self, which: int | IpNetwork | None) -> int:
        """Close one path by number or destination, or all (None); returns how many were."""
        closed = self._ask(ClosePathRequest(which))
        if type(closed) is not int:
            raise Malformed("the result must be a number.")
        return closed

    def stop(self, *, release: bool = False) -> StopReport:
        """Stop the node, after closing all paths if ``release``; see :meth:`wait_ended`."""
        return decode_report(StopReport, self._ask(StopRequest(release)))

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait for the end of the process that answers here; return whether it has ended.

        False also if it cannot be told, because the process is our own or another kernel's.
        """
        process, _ = _peer(self._socket)
        if process in (0, os.getpid()):
            return False
        try:
            descriptor = os.pidfd_open(process)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        try:
            return bool(select.select([descriptor], [], [], timeout_s)[0])
        finally:
            os.close(descriptor)

    def _ask(self, request: Request) -> Any:  # noqa: ANN401 - checked by each method
        deadline = time.monotonic() + _BUSY_S
        while True:
            result = self._exchange(request)
            if not isinstance(result, Failure):
                return result
            if result.kind == InternalError.__name__:
                raise InternalError(result.error)
            if result.kind != TooManyConnections.__name__ or time.monotonic() > deadline:
                raise RequestFailed(result.error, result.kind)
            # The node refused the connection before it read anything; another may have ended.
            self._socket.close()
            time.sleep(random.uniform(*_PAUSE_S))
            self._received.clear()
            self._socket = _connect(self._path, self._timeout_s)

    def _exchange(self, request: Request) -> Any:  # noqa: ANN401 - as above
        try:
            # A node that refused the connection has closed it; its answer says why.
            with contextlib.suppress(BrokenPipeError):
                self._socket.sendall(encode_request(request))
            line = self._receive_line()
        except TimeoutError as error:
            raise BackendError(
                f"the node at {self._path} did not answer in time; see its log, or restart it."
            ) from error
        except OSError as error:
            raise BackendError(self._lost()) from error
        return decode_response(line)

    def _receive_line(self) -> bytes:
        while b"\n" not in self._received[-_RECEIVE_BYTES:]:
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                raise BackendError(self._lost())
            self._received += data
            if len(self._received) > MAX_RESPONSE_BYTES:
                raise Malformed("the node's answer is longer than its bound.")
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return line

    def _lost(self) -> str:
        return f"the node at {self._path} closed the connection; it may have stopped."


def _connect(path: Path, timeout_s: float) -> socket.socket:
    """Connect, and try again for some seconds while the node has too many connections to accept.

    A socket with a timeout gets EAGAIN at once if the listener's backlog is full (unix(7)), so
    waiting is left to us. The pauses are drawn at random, because many commands wait together.
    """
    deadline = time.monotonic() + _BUSY_S
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(bytes(path))
        except BlockingIOError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"the node at {path} has had too many connections to accept another for "
                    f"{_BUSY_S:.0f} seconds; try again when other commands have ended."
                ) from error
            time.sleep(random.uniform(*_PAUSE_S))
        except OSError as error:
            connection.close()
            raise _why_no_connection(path, error) from error
        else:
            try:
                insist_on_peer(path, _peer(connection)[1])
            except BaseException:
                connection.close()
                raise
            return connection


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Return the process and the user of the program that listens at the other end."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(packed)
    return process, user


def _why_no_connection(path: Path, error: OSError) -> ConfigurationError:
    if isinstance(error, PermissionError):
        return ConfigurationError(
            f"the control socket {path} belongs to another user; run as the user of the node."
        )
    if path.exists() and not path.is_socket():
        kind = "a directory" if path.is_dir() else "a file"
        return ConfigurationError(
            f"{path} is {kind} and no control socket; name the socket of a running node, which is "
            "run/control.sock in its state directory unless the configuration says otherwise."
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
        return NoNodeAnswers(
            f'no node answers at {path}; start one with "overlay up", or name another with '
            "--config or --socket."
        )
    return ConfigurationError(
        f"the control socket {path} cannot be used ({error.strerror or error}); name another "
        "with --socket."
    )
