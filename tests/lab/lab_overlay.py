"""A small overlay of real processes for the laboratory's tests."""

import sys

from lab.nodes import NodeProcess, wait_until
from lab.underlay import Underlay
from lab.webserver import WebServer


class LabOverlay:
    """boot, mixes, one exit and alice, each in a namespace; bob is a web server outside."""

    def __init__(self, directory, *, mixes=2, watched=False, wire_packets=False, settings=""):
        self.directory, self.watched, self.settings = directory, watched, settings
        self.underlay = Underlay(wire_packets=wire_packets)
        self.nodes = {}
        names = ["boot", *(f"mix{n + 1}" for n in range(mixes)), "exit", "alice"]
        for name in names:
            self._add(name)
        self.bob = self.underlay.add_server("bob")
        self.web = WebServer(self.bob, directory / "bob")

    def _add(self, name):
        runner = [sys.executable, "-m", "overlay"]
        if self.watched:
            runner = [sys.executable, "-m", "lab.watched", str(self.directory / f"{name}.keys")]
        host = self.underlay.add_host(name)
        self.nodes[name] = NodeProcess(
            host,
            self.directory / name,
            exits=name == "exit",
            runner=runner,
            settings=self.settings,
        )

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self):
        self.web.__enter__()
        boot = self.nodes["boot"]
        boot.start()
        wait_until("the bootstrap node's start", lambda: boot.answers, timeout_s=60)
        for name, node in self.nodes.items():
            if name != "boot":
                node.start(boot)
        self.wait_known(self.alice)

    def wait_known(self, node):
        others = len(self.nodes) - 1
        known = lambda: (node.status() or {}).get("mix_nodes", 0) >= others  # noqa: E731 - read at once
        wait_until("the topology table", known, timeout_s=180)

    def __exit__(self, *_):
        for node in self.nodes.values():
            node.stop()
        self.underlay.close()

    @property
    def alice(self):
        return self.nodes["alice"]

    def named(self, overlay_address):
        return next(n for n, node in self.nodes.items() if node.overlay_address == overlay_address)

    def fetch(self, name="file", *, check=True, timeout_s=120, **options):
        target = self.directory / "fetched"
        done = self.alice.host.namespace.run(
            ["curl", "-sS", "--fail", "-o", str(target), f"http://{self.web.address}/{name}"],
            check=check,
            timeout_s=timeout_s,
        )
        return target.read_bytes() if done.returncode == 0 else None
