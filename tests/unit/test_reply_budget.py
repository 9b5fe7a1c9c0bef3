"""Replies to senders that have not proved their address."""

import pytest

from overlay.reply_budget import ReplyBudget

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("one", "neighbour", "other"),
    [
        (bytes((9, 9, 9, 9)), bytes((9, 9, 9, 200)), bytes((9, 9, 8, 9))),
        (bytes(7) + b"\1" * 9, bytes(7) + b"\2" * 9, b"\1" * 16),
    ],
)
def test_one_prefix_takes_half_of_the_replies_of_a_second(one, neighbour, other):
    budget = ReplyBudget(10)
    assert sum(budget.take(each, NOW) for each in [one, neighbour] * 50) == 5
    assert budget.is_spent(neighbour, NOW)
    assert not budget.is_spent(other, NOW)
    assert not budget.is_exhausted(NOW)
    assert 0 < sum(budget.take(other, NOW) for _ in range(100)) < 5
    assert sum(budget.take(bytes((8, each, 8, 9)), NOW) for each in range(100)) == 2
    assert budget.is_exhausted(NOW)
    assert not budget.is_spent(one, NOW + 1)


def test_a_budget_of_one_reply_admits_one():
    budget = ReplyBudget(1)
    assert [budget.take(bytes((9, 9, 9, index)), NOW) for index in range(3)] == [True, False, False]


def test_a_burst_uses_up_no_more_than_its_slot_of_a_second():
    budget = ReplyBudget(5000)
    forged = [bytes((index % 200, index // 200, 1, 1)) for index in range(5000)]
    assert sum(budget.take(each, NOW + 0.01) for each in forged) == 250
    assert budget.is_exhausted(NOW + 0.01)
    assert budget.take(bytes((9, 9, 9, 9)), NOW + 0.011)
    assert not budget.is_exhausted(NOW - 5), "the clock was set back"


@pytest.mark.parametrize("phase_s", [0.0, 0.001, 0.03, 0.049])
def test_a_sender_that_is_first_in_each_slot_leaves_replies_for_later_ones(phase_s):
    budget = ReplyBudget(5000)
    for slot in range(40):
        begin = NOW + 0.05 * slot
        for index in range(1000):
            budget.take(bytes((index % 200, index // 200, slot, 1)), begin)
        assert budget.take(bytes((9, slot, 9, 9)), begin + phase_s + 0.0005)
