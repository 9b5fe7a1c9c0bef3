"""Run nodes of a laboratory as separate processes of the product, each in its host's namespace."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from lab.namespaces import LabError, end_program
from lab.preloaded import PreloadedProcess, entry_of, run_preloaded, start_preloaded
from lab.underlay import LaboratoryHost

__all__ = ["PORT", "NodeProcess", "wait_until"]

PORT: Final = 4500
_NETWORK_ID: Final = "laboratory"
_POLL_S: Final = 0.1
_LOGGING: Final = ("--log-level", "info")


class NodeProcess:
    """One node: its directory, its configuration, and its process while it runs."""

    def __init__(
        self,
        host: LaboratoryHost,
        directory: Path,
        *,
        exits: bool = False,
        ipv6: bool = False,
        backend: str = "userspace",
        settings: str = "",
        listen: Sequence[str] = (),
        runner: Sequence[str] = (sys.executable, "-m", "overlay"),
    ) -> None:
        """Prepare a node on ``host``; its processes are preloaded (lab/preloaded.py).

        Args:
            host: the host on which it runs.
            directory: its own directory, made if necessary.
            exits: whether it is configured as an exit.
            ipv6: whether the overlay runs over the underlay's IPv6.
            backend: its IPsec backend.
            settings: further TOML sections.
            listen: endpoints to listen at instead of the host's address.
            runner: the command that starts the product's command line.
        """
        self.host = host
        self.directory = directory
        self.address = str(host.ipv6.ip if ipv6 else host.ipv4.ip)
        self.endpoint = f"[{self.address}]:{PORT}" if ipv6 else f"{self.address}:{PORT}"
        self.runner = list(runner)
        self._process: subprocess.Popen[bytes] | PreloadedProcess | None = None
        directory.mkdir(parents=True, exist_ok=True)
        made = json.loads(self.cli("init", "--dir", str(directory), "--json"))
        self.overlay_address: str = made["overlay_address"]
        self.configuration = directory / "overlay.toml"
        written = _configuration(listen or (self.endpoint,), exits=exits, backend=backend)
        self.configuration.write_text(written + settings)
        self.log = directory / "log"
        self.announcements = directory / "announcements"

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the running process.

        Raises:
            LabError: none runs.
        """
        if self._process is None:
            raise LabError(f"the node {self.host.name} does not run.")
        return self._process.pid

    def start(self, bootstrap: NodeProcess | str | None = None) -> None:
        """Start the process; it joins through ``bootstrap``, or through nodes that it has stored.

        ``bootstrap`` is a node or the endpoint of one.
        """
        peer = bootstrap.endpoint if isinstance(bootstrap, NodeProcess) else bootstrap
        options = ["--bootstrap", peer] if peer else []
        with self.log.open("ab") as log, self.announcements.open("ab") as announcements:
            arguments = ["up", "--config", str(self.configuration), *options, *_LOGGING]
            self._process = self._started(arguments, announcements.fileno(), log.fileno())

    def _started(
        self, arguments: Sequence[str], stdout: int, stderr: int
    ) -> subprocess.Popen[bytes] | PreloadedProcess:
        namespace, entry = self.host.namespace, entry_of(self.runner)
        if entry is None:
            return namespace.popen([*self.runner, *arguments], stdout=stdout, stderr=stderr)
        module, first = entry
        return start_preloaded(
            namespace, module, [*first, *arguments], stdout=stdout, stderr=stderr
        )

    def send_signal(self, number: int) -> None:
        """Send the process a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """Stop the process with SIGTERM and wait for its end."""
        process, self._process = self._process, None
        if process is not None:
            end_program(process)

    def kill(self) -> None:
        """End the process with SIGKILL, like a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def cli(self, *arguments: str, timeout_s: float = 60.0) -> str:
        """Run the command line on this node's host and return its output.

        Raises:
            LabError: it failed; the message has its error output.
        """
        namespace, entry = self.host.namespace, entry_of(self.runner)
        if entry is None:
            return namespace.run([*self.runner, *arguments], timeout_s=timeout_s).stdout
        module, first = entry
        done = run_preloaded(namespace, module, [*first, *arguments], timeout_s=timeout_s)
        if done.returncode != 0:
            shown = " ".join(arguments)
            raise LabError(f"{namespace.name}: `{shown}` failed: {done.stderr.strip()}")
        return done.stdout

    def ask(self, *arguments: str, timeout_s: float = 60.0) -> Any:  # noqa: ANN401 - JSON
        """Run a command with ``--json`` against the running node and return its answer."""
        output = self.cli(
            *arguments, "--config", str(self.configuration), "--json", timeout_s=timeout_s
        )
        return json.loads(output)

    def status(self) -> dict[str, Any] | None:
        """Return the node's status, or None while it does not answer yet."""
        self._insist_on_life()
        try:
            answer: dict[str, Any] = self.ask("status")
        except LabError:
            return None
        return answer

    def _insist_on_life(self) -> None:
        if not self.running:
            tail = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
            raise LabError(f"the node {self.host.name} ended: {tail}")

    @property
    def answers(self) -> bool:
        """Whether the node answers at its control socket.

        Raises:
            LabError: its process has ended; the message has the end of its log.
        """
        self._insist_on_life()
        return (self.directory / "run" / "control.sock").exists()


def wait_until(what: str, holds: Callable[[], bool], *, timeout_s: float) -> float:
    """Poll until ``holds()`` is true; return how many seconds it took.

    Raises:
        LabError: it was not true within ``timeout_s``.
    """
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > timeout_s:
            raise LabError(f"{what} did not happen within {timeout_s:.0f} s.")
        time.sleep(_POLL_S)
    return time.monotonic() - begun


def _configuration(listen: Sequence[str], *, exits: bool, backend: str) -> str:
    return f"""\
[network]
network_id = "{_NETWORK_ID}"
listen = {json.dumps([*listen])}
allow_private_endpoints = true

[roles]
relay = true
exit = {str(exits).lower()}

[ipsec]
backend = "{backend}"

[dht]
crawl_first_interval_s = 1.0
crawl_interval_s = 4.0

"""
