"""A system time that is set while the node runs, and one that differs from that of others."""

import pytest
import trio
import trio.testing

from overlay.clock import Clock
from overlay.dht.clock_watch import ClockOffset, ClockWatch
from overlay.node.shells.clock_steps import STEP_S, clock_problem, follow_steps

NOW = 1_800_000_000.0


@pytest.mark.slow
def test_a_step_of_the_system_time_is_noticed_and_sleep_or_slewing_is_none():
    async def scenario():
        booted = [1000.0]
        clock = Clock(NOW, lambda: 40.0, lambda: booted[0])
        noticed = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow_steps, clock, noticed.set)
            booted[0] += STEP_S / 2
            await trio.sleep(3600)
            assert not noticed.is_set()
            booted[0] -= 2 * STEP_S
            with trio.fail_after(5):
                await noticed.wait()

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_offset_is_the_median_of_what_nodes_said_lately():
    watch = ClockWatch()
    assert watch.offset(NOW) is None
    for number, ahead in enumerate((5, 6, 7, -1_000_000)):
        watch.heard(bytes([number]) * 20, NOW - ahead, NOW)
    assert watch.offset(NOW) == ClockOffset(5.5, 4), "one that lies moves it by little"
    assert watch.offset(NOW + 4000) is None
    for number in range(200):
        watch.heard(number.to_bytes(20, "big"), NOW + 4000, NOW + 4000)
    assert watch.offset(NOW + 4000) == ClockOffset(0, 32)


@pytest.mark.parametrize(
    ("ahead_s", "said"),
    [
        (86_400 * 60, "60 days ahead of those of the 2 nodes that answer"),
        (-7200, "2 hours behind"),
        (-301, "5 minutes behind"),
    ],
)
def test_a_clock_beyond_half_of_the_tolerance_is_told(ahead_s, said):
    assert said in clock_problem(ClockOffset(ahead_s, 2))


def test_a_clock_that_is_right_enough_is_no_problem():
    assert clock_problem(None) is None
    assert clock_problem(ClockOffset(-299, 1)) is None
