"""Whole nodes in one trio program: real UDP sockets on loopback, real files, a host of their own.

The clock is mocked and jumps when every task waits; datagrams on loopback are there at once,
so nothing is ever skipped and nobody sleeps.
"""

import contextlib
import ipaddress
import os
import socket
from random import Random

import trio
import trio.testing

from overlay.addresses import Endpoint
from overlay.config.load import parse_configuration
from overlay.errors import BackendError
from overlay.identity import LocalIdentity
from overlay.node import OverlayNode
from overlay.system.exit_problems import forwarding_problem

GATEWAY = ipaddress.ip_address("203.0.114.254").packed
OWN_ADDRESS = ipaddress.ip_address("192.0.2.77").packed


class FakeTun:
    """A TUN device whose kernel side is a channel and a list."""

    def __init__(self, host, name):
        self.host, self.name, self.written, self.open = host, name, [], True
        self.in_place = True
        self._send, self._receive = trio.open_memory_channel(100)

    def from_kernel(self, packet):
        self._send.send_nowait([packet])

    def remove(self):
        """Behave as if another program deleted the device."""
        self._send.close()

    async def read_batch(self):
        assert self.open
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise BackendError("reading the TUN device failed (gone).") from None

    def write_batch(self, packets):
        assert self.open
        self.written += packets

    def close(self):
        self.open = False
        self._send.close()
        self.host.addresses = {a for a in self.host.addresses if a[0] != self.name}
        self.host.carried = {d: c for d, c in self.host.carried.items() if c[0] != self.name}


# Large: it stands for host, kill switch and exit filter at once.
class FakeHost:
    """The kernel of one host, as ``overlay.node.shells.operating_system.OperatingSystem`` shows it.

    What is in ``refuse`` fails with ``BackendError``, as a kernel would.
    """

    def __init__(self):
        self.devices, self.addresses, self.forgotten = [], set(), []
        self.blocked, self.carried = set(), {}
        self.kill_switch_taken = self.forwarding = False
        self.refuse = set()
        self.refused = ()
        self.lost = ()
        self.networks = []
        self.events, self.released = [], []
        self.problems, self.passing = [], frozenset({4, 6})

    def _may(self, operation):
        if operation in self.refuse:
            raise BackendError(f"{operation} failed (Operation not permitted).")

    def open_devices(self, prefix=""):
        return [d for d in self.devices if d.open and d.name.startswith(prefix)]

    # Host

    def open_tun(self, template, mtu, segment_bytes):
        self._may("open_tun")
        assert mtu >= 1280
        self.devices.append(FakeTun(self, template.replace("%d", str(len(self.devices)))))
        return self.devices[-1]

    def open_kill_switch(self):
        self._may("open_kill_switch")
        assert not self.kill_switch_taken
        self.kill_switch_taken = True
        return self

    def open_exit(self, device, inner_networks, mtu, limits, opened_links):
        self._may("open_exit")
        assert limits.per_circuit
        self.forwarding = True
        return self

    def exit_problems(self, pools):
        self._may("exit_problems")
        return list(self.problems)

    def refresh(self):
        self._may("refresh")
        return False

    def passed(self, write, policy=None):
        return self.passing

    own_links = ()

    def way_problems(self):
        return []

    def not_forwarded(self, pool):
        return forwarding_problem(pool, chains=lambda _: [])

    def refuse_destinations(self, networks):
        self._may("refuse_destinations")
        self.refused = networks

    def used_networks(self):
        self._may("used_networks")
        return self.networks

    def gateways(self):
        self._may("gateways")
        return frozenset({GATEWAY})

    def add_address(self, device, address):
        self._may("add_address")
        assert device in [d.name for d in self.open_devices()]
        self.addresses.add((device, address))

    def remove_address(self, device, address):
        self._may("remove_address")
        self.addresses.discard((device, address))

    def own_addresses(self):
        self._may("own_addresses")
        held = {address for _, address in self.addresses}
        return frozenset({OWN_ADDRESS, bytes([127, 0, 0, 1]), *held})

    def address_towards(self, peer):
        return ipaddress.ip_address("127.0.0.1")

    def bring_up(self, device):
        return False

    def clear_kernel_ipsec(self):
        pass  # nothing was ever left here

    def forget_connections(self, inner_address):
        self.forgotten.append(inner_address)
        return "forget_connections" not in self.refuse

    # KernelKillSwitch

    def hear(self, events):
        pass

    def disturbed(self):
        return bool(self.lost)

    def missing(self):
        return tuple(self.lost)

    def repair(self):
        self._may("repair")
        lost, self.lost = tuple(self.lost), ()
        return lost

    def protect(self, *prefixes):
        self._may("protect")
        self.blocked.update(prefixes)
        self.events.append("protect")

    def expect(self, source_address, device=None):
        self._may("expect")
        assert (device, source_address) not in self.addresses or self.carried

    def carry(self, prefix, device, source_address, mtu):
        self._may("carry")
        assert prefix in self.blocked
        assert (device, source_address) in self.addresses
        self.carried[prefix] = (device, source_address)

    def uncarry(self, prefix):
        self._may("uncarry")
        self.carried.pop(prefix, None)

    together = contextlib.nullcontext

    def release(self, *prefixes):
        self._may("release")
        for prefix in prefixes:
            self.carried.pop(prefix, None)
            self.blocked.discard(prefix)
        self.released += prefixes

    def protected(self):
        return sorted(self.blocked, key=lambda p: (p.version, p))

    def close(self):
        assert self.kill_switch_taken
        self.kill_switch_taken = False

    # ExitFirewall

    def remove(self):
        self.forwarding = False


