"""How much of its time a node gives to control datagrams, in virtual time."""

from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from overlay.addresses import Endpoint
from overlay.demultiplexer import Channel, frame
from overlay.ipsec.userspace.engine import AttackedLink
from overlay.node.shells.packet_transport import Arrived
from overlay.node.shells.reception import PortReaders, ReceptionBudget

PEER = Endpoint("192.0.2.1", 4500)
CONTROL = [(frame(Channel.DHT, b"question"), PEER)]
ESP = [(b"\x01\x02\x03\x04" + bytes(40), PEER)]
BUDGET = ReceptionBudget()
READ_S = 0.002
BATCH_S = 0.005
"""To read and to handle one batch of control datagrams."""


class Port:
    """A queue that never runs empty."""

    def __init__(self, batch, takes=lambda: None):
        self.batch = batch
        self.takes = takes
        self.read = 0

    def read_batch(self, most=0):
        self.takes()
        self.read += 1
        return list(self.batch)

    async def wait_readable(self):
        await trio.lowlevel.checkpoint()

    async def receive_batch(self, most=0):
        await trio.lowlevel.checkpoint()
        return self.read_batch(most)


class Plane:
    """Takes time for control datagrams; every ESP datagram is authentic."""

    def __init__(self, clock):
        self.clock = clock
        self.datapath = SimpleNamespace(from_network=lambda *_, **__: Arrived(idle=False))

    def arrived(self, arrived, now):
        return False

    def receive_control(self, parts, now):
        self.clock.jump(BATCH_S - READ_S)
        return False


async def control_batches_in(seconds, reader, *, esp):
    """Return how many control batches a node reads meanwhile."""
    clock = trio.lowlevel.current_clock()
    reception = PortReaders(
        Plane(clock), trio.current_time, lambda: None, spent=trio.current_time, budget=BUDGET
    )
    control, circuit = Port(CONTROL, lambda: clock.jump(READ_S)), Port(ESP)

    async def carry():
        while True:
            await reception_of_one(reception, circuit)
            await trio.sleep(BUDGET.esp_recent_s / 2)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(getattr(reception, reader), control)
            if esp:
                nursery.start_soon(carry)
    return control.read


async def reception_of_one(reception, port):
    """Let the reader of ESP take what is there, and no more."""
    with trio.move_on_after(0.001):
        await reception.read_esp(OnceReady(port))


class OnceReady:
    """A queue with one batch."""

    def __init__(self, port):
        self.batches = [port.read_batch()]

    def read_batch(self, most=0):
        return []

    async def receive_batch(self, most=0):
        if not self.batches:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.batches.pop()


def test_links_under_attack_are_steered_away_once_and_again_when_they_moved():
    told = []

    async def scenario():
        first = AttackedLink(0x700, PEER, 5)
        moved = AttackedLink(0x700, Endpoint("192.0.2.9", 7), 6)
        attacked = iter([[], [first], [first], [moved], [moved], [], []])
        cores = Plane(None)
        cores.datapath = SimpleNamespace(
            from_network=lambda *_, **__: Arrived(idle=False, attacked=next(attacked))
        )
        reception = PortReaders(cores, trio.current_time, lambda: None, told.append, budget=BUDGET)
        for _ in range(7):
            await reception_of_one(reception, Port(ESP))
            await trio.sleep(BUDGET.steering_pause_s)

    trio.run(scenario, clock=MockClock(autojump_threshold=0))
    assert [[(each.address, each.port) for each in suspects] for suspects in told] == [
        [(PEER.packed, 4500)],
        [(bytes((192, 0, 2, 9)), 7)],
        [],
    ]
    (suspect,) = told[0]
    assert (5 - suspect.first) % 2**32 < suspect.count


@pytest.mark.parametrize(
    ("esp", "reader", "share"),
    [
        (False, "read_expected", BATCH_S / (BATCH_S + BUDGET.control_pause_s)),
        (False, "read_strangers", BATCH_S / (BATCH_S + BUDGET.control_pause_s)),
        (True, "read_expected", BUDGET.expected_share),
        (True, "read_returning", BUDGET.returning_share),
        (True, "read_strangers", BUDGET.strangers_share),
    ],
)
def test_control_has_its_share_beside_circuits_and_all_time_without(esp, reader, share):
    batches = trio.run(
        lambda: control_batches_in(4.0, reader, esp=esp), clock=MockClock(autojump_threshold=0)
    )
    assert batches * BATCH_S / 4.0 == pytest.approx(share, rel=0.1)
