"""Run a command inside a Linux kernel that has ESP, even if the host's kernel has none.

User Mode Linux is a kernel that runs as an ordinary program. It boots this machine's own files,
mounted read-only below a file system in memory. So the changes of a command are lost afterwards,
except in the directories that are shared with it::

    this process                                    setpriv: gone with this process, kill -9 too
         └─ unshare: new process and mount namespace       │
              └─ linux.uml ─ its own namespaces, devices, SAs, packet filters
                   └─ kernel_init.sh ─ COMMAND ──serial lines──> stdout, stderr
                                          └──file `status`──> exit status

    python3 -m lab.kernel [--share DIRECTORY] [--time-limit SECONDS] COMMAND...

Root and ordinary users who may make namespaces can use it. The command has the rights of root
inside.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import shlex
import shutil
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

from lab.namespaces import LabError
from overlay.system.programs import SYSTEM_DIRECTORIES

__all__ = ["IN_KERNEL", "KernelRun", "in_kernel", "missing_kernel_requirements"]

IN_KERNEL: Final = "OVERLAY_IN_KERNEL"
"""The environment variable that is 1 for a command inside the kernel laboratory."""

_KERNEL: Final = "linux.uml"
_MODULES: Final = Path("/usr/lib/uml/modules")
_INIT: Final = Path(__file__).with_name("kernel_init.sh")
_PROGRAMS: Final = (
    (_KERNEL, "user-mode-linux"),
    ("modprobe", "kmod"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("taskset", "util-linux"),
)
_PASSED_NAMES: Final = frozenset({"CI", "HOME", "LANG", "PATH", "TERM", "TZ", "VIRTUAL_ENV"})
_PASSED_PREFIXES: Final = ("HYPOTHESIS_", "LC_", "OVERLAY_", "PYTEST_")
_DEFAULT_TIME_LIMIT_S: Final = 900.0
_DEFAULT_MEMORY_MIB: Final = 1024
_MEMORY_MARGIN_MIB: Final = 64
_KEPT_CONSOLE_BYTES: Final = 16_384
_LOAD_SAMPLE_S: Final = 0.3

# The parent may have died before prctl(PR_SET_PDEATHSIG) took effect.
_IF_PARENT_LIVES: Final = '[ "$PPID" = "$0" ] && exec "$@"'
# The kernel's memory is a file. It may be too large for /dev/shm, which is small in containers.
# There is no "exec", because as first process of the namespace a kernel that panics could not
# abort.
_WITH_MEMORY: Final = (
    'ulimit -c 0; mount -t tmpfs -o "size=$1m" tmpfs "$TMPDIR" && shift && "$@"; exit "$?"'
)


def in_kernel() -> bool:
    """Tell whether this process runs inside the kernel laboratory."""
    return os.environ.get(IN_KERNEL) == "1"


def missing_kernel_requirements() -> list[str]:
    """Return one sentence for each missing requirement, with the command that provides it."""
    path = _search_path(os.environ)
    missing = [
        f"The program {program} is missing: apt install {package}."
        for program, package in _PROGRAMS
        if shutil.which(program, path=path) is None
    ]
    if not missing and not any(_MODULES.glob("*/kernel/net/ipv4/esp4.ko")):
        missing.append(f"There is no esp4.ko below {_MODULES}: apt install user-mode-linux.")
    if missing:
        return missing
    done = subprocess.run(
        [*_isolation(), "true"], capture_output=True, text=True, check=False, env=_with_sbin()
    )
    if done.returncode != 0:
        missing.append(
            f"Namespaces for the kernel cannot be made ({done.stderr.strip()}): run as root, or "
            "sysctl -w kernel.unprivileged_userns_clone=1."
        )
    return missing


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRun:
    """One boot of the kernel for one command; several may run at the same time.

    The command starts in ``directory``. Its environment is ``environment`` and :data:`IN_KERNEL`.
    It may write to the ``shared`` directories of this host. ``time_limit_s`` is the limit of the
    time from boot to power-off.
    """

    command: Sequence[str]
    directory: Path = field(default_factory=Path.cwd)
    environment: Mapping[str, str] = field(default_factory=lambda: selected_environment())
    shared: Sequence[Path] = ()
    time_limit_s: float = _DEFAULT_TIME_LIMIT_S
    memory_mib: int = _DEFAULT_MEMORY_MIB

    def run(self, stdout: BinaryIO, stderr: BinaryIO) -> int:
        """Run the command, copy its output as it arrives, and return its exit status.

        Its standard input is empty. If a signal ends it, the status is 128 plus its number.

        Raises:
            LabError: the kernel did not boot, ended early, or exceeded its time limit. No process
                of it remains.
        """
        with _run_directory(self) as directory, _Lines() as lines:
            options = [
                "con0=null,fd:1",
                f"ssl0=null,fd:{lines.stdout.write}",
                f"ssl1=null,fd:{lines.stderr.write}",
            ]
            with _booted(
                self._boot_command(directory, options),
                directory,
                stdin=subprocess.DEVNULL,
                stdout=lines.console.write,
                stderr=lines.console.write,
                pass_fds=(lines.stdout.write, lines.stderr.write),
            ):
                lines.close_writing()
                complete = lines.copy(stdout, stderr, time.monotonic() + self.time_limit_s)
            if not complete:
                raise LabError(
                    f"`{shlex.join(self.command)}` did not end within {self.time_limit_s:.0f} s "
                    f"inside the kernel and was ended. {lines.said()}"
                )
            return _status(directory, lines.said())

    def run_on_terminal(self) -> int:
        """Run the command on this process's terminal, without time limit; return its status.

        Raises:
            LabError: standard input and output are no terminal, or the kernel did not boot.
        """
        if not (os.isatty(0) and os.isatty(1)):
            raise LabError("a prompt inside the kernel needs a terminal as input and output.")
        with _run_directory(self) as directory, _terminal_restored():
            columns, rows = os.get_terminal_size(0)
            (directory / "terminal").write_text(f"{rows} {columns}\n")
            arguments = self._boot_command(directory, ["con0=fd:0,fd:1", "loglevel=1"])
            with _booted(arguments, directory) as kernel:
                kernel.wait()
            return _status(directory, "")

    def _boot_command(self, directory: Path, options: Sequence[str]) -> list[str]:
        kernel = [
            *(_KERNEL, f"mem={self.memory_mib}M", f"uml_dir={directory}/", "quiet"),
            *("rootfstype=hostfs", "rootflags=/", "ro", f"init={directory}/init"),
            *(f"KERNEL_LAB={directory}", "con=null", "ssl=null", *options),
        ]
        memory = str(self.memory_mib + _MEMORY_MARGIN_MIB)
        return [
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *("sh", "-c", _IF_PARENT_LIVES, str(os.getpid())),
            # One processor, because system calls between two processors take many times as long.
            *("taskset", "--cpu-list", str(_idlest_processor())),
            *_isolation(),
            *("sh", "-c", _WITH_MEMORY, "sh", memory, *kernel),
        ]


def selected_environment() -> dict[str, str]:
    """Return the part of this process's environment that a command inside gets."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_NAMES or name.startswith(_PASSED_PREFIXES)
    }


