"""When an exit stops to lend addresses, and when it withdraws."""

import ipaddress

import pytest

from overlay.errors import BackendError
from overlay.node.exit_role import ExitRole
from overlay.system.exit_problems import TRACKING_FULL, ExitProblem, forwarding_problem

POOLS = [ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd99::/64")]
BOTH, NONE = {4, 6}, set()


class Wall:
    """An exit's wall whose host forwards these IP versions, review by review."""

    def __init__(self):
        self.passing = frozenset()
        self.ways = []

    def refresh(self):
        return False

    def passed(self, write, policy=None):
        return self.passing

    own_links = ()

    def way_problems(self):
        return list(self.ways)

    def not_forwarded(self, pool):
        return forwarding_problem(pool, chains=lambda _: [])


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


def test_reviews_that_fail_withdraw_as_probes_that_are_lost_do():
    wall = Wall()
    role = ExitRole(wall, POOLS, None, write=lambda _: None, examine=lambda _: [])
    wall.passing = frozenset(BOTH)
    role.review()
    assert role.not_reviewed(BackendError("nft is gone."))
    assert (role.lent, role.offered) == (NONE, BOTH)
    assert role.not_reviewed(BackendError("nft is gone."))
    assert (role.lent, role.offered) == (NONE, NONE)
    assert [each.kind for each in role.problems] == ["not_examined"] * 2
    assert "(nft is gone)" in str(role.problems[0])
    assert role.review()
    assert role.offered == BOTH


def test_a_full_table_of_connections_ends_no_circuit():
    """Other hosts can fill it, and the connections of circuits go on in it."""
    wall = Wall()
    wall.not_forwarded = lambda pool: ExitProblem(pool.version, TRACKING_FULL, "full", "enlarge it")
    role = ExitRole(wall, POOLS, None, write=lambda _: None, examine=lambda _: [])
    role.review()
    assert role.offered == NONE, "an exit does not begin with a full table"
    for passing, lent in ((BOTH, BOTH), (NONE, NONE), (NONE, NONE), (NONE, NONE), (BOTH, BOTH)):
        wall.passing = frozenset(passing)
        role.review()
        assert (role.lent, role.offered) == (lent, BOTH)


def test_a_version_without_a_way_out_is_withdrawn_whatever_passes():
    wall = Wall()
    role = ExitRole(wall, POOLS, None, write=lambda _: None, examine=lambda _: [])
    wall.passing = frozenset(BOTH)
    role.review()
    wall.ways = [ExitProblem(4, "vpn_gone", "the VPN has gone", "start it again")]
    role.review()
    role.review()
    assert (role.lent, role.offered) == ({6}, {6})
    assert [str(each) for each in role.problems] == ["the VPN has gone; start it again"]
