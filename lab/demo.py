"""The demonstration: a download through three IPsec tunnels, and what each host sees of it.

Nine nodes run as separate processes, each in a network namespace of its own: a bootstrap node, five
mixes, two exits and alice. The web server is outside of the overlay. The printed results come from
real captures. If a check fails, the exit status is 1.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from lab.capture import Capture
from lab.namespaces import LabError, Namespace, isolation_command, missing_requirements
from lab.nodes import NodeProcess, wait_until
from lab.underlay import LaboratoryHost, Underlay
from lab.webserver import WebServer
from lab.witness import Sighting, sightings, told

__all__ = ["main"]

_FILE_BYTES: Final = 20_000_000
_MIXES: Final = 5
_EXITS: Final = 2
_INSIDE: Final = "--inside"


class Demonstration:
    """The hosts, the steps of the demonstration, and the checks."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self._begun = time.monotonic()
        self._failures: list[str] = []
        self.underlay = stack.enter_context(Underlay(wire_packets=True))
        self.nodes: dict[str, NodeProcess] = {}
        self._before: dict[str, str] = {}

    # -- the steps -------------------------------------------------------------------

    def run(self) -> int:
        """Run all steps; return the exit status."""
        self._build()
        self._join()
        number, hops = self._download_through_a_path()
        self._close(number, hops)
        return self._verdict()

    @property
    def alice(self) -> NodeProcess:
        """The source."""
        return self.nodes["alice"]

    def _build(self) -> None:
        names = ["boot", *(f"mix{n + 1}" for n in range(_MIXES))]
        names += [*(f"exit{n + 1}" for n in range(_EXITS)), "alice"]
        self._say(f"building {len(names)} hosts, each in a network of its own, and a web server")
        for name in names:
            host = self.underlay.add_host(name)
            exits = name.startswith("exit")
            self.nodes[name] = NodeProcess(host, self._directory / name, exits=exits)
        server = self.underlay.add_server("bob")
        self.web = self._stack.enter_context(WebServer(server, self._directory / "bob"))
        self.content = os.urandom(_FILE_BYTES)
        self.web.publish("file", self.content)

    def _join(self) -> None:
        # A running node has a device of its kill switch, so read the state before the first start.
        self._before = host_state(self.alice.host.namespace)
        self._say("starting the nodes; each one knows the bootstrap node's address and no other")
        boot = self.nodes["boot"]
        boot.start()
        wait_until("the bootstrap node's start", lambda: boot.answers, timeout_s=20)
        for node in self.nodes.values():
            if node is not boot:
                node.start(boot)
        others = len(self.nodes) - 1
        taken = wait_until(
            "alice's Mix-nodes Topology Table",
            lambda: ((self.alice.status() or {}).get("mix_nodes", 0)) >= others,
            timeout_s=45,
        )
        self._say(f"alice's Mix-nodes Topology Table holds all {others} others after {taken:.1f} s")

    def _download_through_a_path(self) -> tuple[int, list[str]]:
        with ExitStack() as captures:
            recorded = {host.name: self._record(captures, host) for host in self.underlay.hosts}
            bob = self.web.address
            self._say(f"alice asks for an anonymous path to {bob}, three hops")
            path: dict[str, Any] = self.alice.ask("path", "open", bob, "--hops", "3")
            hops = [self._name_of(hop["overlay_address"]) for hop in path["hops"]]
            self._say(f"open: alice -> {' -> '.join(hops)} -> bob ({path['inner_addresses'][0]})")
            self._fetch()
        self._report(recorded, hops)
        return path["number"], hops

    def _record(self, captures: ExitStack, host: LaboratoryHost) -> Capture:
        return captures.enter_context(host.capture(self._directory / f"{host.name}.pcap"))

    def _fetch(self) -> None:
        target = self._directory / "downloaded"
        begun = time.monotonic()
        self.alice.host.namespace.run(
            ["curl", "-sS", "--fail", "-o", str(target), f"http://{self.web.address}/file"],
            timeout_s=60,
        )
        taken = time.monotonic() - begun
        rate = _FILE_BYTES * 8 / taken / 1e6
        self._say(f"curl downloaded {_FILE_BYTES:,} bytes in {taken:.1f} s ({rate:.0f} Mbit/s)")
        arrived = hashlib.sha256(target.read_bytes()).digest()
        self._check("the file's SHA-256 is right", arrived == hashlib.sha256(self.content).digest())

    def _report(self, recorded: dict[str, Capture], hops: Sequence[str]) -> None:
        names = {str(host.ipv4.ip): host.name for host in self.underlay.hosts}
        seen = {name: sightings(capture.path, names) for name, capture in recorded.items()}
        self._say("what was captured at each vantage point:")
        for name in ("alice", *hops, "bob"):
            print(f"\n    on the cable of {name}:")
            for line in told(seen[name]):
                print(f"      {line}")
        print()
        self._judge(seen, hops)

    def _judge(self, seen: dict[str, list[Sighting]], hops: Sequence[str]) -> None:
        exit_name = hops[-1]
        self._check(
            "not one packet between alice and bob left alice outside the circuit",
            not any(s.involves("bob") for s in seen["alice"]),
        )
        for index, name in enumerate(hops):
            ends = [end for end in ("alice", "bob") if any(s.involves(end) for s in seen[name])]
            allowed = {0: ["alice"], len(hops) - 1: ["bob"]}.get(index, [])
            self._check(
                f"{name} exchanged bulk traffic with {_listed(allowed)} of the two ends",
                [end for end in ends if any(s.bulk_with(end) for s in seen[name])] == allowed,
            )
        clients = self.web.clients()
        exit_address = str(self.nodes[exit_name].host.ipv4.ip)
        self._check(
            f"the server's log shows {exit_name} ({exit_address}) alone",
            clients == {exit_address},
        )
        self._check(
            "bob saw no node of the overlay except the exit",
            {s.peer_of("bob") for s in seen["bob"]} == {exit_name},
        )

    def _close(self, number: int, hops: Sequence[str]) -> None:
        self._say("alice closes the path")
        self.alice.ask("path", "close", str(number))
        for name in ("alice", *hops):
            self._check(f"{name} keeps no SA and no soft state of the circuit", self._forgot(name))
        status = self.alice.status() or {}
        self._check("no destination is protected any more", status.get("protected") == [])
        self._say("all nodes stop")
        for node in self.nodes.values():
            node.stop()
        after = host_state(self.alice.host.namespace)
        self._check(
            "alice's routes, devices, rules and filters are as before", after == self._before
        )
        for name in self.nodes:
            if name.startswith("exit"):
                state = host_state(self.nodes[name].host.namespace)
                self._check(f"{name} left no device and no filter behind", _is_clean(state))

    def _forgot(self, name: str) -> bool:
        """Wait until a node has no state of any circuit; links may stay for the next one."""
        held = ("circuits_own", "circuits_relayed", "circuits_exit")

        def forgotten() -> bool:
            status = self.nodes[name].status() or {}
            counters = status.get("counters", {})
            return [status.get(key) for key in held] == [0, 0, 0] and counters["onion_SAs"] == 0

        try:
            wait_until(f"{name} forgetting the circuit", forgotten, timeout_s=10)
        except LabError:
            return False
        return True

    # -- output ----------------------------------------------------------------------

    def _name_of(self, overlay_address: str) -> str:
        for name, node in self.nodes.items():
            if node.overlay_address == overlay_address:
                return name
        raise LabError("a hop of the path is no node of the demonstration.")

    def _say(self, what: str) -> None:
        print(f"[{time.monotonic() - self._begun:5.1f} s] {what}", flush=True)

    def _check(self, what: str, holds: bool) -> None:
        print(f"  {'ok  ' if holds else 'FAIL'} {what}", flush=True)
        if not holds:
            self._failures.append(what)

    def _verdict(self) -> int:
        if self._failures:
            self._say(f"{len(self._failures)} of the checks failed")
            return 1
        self._say("all checks passed")
        return 0


