"""The node's clock: steady while the host is awake, right again when it has slept."""

import time

import pytest
import trio.testing

from overlay.clock import Clock


class Sleeper:
    """How long the host has slept, as the test wants it."""

    def __init__(self):
        self.slept_s = 40.0

    def __call__(self):
        return self.slept_s


def in_trio(check):
    async def run():
        await trio.lowlevel.checkpoint()
        check()

    trio.run(run, clock=trio.testing.MockClock())


def test_a_clock_that_was_just_read_tells_the_systems_time():
    def check():
        assert Clock.system().now() == pytest.approx(time.time(), abs=60)

    in_trio(check)


def test_the_time_that_the_host_sleeps_is_made_up_for():
    def check():
        sleeper = Sleeper()
        clock = Clock(1000.0, sleeper)
        assert clock.now() == 1000.0, "sleep before the start is no sleep of ours"
        for hours in (1, 2):
            sleeper.slept_s += 3600
            assert clock.now() == 1000.0 + hours * 3600
        assert clock.to_trio(clock.now() + 5) == trio.current_time() + 5

    in_trio(check)


def test_what_two_readings_differ_by_moves_nothing():
    def check():
        sleeper = Sleeper()
        clock = Clock(1000.0, sleeper)
        for noise in (0.001, -0.001, 0.3, 0.0):
            sleeper.slept_s = 40.0 + noise
            assert clock.now() == 1000.0
        sleeper.slept_s = 41.5
        assert clock.now() == 1001.5

    in_trio(check)


def test_short_sleeps_add_up():
    def check():
        sleeper = Sleeper()
        clock = Clock(1000.0, sleeper)
        for _ in range(10):
            sleeper.slept_s += 0.5
            clock.now()
        assert clock.now() == pytest.approx(1005.0)

    in_trio(check)
