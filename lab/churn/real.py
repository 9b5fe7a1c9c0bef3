"""Play the script with real processes, which are killed and started again on time.

The nodes run the product's own command line. They are observed only through their control sockets.
A Unix socket is a file, so it can be used from outside of the namespace.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

from lab.churn.forked import Forked
from lab.churn.ledger import CounterTotals
from lab.churn.measured import Measured
from lab.churn.prober import run_prober
from lab.churn.script import HOPS, NETWORK_ID, ChurnScript, Switch, endpoint_of
from lab.namespaces import LabError
from lab.underlay import LaboratoryHost, Underlay
from overlay.addresses import NodeId
from overlay.cli.main import main as command_line
from overlay.control.client import ControlClient
from overlay.dht.settings import DhtSettings
from overlay.errors import OverlayError
from overlay.identity import LocalIdentity
from overlay.keyfile import write_identity
from overlay.node import run_node
from overlay.settings import declared
from sims.world.engine.heap import EventHeap

__all__ = ["play"]

_DESTINATION: Final = "203.0.113.10/32"
_START_S: Final = 60.0
_COUNTERS: Final = {
    "datagrams": "dht_datagrams_sent",
    "bytes": "dht_bytes_sent",
    "lookups": "dht_lookups",
    "lookups succeeded": "dht_lookups_succeeded",
    "paths": "paths_tried",
    "paths opened": "paths_opened_at_first_try",
}


def play(script: ChurnScript, directory: Path) -> Measured:
    """Play the script once, in real time.

    Raises:
        LabError: a namespace could not be made, or a node did not start or ended by itself.
    """
    with Underlay() as underlay:
        hosts = [underlay.add_host(f"node{number}") for number in range(script.nodes + 1)]
        underlay.add_server("bob")
        nodes = [_Node(script, number, hosts[number], directory) for number in range(script.nodes)]
        stage = _Stage(script, nodes, hosts[script.prober], directory)
        try:
            return stage.run()
        finally:
            stage.end()


class _Node:
    """One node's directory, and its process while it runs."""

    def __init__(
        self, script: ChurnScript, number: int, host: LaboratoryHost, directory: Path
    ) -> None:
        self.number = number
        self.directory = directory / host.name
        self.directory.mkdir(parents=True)
        self._host = host
        identity = LocalIdentity.generate(SystemRandom())
        self.node_id = identity.node_id
        write_identity(self.directory / "identity.key", identity)
        text = _configuration(script, number)
        (self.directory / "overlay.toml").write_text(text, encoding="utf-8")
        self._process: Forked | None = None
        self._client: ControlClient | None = None

    @property
    def control_socket(self) -> Path:
        """Path of its control socket."""
        return self.directory / "run" / "control.sock"

    def start(self) -> None:
        """Start the process."""
        arguments = ["up", "--config", str(self.directory / "overlay.toml")]
        program = partial(command_line, arguments, run_node=run_node)
        self._process = Forked(self._host.namespace, self.directory / "log", program)

    def kill(self) -> None:
        """End the process with SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
        with contextlib.suppress(FileNotFoundError):  # of the killed process
            self.control_socket.unlink()

    def insist_on_life(self) -> None:
        """Raise LabError if the process ended by itself."""
        if self._process is not None and self._process.ended():
            self._process = None
            log = (self.directory / "log").read_text(errors="replace")[-2000:]
            raise LabError(f"the node {self._host.name} ended: {log}")

    def counters(self) -> dict[str, int] | None:
        """Return the node's counters; None if it does not answer (yet)."""
        try:
            with ControlClient(self.control_socket) as client:
                status = client.status()
        except OverlayError:
            return None
        return {ours: status.counters.get(theirs, 0) for ours, theirs in _COUNTERS.items()}