# -- the process -----------------------------------------------------------------------


def _isolation() -> list[str]:
    namespaces = ["--mount", "--pid", "--fork", "--kill-child=KILL"]
    if os.geteuid() != 0:
        namespaces = ["--user", "--map-root-user", *namespaces]
    return ["unshare", *namespaces, "--"]


def _search_path(environment: Mapping[str, str]) -> str:
    return f"{environment.get('PATH', os.defpath)}:{os.pathsep.join(SYSTEM_DIRECTORIES)}"


def _with_sbin() -> dict[str, str]:
    return {**os.environ, "PATH": _search_path(os.environ)}


@contextlib.contextmanager
def _run_directory(run: KernelRun) -> Iterator[Path]:
    """Make the directory by which the host and kernel_init.sh communicate (described there)."""
    environment = dict(run.environment) | {IN_KERNEL: "1", "PATH": _search_path(run.environment)}
    assigned = shlex.join(f"{name}={value}" for name, value in environment.items())
    shared = [str(each.resolve(strict=True)) for each in run.shared]
    with tempfile.TemporaryDirectory(prefix="overlay-kernel-") as name:
        directory = Path(name)
        (directory / "memory").mkdir()
        shutil.copy(_INIT, directory / "init")
        (directory / "init").chmod(0o755)
        (directory / "shared").write_text("".join(f"{each}\n" for each in shared))
        (directory / "command").write_text(
            f"cd {shlex.quote(str(run.directory.absolute()))} || exit 125\n"
            f"exec env -i {assigned} {shlex.join(run.command)}\n"
        )
        yield directory


@contextlib.contextmanager
def _booted(
    arguments: Sequence[str],
    directory: Path,
    **streams: Any,  # noqa: ANN401 - handed to Popen as they are
) -> Iterator[subprocess.Popen[bytes]]:
    environment = _with_sbin() | {"TMPDIR": str(directory / "memory")}
    with subprocess.Popen(arguments, env=environment, **streams) as process:
        try:
            yield process
        finally:
            # This does no harm after a power-off. The namespace's processes end with its first one.
            process.kill()