def free_endpoint(number):
    """Return a UDP endpoint on a loopback network of its own, which no other process picks."""
    process = os.getpid()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((f"127.{number}.{process // 250 % 250}.{process % 250 + 1}", 0))
        return Endpoint(*probe.getsockname())


class Participant:
    """What one node is made of; :meth:`node` makes a process of it, as often as wanted."""

    def __init__(self, directory, number, *, exits=False, bootstrap=None, settings=""):
        self.directory = directory / f"node{number}"
        self.directory.mkdir()
        self.endpoint = free_endpoint(number)
        self.identity = LocalIdentity.generate(Random(f"loopback {number}"))
        self.host = FakeHost()
        join = f'bootstrap = ["{bootstrap.endpoint}"]' if bootstrap else ""
        text = f"""
[network]
network_id = "loopback"
listen = ["{self.endpoint}"]
allow_private_endpoints = true
{join}
[roles]
exit = {str(exits).lower()}
[ipsec]
backend = "userspace"
[exit]
policy = ["accept 203.0.113.0/24:*"]
[dht]
crawl_first_interval_s = 1.0
crawl_interval_s = 10.0
{settings}
"""
        self.configuration = parse_configuration(text, self.directory / "overlay.toml")

    @property
    def control_socket(self):
        return self.configuration.node.control_socket

    def node(self, **options):
        return OverlayNode(self.configuration, self.identity, host=self.host, **options)


def cast(directory, *, relays=3, exits=0, alice=False):
    """Return the participants: relays first, then exits, then alice if wanted."""
    count = relays + exits + alice
    made = [Participant(directory, 1, exits=relays == 0)]
    for number in range(2, count + 1):
        is_exit = relays < number <= relays + exits
        made.append(Participant(directory, number, exits=is_exit, bootstrap=made[0]))
    return made


@contextlib.asynccontextmanager
async def running(participants):
    """Run all nodes until each knows all others; yields them in order."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(each.node()) for each in participants]
        await until(lambda: all(n.service.status().mix_nodes == len(nodes) - 1 for n in nodes))
        yield nodes


async def until(condition, *, within_s=300, step_s=0.05):
    """Let the (mocked) time pass until the condition holds."""
    with trio.fail_after(within_s):
        while not condition():
            await trio.sleep(step_s)


def run(program, *arguments, instruments=()):
    """Run a trio program on a clock that jumps when everybody waits."""
    clock = trio.testing.MockClock(autojump_threshold=0.005)
    return trio.run(program, *arguments, clock=clock, instruments=instruments)


def open_descriptors():
    """Return what every open file descriptor of this process refers to."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(found)


class CancelAfter(trio.abc.Instrument):
    """Cancel a scope just before the ``count``-th step of any task."""

    def __init__(self, count):
        self.left, self.scope, self.fired = count, None, False

    def before_task_step(self, task):
        if self.scope is None or self.fired:
            return
        self.left -= 1
        if self.left <= 0:
            self.fired = True
            self.scope.cancel()
