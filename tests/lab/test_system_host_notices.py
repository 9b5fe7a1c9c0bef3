import contextlib

import trio
import trio.testing

from overlay.system.host_events import (
    AddressChanged,
    EgressChanged,
    FilterChanged,
    IpsecChanged,
    LinkChanged,
    Overrun,
    RouteChanged,
    RuleChanged,
)
from overlay.system.host_notices import HostNotices

CHANGES = {
    "ip link add v0 type veth peer name v1": LinkChanged,
    "ip link set v0 up": LinkChanged,
    "ip link set v1 up": LinkChanged,
    "ip address add 10.7.0.1/24 dev v0": AddressChanged,
    "ip -6 address add fd07::1/64 dev v0 nodad": AddressChanged,
    "ip route add 10.8.0.0/24 via 10.7.0.2": RouteChanged,
    "ip -6 route add default via fd07::2": RouteChanged,
    "ip rule add pref 77 table 77": RuleChanged,
    "ip -6 rule add pref 77 table 77": RuleChanged,
    "tc qdisc add dev v0 clsact": EgressChanged,
    "nft add table inet someone": FilterChanged,
    "ip xfrm policy add src 10.7.0.1/32 dst 10.7.0.9/32 dir out action block": None,
    "ip xfrm policy flush": IpsecChanged,
    "ip address del 10.7.0.1/24 dev v0": AddressChanged,
    "ip link del v0": LinkChanged,
}


def test_every_change_of_the_host_is_told(namespace):

    async def watch():
        with HostNotices() as notices:
            assert notices.unheard == ()
            for command, kind in CHANGES.items():
                namespace.run(command.split())
                if kind is None:
                    continue
                with trio.fail_after(2):
                    while not any(isinstance(each, kind) for each in await notices.receive()):
                        pass

    namespace.call(lambda: trio.run(watch))


def test_an_overrun_is_told_and_reading_goes_on(namespace):
    batch = "".join(f"route add 10.9.{n >> 8}.{n & 255}/32 dev lo\n" for n in range(8_000))

    async def watch():
        with HostNotices() as notices:
            namespace.run(["ip", "-batch", "-"], text_input=batch)
            seen = []
            with trio.fail_after(20):
                while Overrun() not in seen:
                    seen = await notices.receive()
                while notices.drain():
                    pass
                namespace.run(["ip", "rule", "add", "pref", "78", "table", "78"])
                while not any(isinstance(each, RuleChanged) for each in seen):
                    seen = await notices.receive()

    namespace.call(lambda: trio.run(watch))


def test_a_waiting_reader_ends_when_the_sockets_are_closed(namespace):

    async def watch():
        notices = HostNotices()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, notices)
            await trio.testing.wait_all_tasks_blocked()
            notices.close()
            notices.close()

    async def read(notices):
        with contextlib.suppress(trio.ClosedResourceError), trio.fail_after(2):
            while True:
                await notices.receive()

    namespace.call(lambda: trio.run(watch))
