"""Open and close many circuits of a node that runs in this process, and look at hosts meanwhile."""

import ipaddress
from collections import Counter
from dataclasses import dataclass

import trio
from kernel_overlay import ROUTES

from overlay.apm.events import CircuitFailed, CircuitLost
from overlay.config.load import load_configuration
from overlay.keyfile import read_identity
from overlay.node import OverlayNode
from overlay.selection.selector import MixPath

LINGERING_S = 2.5
"""More than the two seconds for which SAs stay after the end of a circuit."""

CIRCUITS, AT_ONCE = 200, 40
SEEN = (
    "ip xfrm state | grep -c spi; ip xfrm policy; ip -br address; "
    f"cat /proc/net/xfrm_stat; {ROUTES}"
)


def new_lines(before, after):
    """What is there that was not. Circuits that a killed source left may expire meanwhile."""
    count_before, *lines_before = before.splitlines()
    count_after, *lines_after = after.splitlines()
    more = Counter(lines_after) - Counter(lines_before)
    return more if int(count_after) <= int(count_before) else more + Counter(associations=1)


def seen(overlay, names):
    return {name: overlay.namespace(name).run(["sh", "-c", SEEN]).stdout for name in names}


@dataclass
class Looked:
    before: dict
    busy: dict = None
    after: dict = None


async def open_and_close(alice, hops, look):
    """Open and close circuits in rounds; look before, in the middle and at the end."""
    configuration = load_configuration(alice.configuration)
    identity = read_identity(configuration.node.key_file)
    async with OverlayNode(configuration, identity) as node:
        cores = node.service.running.cores
        addresses = [ipaddress.ip_address(hop).packed for hop in hops]
        with trio.fail_after(60):
            while not all(cores.table.by_overlay_address(each) for each in addresses):
                await trio.sleep(0.1)
        path = MixPath(tuple(cores.table.by_overlay_address(each) for each in addresses))
        await one_round(node, cores, path, 1)  # the links that stay are up now
        looked = Looked(look())
        for _ in range(CIRCUITS // AT_ONCE):
            await one_round(node, cores, path, AT_ONCE, looked, look)
        looked.after = look()
    return looked


async def one_round(node, cores, path, count, looked=None, look=None):
    running = node.service.running
    destinations = [ipaddress.ip_network(f"203.0.113.{n + 20}") for n in range(count)]
    now = running.clock.now()
    failed, told = [], cores.paths.handle
    cores.paths.handle = lambda event, now: (
        failed.append(event) if isinstance(event, CircuitFailed | CircuitLost) else None,
        told(event, now),
    )
    for each in destinations:
        cores.circuits.anonymous_connection(path, each, now)
    running.settle(now)
    with trio.fail_after(150):  # a busy machine runs this kernel at a fraction of its speed
        while not all(each.inner_addresses for each in cores.circuits.circuits()):
            await trio.sleep(0.05)
    cores.paths.handle = told
    assert (len(cores.circuits.circuits()), failed) == (count, [])
    if looked is not None and looked.busy is None:
        looked.busy = look()
    now = running.clock.now()
    for each in cores.circuits.circuits():
        cores.circuits.close(each.number, now)
    running.settle(now)
    await trio.sleep(LINGERING_S)
