"""The client of the control socket. It blocks, because a command line sends one request."""

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

__all__ = ["BUSY_S", "RESPONSE_TIMEOUT_S", "ControlClient", "NoNodeAnswers", "RequestFailed"]

RESPONSE_TIMEOUT_S: Final = 150.0
"""Longer than the node's own time limit, so that the user sees the node's error message."""

BUSY_S: Final = 20.0
"""Seconds for which to repeat the attempt while the node has too many connections."""

_PAUSE_S: Final = (0.02, 0.2)
_RECEIVE_BYTES: Final = 65536
_CREDENTIALS: Final = struct.Struct("=iII")
"""struct ucred { pid_t pid; uid_t uid; gid_t gid; } of the process that listens (unix(7))."""


class NoNodeAnswers(ConfigurationError):
    """No process listens on the control socket. Kernel state of an ended node may remain."""


class RequestFailed(OverlayError):
    """The node refused a request. It has the node's message, and ``kind`` is its error class."""

    def __init__(self, sentence: str, kind: str) -> None:
        super().__init__(sentence)
        self.kind = kind


class ControlClient:
    """One connection to a running node; a context manager that closes the connection.

    Every method raises :class:`RequestFailed` if the node refuses the request,
    :class:`InternalError` if the node reports a bug in itself, and :class:`BackendError` if the
    connection is lost or the node does not answer in ``timeout_s`` seconds.
    """

    def __init__(self, path: Path, *, timeout_s: float = RESPONSE_TIMEOUT_S) -> None:
        """Connect.

        Raises:
            NoNodeAnswers: no node listens on the socket.
            ConfigurationError: the socket cannot be used, or it may belong to another user.
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
        """Close the connection."""
        self._socket.close()

    def status(self) -> StatusReport:
        """Return the status of the node."""
        return decode_report(StatusReport, self._ask(StatusRequest()))

    def peers(self) -> list[PeerReport]:
        """Return the Mix-nodes of the topology table."""
        return decode_report_list(PeerReport, self._ask(PeersRequest()))

    def paths(self) -> list[PathReport]:
        """Return the paths that the user has opened."""
        return decode_report_list(PathReport, self._ask(PathsRequest()))

    def open_paths(self, request: OpenPathsRequest) -> list[PathReport]:
        """Open a path to each destination, and return their reports when all carry packets."""
        reports = decode_report_list(PathReport, self._ask(request))
        if len(reports) != len(request.destinations):
            raise Malformed("the result must be one path report for each destination.")
        return reports

    def close_path(self, which: int | IpNetwork | None) -> int:
        """Close one path, by number or destination, or all (None); return how many were closed."""
        closed = self._ask(ClosePathRequest(which))
        if type(closed) is not int:
            raise Malformed("the result must be a number.")
        return closed

    def stop(self, *, release: bool = False) -> StopReport:
        """Stop the node; if ``release`` is set, close all paths first.

        The node may still run when this returns; see :meth:`wait_ended`.
        """
        return decode_report(StopReport, self._ask(StopRequest(release)))

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait at most ``timeout_s`` seconds for the node's process to end; tell whether it has.

        The result is also False if the process cannot be observed, because it is this process or
        is in a PID namespace that this process does not see.
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
        deadline = time.monotonic() + BUSY_S
        while True:
            result = self._exchange(request)
            if not isinstance(result, Failure):
                return result
            if result.kind == InternalError.__name__:
                raise InternalError(result.error)
            if result.kind != TooManyConnections.__name__ or time.monotonic() > deadline:
                raise RequestFailed(result.error, result.kind)
            # The node refused this connection unread. Connect again, as others may have ended.
            self._socket.close()
            time.sleep(random.uniform(*_PAUSE_S))
            self._received.clear()
            self._socket = _connect(self._path, self._timeout_s)

    def _exchange(self, request: Request) -> Any:  # noqa: ANN401 - as above
        try:
            # If the node has refused and closed the connection, its answer can still be read.
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
    """Connect, and repeat the attempt for :data:`BUSY_S` while the node's backlog is full.

    A socket with a timeout gets EAGAIN at once if the backlog is full (unix(7)), so the waiting
    is done here. Pauses are random, so that many waiting commands do not retry together.
    """
    deadline = time.monotonic() + BUSY_S
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
                    f"{BUSY_S:.0f} seconds; try again when other commands have ended."
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
    """Return the process id and the user id of the program that listens on the socket."""
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
