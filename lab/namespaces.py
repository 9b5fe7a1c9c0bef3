"""Make and enter network namespaces of a laboratory, which end with the process that made them.

::

    this process ──stdin pipe──> anchor: unshare --net ... cat     keeps one namespace alive
         │
         ├── nsenter --net=/proc/ANCHOR/ns/net ... PROGRAM         popen(), run()
         └── a thread after setns(2)                               call()

An anchor ends with its standard input. So a namespace ends with this process, even after
``kill -9``. Its programs get SIGKILL through ``prctl(PR_SET_PDEATHSIG)``, which takes effect a few
milliseconds after their start. A process namespace (see below) has no such gap. No name is written
to ``/run/netns``, so the same code works for root and for an unprivileged user::

    python3 -m lab.namespaces PROGRAM [ARGUMENT ...]

runs a program as root of new user, network and mount namespaces, isolated from this host.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any, Final, Protocol, Self, TypeVar

__all__ = [
    "LabError",
    "Namespace",
    "Program",
    "enter_network_of",
    "isolation_command",
    "missing_requirements",
    "netem_missing",
]

_CLONE_NEWNET: Final = 0x40000000
"""From ``linux/sched.h``, for setns(2)."""

_STOP_S: Final = 20.0
"""Time in seconds for a program to end after SIGTERM, before it gets SIGKILL."""

_XTABLES_LOCK: Final = ("XTABLES_LOCKFILE", "/proc/self/ns/net")
"""Environment of iptables: the file that it locks. The default is one file of the whole machine, so
hosts of a laboratory would wait for each other and fail after two seconds. This file is the network
namespace, so each host has its own lock, like separate machines."""

T = TypeVar("T")
Stream = int | IO[Any] | None


class LabError(Exception):
    """The laboratory could not be built or a program in it failed; the message says which."""


class Program(Protocol):
    """The interface of a process that runs in a namespace; ``subprocess.Popen`` has it."""

    stdin: Any
    stdout: Any
    stderr: Any

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, at most ``timeout`` seconds; return the exit status."""
        ...

    def send_signal(self, sig: int, /) -> None:
        """Send the process a signal."""
        ...

    def kill(self) -> None:
        """End the process with SIGKILL."""
        ...