class _Asker:
    """A client that opens a path, closes it, waits and repeats; its methods do not block.

    Each round has a separate connection, because a node closes idle ones.
    """

    def __init__(self, node: _Node, stage: _Stage) -> None:
        self._control_socket = str(node.control_socket)
        self._stage = stage
        self._socket: socket.socket | None = None
        self._buffer = b""

    def ask(self) -> None:
        """Request a path; the answer arrives when it is open, or when it could not be opened."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(self._control_socket)
        self._stage.selector.register(self._socket, selectors.EVENT_READ, self._readable)
        self._say("open_paths", {"destinations": [_DESTINATION], "hops": HOPS})

    def _say(self, method: str, parameters: dict[str, Any]) -> None:
        assert self._socket is not None  # a round is under way
        line = json.dumps({"method": method, "parameters": parameters}).encode() + b"\n"
        self._socket.sendall(line)

    def _readable(self) -> None:
        assert self._socket is not None  # it was registered
        received = self._socket.recv(65536)
        if not received:
            raise LabError("a client's node ended the connection before it had answered")
        self._buffer += received
        while b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            answer = json.loads(line)
            if answer["ok"] and isinstance(answer["result"], list):
                self._say("close_path", {"path": "all"})
            else:  # closed, or refused after several tries
                self._end_round()

    def _end_round(self) -> None:
        assert self._socket is not None  # it had the answer
        self._stage.selector.unregister(self._socket)
        self._socket.close()
        self._stage.after(self._stage.script.timing.path_pause_s, self.ask)


class _Stage:
    """The schedule of the run: actions that are due, and descriptors that can be read."""

    def __init__(
        self, script: ChurnScript, nodes: list[_Node], prober: LaboratoryHost, directory: Path
    ) -> None:
        self.script = script
        self.selector = selectors.DefaultSelector()
        self._nodes = nodes
        self._prober_host = prober
        self._results = directory / "probes.json"
        self._log = directory / "prober.log"
        self._prober: Forked | None = None
        self._ledger = CounterTotals()
        self._due = EventHeap()
        """Planned actions. Its time is that of the play so far, in seconds."""
        self._began_at = 0.0
        self._lags: list[float] = []
        self._before: dict[int, dict[str, int]] = {}

    def run(self) -> Measured:
        script, timing = self.script, self.script.timing
        for number in (script.bootstrap, *script.exits, *script.clients):
            self._nodes[number].start()
        self._wait_for(self._nodes[: script.relays.start])
        self._began_at = time.monotonic()
        ids: list[NodeId] = [node.node_id for node in self._nodes]
        program = partial(run_prober, script, ids, self._began_at, self._results)
        self._prober = Forked(self._prober_host.namespace, self._log, program)
        for switch in script.switches:
            self._at(switch.time_s, partial(self._switch, switch))
        self._at(timing.warm_up_s, self._warm)
        for number in script.clients:
            asker = _Asker(self._nodes[number], self)
            self._at(timing.warm_up_s + 0.1 * number, asker.ask)
        self._pass_time(timing.end_s)
        return self._measured()

    def after(self, pause_s: float, action: Callable[[], None]) -> None:
        """Plan an action."""
        self._at(self._time_s() + pause_s, action)

    def end(self) -> None:
        """End every process."""
        if self._prober is not None and not self._prober.ended():
            self._prober.kill()
        for node in self._nodes:
            node.kill()
        self.selector.close()

    def _time_s(self) -> float:
        return time.monotonic() - self._began_at

    def _at(self, time_s: float, action: Callable[[], None]) -> None:
        self._due.at(time_s, self._act, action)

    def _act(self, action: Callable[[], None], _: object) -> None:
        action()
        self._lags.append(self._time_s() - self._due.now)

    def _pass_time(self, until_s: float) -> None:
        while self._time_s() < until_s:
            while self._due.next_at <= self._time_s():
                self._due.step()
            pause = min(until_s, self._due.next_at) - self._time_s()
            for key, _ in self.selector.select(max(0.0, pause)):
                key.data()

    def _wait_for(self, nodes: list[_Node]) -> None:
        deadline = time.monotonic() + _START_S
        while not all(node.control_socket.exists() for node in nodes):
            for node in nodes:
                node.insist_on_life()
            if time.monotonic() > deadline:
                raise LabError(f"the first nodes did not start within {_START_S:.0f} s.")
            time.sleep(0.05)

    def _switch(self, switch: Switch) -> None:
        node = self._nodes[switch.node]
        if not switch.online:
            self._ledger.end(switch.node, switch.time_s, node.counters())
            node.kill()
            return
        node.start()
        if switch.time_s >= self.script.timing.warm_up_s:
            self._ledger.begin(switch.node, switch.time_s, {})

    def _warm(self) -> None:
        now = self.script.timing.warm_up_s
        for number in self.script.relays:
            counters = self._nodes[number].counters()
            if counters is not None:
                self._ledger.begin(number, now, counters)
        for number in self.script.clients:
            self._before[number] = self._nodes[number].counters() or {}

    def _measured(self) -> Measured:
        script, ledger = self.script, self._ledger
        for number in script.relays:
            ledger.end(number, script.timing.end_s, self._nodes[number].counters())
        paths = [self._gained(number, "paths") for number in script.clients]
        opened = [self._gained(number, "paths opened") for number in script.clients]
        probes = self._probed()
        return Measured(
            probes=len(probes),
            probes_found=sum(probes),
            paths=sum(paths),
            paths_opened=sum(opened),
            lookups=ledger.total("lookups"),
            lookups_succeeded=ledger.total("lookups succeeded"),
            datagrams_per_s=ledger.rates("datagrams"),
            bytes_per_s=ledger.rates("bytes"),
            lag_s=sorted(self._lags)[int(0.95 * len(self._lags))],
        )

    def _gained(self, number: int, name: str) -> int:
        counters = self._nodes[number].counters()
        if counters is None:
            raise LabError(f"the client {number} answers no more.")
        return counters[name] - self._before[number].get(name, 0)

    def _probed(self) -> list[bool]:
        deadline = time.monotonic() + _START_S
        while not self._results.exists():
            if time.monotonic() > deadline:
                log = self._log.read_text(errors="replace")[-2000:]
                raise LabError(f"the prober brought no results: {log}")
            time.sleep(0.1)
        time.sleep(0.1)  # a few hundred bytes, written at once
        results: list[bool] = json.loads(self._results.read_text(encoding="utf-8"))
        return results


def _configuration(script: ChurnScript, number: int) -> str:
    endpoint = endpoint_of(number)
    bootstrap = "" if number == script.bootstrap else f'"{endpoint_of(script.bootstrap)}"'
    dht = "\n".join(_changed(script.timing.dht_settings()))
    # No reachability tests, because the simulator has none and datagrams are compared.
    return f"""\
[network]
network_id = "{NETWORK_ID}"
listen = ["{endpoint}"]
bootstrap = [{bootstrap}]
allow_private_endpoints = true
reachability_test_s = 0

[roles]
relay = true
exit = {str(number in script.exits).lower()}

[apm]
setup_timeout_s = 6.0
link_timeout_s = 3.0

[dht]
{dht}
"""


def _changed(settings: DhtSettings) -> Iterator[str]:
    """Yield a line of the configuration for each number of [dht] that is not the default."""
    for name, known in declared(DhtSettings).items():
        value = getattr(settings, name)
        if not known.section and value != known.value:
            yield f"{name} = {value}"
