"""Start processes of the product in milliseconds, by forking a process that has imported it.

An interpreter needs a second of processor time to import the product, and three seconds inside the
kernel laboratory. So a server imports it once, and forks for each requested process::

    this process ──socket──> python -m lab.preloaded ──fork──> overlay up, in a host's namespace
         ^                          (imports once)                    │
         └───────── a pipe for each: its number, its exit status <────┘

After the fork each process has its own namespace, files, sockets and memory. It runs the same
function as the command line. It ends with the server, and the server ends with this process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from lab.child import FAILED, become_program
from lab.namespaces import LabError, Namespace

__all__ = ["PreloadedProcess", "entry_of", "run_preloaded", "start_preloaded"]

_IMPORTED: Final = (
    *("overlay.cli.main", "overlay.cli.up", "overlay.cli.ask", "overlay.cli.commands"),
    *("overlay.cli.initialise", "overlay.cli.without_node", "overlay.node"),
)
_ENTRIES: Final = {"overlay": "overlay.cli.main", "lab.watched": "lab.watched"}
"""Commands that can be run, with the module of each that has ``main(arguments)``."""

_MESSAGE_BYTES: Final = 65_536


def entry_of(runner: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return module and first arguments of a command that the server can run, or None."""
    if list(runner[:2]) == [sys.executable, "-m"] and runner[2] in _ENTRIES:
        return _ENTRIES[runner[2]], list(runner[3:])
    return None


class PreloadedProcess:
    """A child of the server, with the methods of :class:`subprocess.Popen` that are used here."""

    stdin = stdout = stderr = None

    def __init__(self, argv: Sequence[str], ends: int) -> None:
        self.returncode: int | None = None
        self._argv = list(argv)
        self._ends = ends
        self._read = b""
        self._read_line()
        self.pid = int(self._read)
        self._read = b""

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        if self.returncode is None and select.select([self._ends], [], [], 0)[0]:
            self._take_status()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        if self.returncode is None:
            if not select.select([self._ends], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self._argv, timeout or 0.0)
            self._take_status()
        return self.returncode if self.returncode is not None else FAILED

    def send_signal(self, number: int) -> None:
        """Send the process a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _take_status(self) -> None:
        self._read_line()
        os.close(self._ends)
        # There is nothing to read, so the server has ended, and its children with it.
        self.returncode = int(self._read or -signal.SIGKILL)

    def _read_line(self) -> None:
        while not self._read.endswith(b"\n"):
            byte = os.read(self._ends, 1)
            if not byte:
                return
            self._read += byte


def start_preloaded(
    namespace: Namespace, module: str, arguments: Sequence[str], *, stdout: int, stderr: int
) -> PreloadedProcess:
    """Run ``main(arguments)`` of a module in a separate process, inside a namespace.

    Args:
        namespace: the namespace; the process ends, at the latest, when it closes.
        module: the module that :func:`entry_of` returned.
        arguments: arguments of its ``main``.
        stdout: descriptor of its standard output.
        stderr: descriptor of its standard error.

    Raises:
        LabError: the server does not run.
    """
    process = _the_server().start(namespace.pid, module, arguments, stdout, stderr)
    namespace.adopt(process)
    return process


def run_preloaded(
    namespace: Namespace, module: str, arguments: Sequence[str], *, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run it to its end and return its output.

    Raises:
        LabError: it took longer than ``timeout_s``.
    """
    with (
        open(os.memfd_create("stdout"), "r+b") as out,
        open(os.memfd_create("stderr"), "r+b") as err,
    ):
        process = _the_server().start(
            namespace.pid, module, arguments, stdout=out.fileno(), stderr=err.fileno()
        )
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            shown = " ".join(arguments)
            raise LabError(
                f"{namespace.name}: `{module} {shown}` took more than {timeout_s:.0f} s."
            ) from error
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
    return subprocess.CompletedProcess([module, *arguments], status, *said)


# -- this process's side -----------------------------------------------------------------


class _ForkServer:
    """The process that forks; it ends with this process."""

    def __init__(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lab.preloaded", str(its.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(its.fileno(),),
            )
        self._socket = ours
        self._lock = threading.Lock()
        self._owner = os.getpid()
        atexit.register(self._end)

    def start(
        self, anchor: int, module: str, arguments: Sequence[str], stdout: int, stderr: int
    ) -> PreloadedProcess:
        request = _Request(anchor, os.getcwd(), module, list(arguments))
        read, write = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._socket, [request.encoded()], [stdout, stderr, write])
        except OSError as error:
            os.close(read)
            raise LabError(f"the server of preloaded processes has ended: {error}.") from error
        finally:
            os.close(write)
        return PreloadedProcess([module, *arguments], read)

    def _end(self) -> None:
        if os.getpid() == self._owner:  # and not in a child that was forked
            self._socket.close()
            self.process.wait()


_servers: dict[int, _ForkServer] = {}
"""Servers by the id of the process that started them, because a forked child must start its own."""


def _the_server() -> _ForkServer:
    server = _servers.get(os.getpid())
    if server is None or server.process.poll() is not None:
        server = _servers[os.getpid()] = _ForkServer()
    return server


# -- the server --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Request:
    anchor: int
    directory: str
    module: str
    arguments: list[str]

    def encoded(self) -> bytes:
        return json.dumps([self.anchor, self.directory, self.module, self.arguments]).encode()

    @classmethod
    def decode(cls, data: bytes) -> _Request:
        return cls(*json.loads(data))


def _serve(control: socket.socket) -> None:
    """Fork for each request until the other end closes; report each child's id and status."""
    children: dict[int, tuple[int, int]] = {}  # by pidfd: the process id, its pipe
    while True:
        ready, _, _ = select.select([control.fileno(), *children], [], [])
        for each in children.keys() & set(ready):
            _tell_status(*children.pop(each))
            os.close(each)
        if control.fileno() not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 3)
        if not data:
            return
        stdout, stderr, pipe = descriptors
        request = _Request.decode(data)
        pid = os.fork()
        if pid == 0:
            become_program(
                partial(_run_request, request),
                namespace=request.anchor,
                stdout=stdout,
                stderr=stderr,
            )
        for descriptor in (stdout, stderr):
            os.close(descriptor)
        os.write(pipe, b"%d\n" % pid)
        children[os.pidfd_open(pid)] = (pid, pipe)


def _tell_status(pid: int, pipe: int) -> None:
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):  # unless nothing asks for it
        os.write(pipe, b"%d\n" % os.waitstatus_to_exitcode(status))
    os.close(pipe)


def _run_request(request: _Request) -> int:
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)  # the server's
    os.chdir(request.directory)
    status: int = importlib.import_module(request.module).main(request.arguments)
    return status


def _main() -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # else the first collection of each child would copy all of it
    with socket.socket(fileno=int(sys.argv[1])) as control:
        _serve(control)


if __name__ == "__main__":
    _main()