class Namespace:
    """One network namespace, kept by an anchor process; use it as a context manager.

    It owns the programs that :meth:`popen` started, and ends those that still run when it closes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        os.environ.setdefault(*_XTABLES_LOCK)  # inherited by all programs of this namespace
        self._programs: list[Program] = []
        self._anchor = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", "echo ready; exec cat >/dev/null"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if self._output().readline() != b"ready\n":
            _, error = self._anchor.communicate()
            raise LabError(
                f"a network namespace could not be made ({error.decode().strip()}): "
                "run as root, or through `python3 -m lab.namespaces PROGRAM`."
            )
        try:
            self.run(["ip", "link", "set", "lo", "up"])
        except BaseException:
            self.close()
            raise

    def _output(self) -> IO[bytes]:
        if self._anchor.stdout is None:
            raise LabError("the anchor of the namespace has no output pipe.")
        return self._anchor.stdout

    @property
    def pid(self) -> int:
        """The anchor's process id: ``ip link set DEVICE netns PID`` takes it."""
        return self._anchor.pid

    def entering(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs ``argv`` in the namespace and ends with its parent."""
        net = f"--net=/proc/{self.pid}/ns/net"
        return ["nsenter", net, "--", "setpriv", "--pdeathsig", "KILL", "--", *argv]

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program in the namespace; it ends, at the latest, when the namespace closes."""
        program = subprocess.Popen(
            self.entering(argv), stdin=stdin, stdout=stdout, stderr=stderr, env=env
        )
        self.adopt(program)
        return program

    def adopt(self, program: Program) -> None:
        """Take over a running program of the namespace, to end it when the namespace closes."""
        self._programs.append(program)

    def run(
        self,
        argv: Sequence[str],
        *,
        text_input: str = "",
        check: bool = True,
        timeout_s: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace to its end and return its output.

        Raises:
            LabError: it failed (with its error output) or took longer than ``timeout_s``.
        """
        try:
            done = subprocess.run(
                self.entering(argv),
                input=text_input,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name}: {argv[0]} took more than {timeout_s:.0f} s.") from error
        if check and done.returncode != 0:
            shown = " ".join(argv)
            raise LabError(f"{self.name}: `{shown}` failed: {done.stderr.strip() or done.stdout}")
        return done

    def configure(self, commands: Sequence[str]) -> None:
        """Run a batch of ``ip`` commands (without the word ``ip``) in one process.

        Raises:
            LabError: one of them failed.
        """
        self.run(["ip", "-batch", "-"], text_input="\n".join(commands) + "\n")

    def set_kernel(self, **values: int | str) -> None:
        """Write kernel settings below ``net.``, with ``__`` for a dot: ``ipv4__ip_forward=1``.

        Raises:
            LabError: the kernel does not know one of them, or forbids it.
        """
        settings = [f"net.{name.replace('__', '.')}={value}" for name, value in values.items()]
        self.run(["sysctl", "-q", "-w", *settings])

    def call(self, function: Callable[[], T]) -> T:
        """Call a function of this process in a thread that entered the namespace.

        Sockets, TUN devices and child processes that the function makes belong to the namespace,
        also after its return. The thread ends with the call.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def enter_and_call() -> None:
            try:
                enter_network_of(self.pid)
                results.append(function())
            except BaseException as error:  # raised again below
                errors.append(error)

        thread = threading.Thread(target=enter_and_call, name=f"namespace-{self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def close(self) -> None:
        """End the programs of the namespace, then the namespace with all its devices."""
        while self._programs:
            end_program(self._programs.pop())
        if self._anchor.stdin is not None:
            self._anchor.stdin.close()
        self._anchor.wait()
        for stream in (self._anchor.stdout, self._anchor.stderr):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def end_program(program: Program) -> None:
    """End one program by SIGTERM, or by SIGKILL if it does not end in time; close its pipes."""
    if program.poll() is None:
        program.send_signal(signal.SIGTERM)
        try:
            program.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
    for stream in (program.stdin, program.stdout, program.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def enter_network_of(pid: int) -> None:
    """Move the calling thread into the network namespace of a process (setns(2)).

    Raises:
        LabError: the kernel refused.
    """
    # os.setns exists since Python 3.12; this code also works with 3.11.
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise LabError(f"entering a network namespace failed: {os.strerror(number)}.")
    finally:
        os.close(descriptor)


# -- requirements ----------------------------------------------------------------------

_PROGRAMS: Final = (
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("sysctl", "procps"),
)
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x0001 | 0x1000


def missing_requirements() -> list[str]:
    """Return one sentence for each missing requirement, with the command that provides it.

    If the list is empty, this process can make every :class:`Namespace`, TUN device, packet filter
    and capture of the laboratory.
    """
    missing = [
        f"The program {program} is missing: apt install {package}."
        for program, package in _PROGRAMS
        if shutil.which(program) is None
    ]
    if shutil.which("nft") is None and shutil.which("iptables-legacy") is None:
        missing.append("No packet filter is installed: apt install nftables (or iptables).")
    if missing:
        return missing
    try:
        with Namespace("probe") as probe:
            missing += probe.call(_tun_missing)
    except LabError as error:
        missing.append(str(error))
    return missing


def _tun_missing() -> list[str]:
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return ["/dev/net/tun is missing: modprobe tun."]
    except PermissionError:
        return ["/dev/net/tun may not be opened: run as root, or chmod 0666 /dev/net/tun."]
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", b"probe%d", _IFF_TUN_NO_PI))
    except OSError as error:
        return [f"a TUN device cannot be made ({error.strerror}): run as root."]
    finally:
        os.close(descriptor)
    return []


def netem_missing() -> str | None:
    """Return a sentence that says why links cannot be delayed here, or None if they can."""
    with Namespace("probe") as probe:
        done = probe.run(
            ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"], check=False
        )
    if done.returncode == 0:
        return None
    return "The kernel has no netem queue, so links cannot be delayed: modprobe sch_netem."


def isolation_command(argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``argv`` as root of new namespaces.

    These are network, mount and process namespaces, and for other users than root also a user
    namespace. The process namespace ends with its first process, together with all processes that
    were started inside.
    """
    namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
    if os.geteuid() != 0:
        namespaces = ["--user", "--map-root-user", *namespaces]
    return ["unshare", *namespaces, "--", *argv]


def _main(argv: list[str]) -> None:
    if not argv:
        sys.exit("usage: python3 -m lab.namespaces PROGRAM [ARGUMENT ...]")
    if shutil.which("unshare") is None:
        sys.exit("The program unshare is missing: apt install util-linux.")
    command = isolation_command(argv)
    os.execvp(command[0], command)


if __name__ == "__main__":
    _main(sys.argv[1:])
