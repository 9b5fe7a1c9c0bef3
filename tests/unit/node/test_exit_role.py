"""When an exit stops to lend addresses, and when it withdraws."""

import ipaddress

import pytest

from overlay.node.exit_role import ExitRole

POOLS = [ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd99::/64")]
BOTH, NONE = {4, 6}, set()


class Wall:
    """An exit's wall whose host forwards these IP versions, review by review."""

    def __init__(self):
        self.passing = frozenset()

    def refresh(self):
        return False

    def passed(self, write, policy=None):
        return self.passing


@pytest.mark.parametrize(
    ("reviews", "lent", "offered"),
    [
        ([BOTH], BOTH, BOTH),
        ([BOTH, NONE], NONE, BOTH),
        ([BOTH, NONE, BOTH], BOTH, BOTH),
        ([BOTH, NONE, BOTH, NONE], NONE, BOTH),
        ([BOTH, NONE, NONE], NONE, NONE),
        ([BOTH, {4}, {6}], {6}, BOTH),
        ([BOTH, {4}, {4}], {4}, {4}),
        ([NONE, {4}], {4}, {4}),
    ],
)
def test_an_exit_lends_nothing_after_one_failure_and_withdraws_after_two(reviews, lent, offered):
    wall = Wall()
    role = ExitRole(wall, POOLS, None, write=lambda _: None, examine=lambda _: [])
    for passing in reviews:
        wall.passing = frozenset(passing)
        before = (role.offered, role.lent)
        assert role.review() == (before != (role.offered, role.lent))
    assert (role.lent, role.offered, role.doubted) == (lent, offered, set(offered) - set(lent))
