"""A strict fake node behind the real control server; run as a script, it is ``overlay up``."""

import sys

import trio

from overlay.cli.main import main
from overlay.control.server import serve_control
from overlay.control.service import (
    HopReport,
    OpenPathsRequest,
    PathReport,
    PeerReport,
    StatusReport,
    StopReport,
)
from overlay.errors import ConfigurationError, NoSuitablePath

NODE_ID = "ab" * 20
OVERLAY_ADDRESS = "fd6d:6978::7"
PERMANENT = "198.51.100.9/32"

STATUS = StatusReport(
    version="0.1.0",
    node_id=NODE_ID,
    overlay_address=OVERLAY_ADDRESS,
    network_id="test",
    uptime_s=3725.0,
    backend="userspace",
    backend_reason="[ipsec] backend names it",
    roles=("relay",),
    listen=("127.0.0.1:4500",),
    joined=True,
    contacts=7,
    mix_nodes=6,
    exits=2,
    links=1,
    circuits_own=1,
    circuits_relayed=3,
    circuits_exit=0,
    counters={"packets_in": 12},
    drops={"XfrmInNoStates": 2},
    protected=("192.0.2.7/32",),
    protection=(),
    tfc="none",
    forwarding="standard",
    verdict="This node works.",
)
PEER = PeerReport(
    node_id="cd" * 20,
    overlay_address="fd6d:6978::8",
    endpoints=("198.51.100.1:4500",),
    roles=("relay", "exit"),
    exit_policy=("accept *:*",),
    bandwidth_kbit=10_000,
    expires_in_s=90_061.0,
    linked=True,
    heard_s=61.5,
)


class FakeService:
    """Implements ``ControlService``; remembers what it was asked."""

    def __init__(self):
        self.opened = {}
        self.requests = []
        self.cancelled = 0
        self.stopped = trio.Event()

    def status(self):
        return STATUS

    def peers(self):
        return [PEER]

    def paths(self):
        return list(self.opened.values())

    async def open_paths(self, request: OpenPathsRequest):
        self.requests.append(request)
        if request.strategy == "never":
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                self.cancelled += 1
                raise
        if request.strategy == "buggy":
            raise RuntimeError("secret detail")
        if request.strategy == "none-left":
            raise NoSuitablePath("no exit fits.", known=6, removed=(("policy", 6),))
        if request.strategy == "too-few":
            return []
        return [self._opened(request, destination) for destination in request.destinations]

    def _opened(self, request, destination):
        number = len(self.opened) + 1
        self.opened[number] = PathReport(
            number=number,
            destination=str(destination),
            state="open",
            hops=(HopReport("cd" * 20, "fd6d:6978::8"), HopReport("ef" * 20, "fd6d:6978::9")),
            inner_addresses=("100.64.0.2",),
            rtt_ms=12.25,
            age_s=0.5,
            strategy=request.strategy or "uniform",
            mtu=1180,
            both_versions=bool(request.both_versions),
            permanent=str(destination) == PERMANENT,
            stays_open=("Packets to IPv6 addresses of the same server are not covered.",),
        )
        return self.opened[number]

    async def leave(self, *, release):
        blocked = len(self.opened)
        if release:
            self.opened = {}
            return StopReport(0, blocked, 0)
        return StopReport(blocked, 0, 0)

    async def close_path(self, number):
        if number is None:
            closed, self.opened = len(self.opened), {}
            return closed
        if not isinstance(number, int):
            number = next(n for n, p in self.opened.items() if p.destination == str(number))
        if number not in self.opened:
            raise ConfigurationError(f"there is no path {number}; open paths: none.")
        del self.opened[number]
        return 1

    def stop(self):
        self.stopped.set()


async def run_fake_node(configuration, identity, *, task_status=trio.TASK_STATUS_IGNORED):
    service = FakeService()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, service, configuration.node.control_socket)
        task_status.started(lambda: len(service.opened))
        await service.stopped.wait()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    sys.exit(main(run_node=run_fake_node))