def _status(directory: Path, said: str) -> int:
    try:
        return int((directory / "status").read_text())
    except (FileNotFoundError, ValueError):
        raise LabError(f"the kernel ended before its command did. {said}") from None


def _idlest_processor() -> int:
    """Return the usable processor with the most free time, measured for a moment."""
    usable = os.sched_getaffinity(0)
    before = _free_ticks()
    time.sleep(_LOAD_SAMPLE_S)
    after = _free_ticks()
    return max(usable, key=lambda each: after.get(each, 0) - before.get(each, 0))


def _free_ticks() -> dict[int, int]:
    """Return each processor's idle time in ticks (proc(5), /proc/stat).

    The time of programs with a lower priority ("nice") counts as idle, because they yield to a
    kernel laboratory.
    """
    fields = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    return {
        int(words[0][3:]): int(words[2]) + int(words[4])
        for words in fields
        if words[0].startswith("cpu") and words[0] != "cpu"
    }


# -- its output ------------------------------------------------------------------------


class _Pipe:
    """Both ends of a pipe."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()


class _Lines:
    """The outputs of the kernel: the command's two serial lines, and the console."""

    def __init__(self) -> None:
        self.stdout, self.stderr, self.console = _Pipe(), _Pipe(), _Pipe()
        self._writing = True
        self._console_tail = b""

    def copy(self, stdout: BinaryIO, stderr: BinaryIO, deadline: float) -> bool:
        """Copy output until all ends are closed; return False if they are not by ``deadline``."""
        sinks: dict[int, BinaryIO | None] = {
            self.stdout.read: stdout,
            self.stderr.read: stderr,
            self.console.read: None,
        }
        with selectors.DefaultSelector() as selector:
            for end in sinks:
                selector.register(end, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    return False
                for key, _ in ready:
                    if not self._pass_on(key.fd, sinks[key.fd]):
                        selector.unregister(key.fd)
        return True

    def _pass_on(self, end: int, sink: IO[bytes] | None) -> bool:
        data = os.read(end, 65_536)
        if sink is None:
            self._console_tail = (self._console_tail + data)[-_KEPT_CONSOLE_BYTES:]
        else:
            sink.write(data)
            sink.flush()
        return bool(data)

    def said(self) -> str:
        """Return the last line of the kernel's console, as a sentence."""
        text = self._console_tail.decode(errors="replace").replace("\r", "").strip()
        return f"The kernel said last:\n{text}" if text else "The kernel said nothing."

    def close_writing(self) -> None:
        """Close this process's writing ends, so that the end of the kernel closes the pipes."""
        if self._writing:
            self._writing = False
            for pipe in (self.stdout, self.stderr, self.console):
                os.close(pipe.write)

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_writing()
        for pipe in (self.stdout, self.stderr, self.console):
            os.close(pipe.read)


@contextlib.contextmanager
def _terminal_restored() -> Iterator[None]:
    """Restore the terminal's settings, because a killed kernel leaves the terminal in raw mode."""
    before = termios.tcgetattr(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


# -- the command line ------------------------------------------------------------------


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m lab.kernel",
        description="Run a command inside a Linux kernel with ESP (User Mode Linux).",
    )
    parser.add_argument(
        "--share",
        metavar="DIRECTORY",
        type=Path,
        action="append",
        default=[],
        help="let the command write to it; changes elsewhere are lost when the kernel ends",
    )
    parser.add_argument(
        "--time-limit", metavar="SECONDS", type=float, default=_DEFAULT_TIME_LIMIT_S
    )
    parser.add_argument("--memory", metavar="MIB", type=int, default=_DEFAULT_MEMORY_MIB)
    parser.add_argument(
        "--terminal", action="store_true", help="run it on this terminal, without time limit"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the command's status, or 125 if the laboratory failed."""
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    command = arguments.command[arguments.command[:1] == ["--"] :]
    if not command:
        print("kernel: say which command to run, for example: ip xfrm state", file=sys.stderr)
        return 125
    missing = missing_kernel_requirements()
    if missing:
        print("\n".join(missing), file=sys.stderr)
        return 125
    run = KernelRun(
        command=command,
        shared=arguments.share,
        time_limit_s=arguments.time_limit,
        memory_mib=arguments.memory,
    )
    try:
        if arguments.terminal:
            return run.run_on_terminal()
        return run.run(sys.stdout.buffer, sys.stderr.buffer)
    except (LabError, FileNotFoundError) as error:
        print(f"kernel: {error}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main())
