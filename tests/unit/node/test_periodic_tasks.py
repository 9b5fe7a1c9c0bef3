"""Periodic tasks: a failure is counted, logged once and tried again; a bug ends the node."""

import logging
import math

import pytest

from overlay.errors import BackendError, ConfigurationError, InternalError
from overlay.node.periodic_tasks import PeriodicTasks

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


def tasks_with(action, interval_s):
    tasks = PeriodicTasks()
    tasks.every(interval_s, "test", action, first=NOW)
    return tasks


def test_a_periodic_task_is_done_when_due_and_then_every_interval(action):
    tasks = tasks_with(action, 30.0)
    tasks.handle_deadline(NOW - 1)
    assert not action.called
    for turn in range(3):
        assert tasks.next_deadline() == NOW + 30 * turn
        tasks.handle_deadline(tasks.next_deadline())
    assert action.called == [NOW, NOW + 30, NOW + 60]


@pytest.mark.parametrize("error", [BackendError("disk full"), ConfigurationError("in use")])
@pytest.mark.parametrize(("interval_s", "retry_s"), [(30.0, 30.0), (3600.0, 60.0)])
def test_a_failed_periodic_task_is_tried_again_soon_and_told_once(
    action, caplog, error, interval_s, retry_s
):
    caplog.set_level(logging.INFO)
    tasks = tasks_with(action, interval_s)
    action.error = error
    for turn in range(3):
        assert tasks.next_deadline() == NOW + retry_s * turn
        tasks.handle_deadline(tasks.next_deadline())
    assert tasks.failures == 3
    action.error = None
    tasks.handle_deadline(tasks.next_deadline())
    assert tasks.next_deadline() == action.called[-1] + interval_s
    assert [record.message for record in caplog.records] == [
        f"periodic_task.failing task=test cause={type(error).__name__}",
        "periodic_task.recovered task=test",
    ]


def test_one_failing_periodic_task_does_not_keep_the_others_from_their_turn(action):
    tasks = tasks_with(action, 10.0)
    other = Action()
    tasks.every(10.0, "other", other, first=NOW)
    action.error = BackendError("no")
    tasks.handle_deadline(NOW)
    assert other.called == [NOW]


@pytest.mark.parametrize("bug", [InternalError("broken"), KeyError("bug")])
def test_a_bug_in_a_periodic_task_is_not_swallowed(action, bug):
    tasks = tasks_with(action, 10.0)
    action.error = bug
    with pytest.raises(type(bug)):
        tasks.handle_deadline(NOW)


def test_after_cancel_all_nothing_is_due(action):
    tasks = tasks_with(action, 10.0)
    tasks.cancel_all()
    assert tasks.next_deadline() == math.inf
    tasks.handle_deadline(NOW)
    assert not action.called