def host_state(namespace: Namespace) -> dict[str, str]:
    """Return the state of a host that a node may change, as iproute2 and nft print it."""
    commands = {
        "SAs": ["ip", "xfrm", "state"],
        "policies": ["ip", "xfrm", "policy"],
        "routes": ["ip", "route", "show", "table", "all"],
        "routes6": ["ip", "-6", "route", "show", "table", "all"],
        "rules": ["ip", "rule"],
        "rules6": ["ip", "-6", "rule"],
        "devices": ["ip", "-br", "link"],
        "filters": ["nft", "list", "ruleset"],
    }
    return {name: namespace.run(command).stdout for name, command in commands.items()}


def _is_clean(state: dict[str, str]) -> bool:
    devices = {line.split()[0].split("@")[0] for line in state["devices"].splitlines()}
    return devices == {"lo", "eth0"} and not state["filters"].strip()


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) or "neither"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration in namespaces of its own; return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if _INSIDE not in arguments:
        command = isolation_command([sys.executable, "-m", "lab.demo", _INSIDE])
        os.execvp(command[0], command)
    missing = missing_requirements()
    missing += [
        f"The program {program} is missing: apt install {package}."
        for program, package in (("curl", "curl"), ("nginx", "nginx-light"))
        if shutil.which(program) is None
    ]
    if missing:
        print("\n".join(missing), file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="overlay-demo-") as directory, ExitStack() as stack:
        try:
            return Demonstration(stack, Path(directory)).run()
        except LabError as error:
            print(f"the demonstration failed: {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
