"""Chores: what fails is counted, told once and tried again; a bug is not swallowed."""

import logging
import math

import pytest

from overlay.errors import BackendError, ConfigurationError, InternalError
from overlay.node.timers import PeriodicTasks

NOW = 1_000_000_000.0


class Action:
    def __init__(self):
        self.called, self.error = [], None

    def __call__(self, now):
        self.called.append(now)
        if self.error is not None:
            raise self.error


@pytest.fixture
def action():
    return Action()


def chores_with(action, interval_s):
    chores = PeriodicTasks()
    chores.every(interval_s, "test", action, first=NOW)
    return chores


def test_a_chore_is_done_when_due_and_then_every_interval(action):
    chores = chores_with(action, 30.0)
    chores.handle_deadline(NOW - 1)
    assert not action.called
    for turn in range(3):
        assert chores.next_deadline() == NOW + 30 * turn
        chores.handle_deadline(chores.next_deadline())
    assert action.called == [NOW, NOW + 30, NOW + 60]


@pytest.mark.parametrize("error", [BackendError("disk full"), ConfigurationError("in use")])
@pytest.mark.parametrize(("interval_s", "retry_s"), [(30.0, 30.0), (3600.0, 60.0)])
def test_a_failed_chore_is_tried_again_soon_and_told_once(
    action, caplog, error, interval_s, retry_s
):
    caplog.set_level(logging.INFO)
    chores = chores_with(action, interval_s)
    action.error = error
    for turn in range(3):
        assert chores.next_deadline() == NOW + retry_s * turn
        chores.handle_deadline(chores.next_deadline())
    assert chores.failures == 3
    action.error = None
    chores.handle_deadline(chores.next_deadline())
    assert chores.next_deadline() == action.called[-1] + interval_s
    assert [record.message for record in caplog.records] == [
        f"chore.failing chore=test cause={type(error).__name__}",
        "chore.recovered chore=test",
    ]


def test_one_failing_chore_does_not_keep_the_others_from_their_turn(action):
    chores = chores_with(action, 10.0)
    other = Action()
    chores.every(10.0, "other", other, first=NOW)
    action.error = BackendError("no")
    chores.handle_deadline(NOW)
    assert other.called == [NOW]


@pytest.mark.parametrize("bug", [InternalError("broken"), KeyError("bug")])
def test_a_bug_in_a_chore_is_not_swallowed(action, bug):
    chores = chores_with(action, 10.0)
    action.error = bug
    with pytest.raises(type(bug)):
        chores.handle_deadline(NOW)


def test_after_cancel_all_nothing_is_due(action):
    chores = chores_with(action, 10.0)
    chores.cancel_all()
    assert chores.next_deadline() == math.inf
    chores.handle_deadline(NOW)
    assert not action.called
