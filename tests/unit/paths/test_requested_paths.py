"""A requested path: blocked from request to close, and built again when its circuit is lost."""

import contextlib
import math
from ipaddress import ip_network
from random import Random

import pytest

from overlay.addresses import Endpoint, InnerAddress
from overlay.apm.events import CircuitEnd, CircuitFailed, CircuitLost, CircuitOpened
from overlay.dht.descriptor import OnionKey, Role, sign_descriptor
from overlay.dht.topology_table import TopologyTable
from overlay.errors import (
    BackendError,
    CircuitRefused,
    CircuitTimedOut,
    ConfigurationError,
    LimitReached,
    NoSuitablePath,
    PluginError,
)
from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.identity import LocalIdentity
from overlay.paths.ip_versions import BLOCKED_FAMILY
from overlay.paths.mix_choice import MixChoice
from overlay.paths.paths import MAX_PATHS, Paths, PathState, PathTerms
from overlay.selection.uniform import UniformSelector

NOW = 1_000_000_000.0
BOB = ip_network("203.0.114.10/32")
VC = InnerAddress(bytes([100, 64, 0, 9]))


class Circuits:
    def __init__(self):
        self.opened, self.closed, self.full = [], [], False

    def anonymous_connection(self, path, destination, now):
        if self.full:
            raise LimitReached("this node has as many circuits as it may open")
        self.opened.append(path)
        return len(self.opened)

    def close(self, circuit, now):
        self.closed.append(circuit)


class RecordingKillSwitch:
    def __init__(self):
        self.protected, self.carried, self.refuse = set(), {}, set()
        self.released, self.changes = [], []

    def _may(self, operation):
        if operation in self.refuse:
            raise BackendError(f"{operation} failed (Device or resource busy).")

    def protect(self, *destinations):
        self._may("protect")
        self.protected.update(destinations)

    def carry(self, *carried):
        self.changes.append(dict(carried))
        self._may("carry")
        assert {destination for destination, _ in carried} <= self.protected
        self.carried.update(carried)

    def uncarry(self, destination, inner_address):
        assert self.carried.pop(destination) == inner_address
        self._may("uncarry")

    together = contextlib.nullcontext

    def release(self, *destinations):
        assert not self.carried.keys() & set(destinations)
        self._may("release")
        self.released.append(set(destinations))
        self.protected.difference_update(destinations)


def mix(number, *, exits=False, both=False):
    identity = LocalIdentity.generate(Random(number))
    roles = {Role.RELAY} | ({Role.EXIT} if exits else set())
    return sign_descriptor(
        identity,
        network_id="test",
        onion_keys=(OnionKey(1, identity.onion_key),),
        esp_suites=(3,),
        endpoints=(Endpoint(f"11.{number}.0.1", 4500),),
        roles=frozenset(roles),
        exit_policy=accepting(both=both) if exits else None,
        bandwidth_kbit=1000,
        sequence=1,
        valid_from=int(NOW) - 10,
        expires=int(NOW) + 3600,
    )


def accepting(*, both):
    networks = ["0.0.0.0/0", "::/0"] if both else ["0.0.0.0/0"]
    return ExitPolicy(tuple(ExitRule(True, ip_network(each)) for each in networks))


def unknown_strategy(name):
    raise ConfigurationError(f"there is no selection named {name!r}.")


class World:
    def __init__(
        self,
        mixes,
        *,
        selector=lambda name: UniformSelector(),
        circuits=None,
        keeper=lambda _: None,
    ):
        self.circuits, self.kill_switch = circuits or Circuits(), RecordingKillSwitch()
        self.table = table = TopologyTable()
        for descriptor in mixes:
            assert table.add(descriptor, NOW)
        choice = MixChoice(
            table=table,
            selector=selector,
            source=LocalIdentity.generate(Random(999)).node_id,
            onion_suite=1,
            esp_suite=3,
            rng=Random(7),
            versions=lambda: frozenset((4, 6)),
        )
        self.paths = Paths(
            circuits=self.circuits,
            kill_switch=self.kill_switch,
            choice=choice,
            standbys=keeper(choice),
        )

    def request(self, destination=BOB, now=NOW):
        [path] = self.paths.open_paths([PathTerms(destination, 3, "uniform")], now)
        return path

    def open(self, circuit, now=NOW):
        self.paths.handle(CircuitOpened(circuit, (VC,), BOB), now)


@pytest.fixture
def world():
    return World([mix(n) for n in range(1, 6)] + [mix(6, exits=True), mix(7, exits=True)])


def test_a_destination_is_protected_before_its_first_circuit_and_carried_after_it(world):
    path = world.request()
    assert world.kill_switch.protected == {BOB}
    assert not world.kill_switch.carried
    world.open(path.circuit)
    assert path.state is PathState.OPEN
    assert path.settled
    assert world.kill_switch.carried == {BOB: VC}


def test_a_lost_circuit_leaves_the_kill_switch_and_is_replaced(world):
    path = world.request()
    world.open(1)
    world.paths.handle(CircuitLost(1, CircuitEnd.UNANSWERED), NOW + 60)
    assert path.state is PathState.REBUILDING
    assert world.kill_switch.protected == {BOB}
    assert not world.kill_switch.carried
    world.paths.handle_deadline(world.paths.next_deadline())
    world.open(2, NOW + 61)
    assert path.state is PathState.OPEN
    assert world.kill_switch.carried == {BOB: VC}


def test_a_path_whose_inner_address_is_given_up_is_built_anew_behind_the_kill_switch(world):
    path = world.request()
    world.open(1)
    assert world.paths.held() == [VC]
    world.paths.give_up(frozenset({InnerAddress(bytes(4))}), NOW)
    assert path.state is PathState.OPEN
    world.paths.give_up(frozenset({VC}), NOW)
    assert path.state is PathState.REBUILDING
    assert (world.circuits.closed, world.paths.held()) == ([1], [])
    assert (world.kill_switch.protected, world.kill_switch.carried) == ({BOB}, {})


def test_circuits_that_are_torn_down_as_soon_as_they_open_are_replaced_ever_more_slowly(world):
    """Else one hostile hop makes a source build circuits as fast as the network carries them."""
    path, now, pauses = world.request(), NOW, []
    for _ in range(7):
        world.open(path.circuit, now)
        world.paths.handle(CircuitLost(path.circuit, CircuitEnd.TORN_DOWN), now + 0.1)
        pauses.append(world.paths.next_deadline() - now - 0.1)
        now = world.paths.next_deadline()
        world.paths.handle_deadline(now)
    assert pauses == pytest.approx([1, 2, 5, 10, 30, 30, 30], abs=1e-3)
    world.open(path.circuit, now)
    world.paths.handle(CircuitLost(path.circuit, CircuitEnd.UNANSWERED), now + 600)
    assert world.paths.next_deadline() < now + 601, "one that lasted is replaced at once"


def test_only_the_first_circuit_of_a_path_counts_as_first_try(world):
    path = world.request()
    world.open(path.circuit)
    for number in range(1, 4):
        now = NOW + 60 * number
        world.paths.handle(CircuitLost(path.circuit, CircuitEnd.UNANSWERED), now)
        world.paths.handle_deadline(world.paths.next_deadline())
        world.open(path.circuit, now + 1)
    assert (world.paths.first_tries, world.paths.opened_at_first_try) == (1, 1)


def test_the_hop_that_refused_is_avoided_at_the_next_attempt(world):
    path = world.request()
    refusing = world.circuits.opened[0].hops[0]
    world.paths.handle(CircuitFailed(1, CircuitRefused("no", hop=1, reason="limit")), NOW)
    for _ in range(2):
        world.paths.handle_deadline(world.paths.next_deadline())
        assert refusing not in world.circuits.opened[-1].hops
        world.paths.handle(CircuitFailed(path.circuit, CircuitTimedOut("late")), NOW + 5)


def test_who_was_silent_in_the_last_crawl_is_chosen_only_if_nobody_else_is_left(world):
    heard = [d for d in world.table if Role.EXIT in d.roles][:1]
    heard += [d for d in world.table if Role.EXIT not in d.roles][:2]
    for descriptor in heard:
        world.table.heard(descriptor.node_id, NOW)
    world.table.crawled(NOW)
    path = world.request()
    assert {hop.node_id for hop in world.circuits.opened[0].hops} == {d.node_id for d in heard}
    refusing = CircuitRefused("no", hop=1, reason="limit")
    world.paths.handle(CircuitFailed(path.circuit, refusing), NOW)
    world.paths.handle_deadline(world.paths.next_deadline())
    second = {hop.node_id for hop in world.circuits.opened[1].hops}
    assert world.circuits.opened[0].hops[0].node_id not in second
    assert second - {d.node_id for d in heard}


def test_a_path_that_never_opened_ends_with_the_last_error_and_without_kill_switch(world):
    path = world.request()
    now = NOW
    while not path.settled:
        world.paths.handle(CircuitFailed(path.circuit, CircuitTimedOut("late")), now)
        now = max(now + 1, min(world.paths.next_deadline(), now + 100))
        world.paths.handle_deadline(now)
    assert isinstance(path.error, CircuitTimedOut)
    assert world.paths.all() == []
    assert not world.kill_switch.protected
    assert world.paths.next_deadline() == math.inf


def test_asker_hears_sooner_if_every_path_goes_through_what_failed():
    """One exit that does not answer: two attempts of up to 8 s, where four would take 35 s."""
    world = World([mix(1), mix(2), mix(3, exits=True)])
    path = world.request()
    refused = CircuitRefused("hop 2 refused", hop=2, reason="UNREACHABLE")
    world.paths.handle(CircuitFailed(1, refused), NOW)
    assert not path.settled, "one failure may be chance"
    world.paths.handle_deadline(NOW + 1)
    world.paths.handle(CircuitFailed(2, refused), NOW + 2)
    assert path.settled
    assert path.error is refused


def test_plugin_that_fails_is_told_at_once():
    world = World([mix(1), mix(2), mix(3, exits=True)])
    path = world.request()
    world.paths.handle(CircuitFailed(1, PluginError("the strategy failed.")), NOW)
    assert isinstance(path.error, PluginError)


def test_closing_tears_the_circuit_down_and_releases_the_destination(world):
    path = world.request()
    world.open(1)
    world.paths.close(path.number, NOW)
    assert world.circuits.closed == [1]
    assert not world.kill_switch.protected
    with pytest.raises(ConfigurationError, match="there is no path 1"):
        world.paths.close(path.number, NOW)


def test_no_path_means_no_kill_switch_left():
    world = World([mix(1), mix(2, exits=True)])
    with pytest.raises(NoSuitablePath):
        world.request()
    assert not world.kill_switch.protected
    assert world.paths.all() == []


def test_one_destination_has_one_path(world):
    world.request()
    with pytest.raises(ConfigurationError, match="path 1 serves this destination already"):
        world.request()
    assert world.kill_switch.protected == {BOB}


def test_what_a_dead_node_had_protected_stays_protected_and_is_rebuilt(world):
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform")], NOW)
    assert world.kill_switch.protected == {BOB}
    world.paths.handle_deadline(NOW)
    assert len(world.circuits.opened) == 1
    world.open(1)
    assert world.kill_switch.carried == {BOB: VC}


def test_adopted_destinations_wait_for_a_topology_without_spinning():
    world = World([mix(1)])
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform")], NOW)
    now = NOW
    for _ in range(50):
        world.paths.handle_deadline(now)
        assert world.paths.next_deadline() > now
        now = world.paths.next_deadline()
    assert now > NOW + 300
    assert world.kill_switch.protected == {BOB}


def test_the_number_of_paths_is_bounded(world):
    for n in range(MAX_PATHS):
        world.request(ip_network(f"203.1.{n}.1/32"))
    with pytest.raises(ConfigurationError, match="256 paths"):
        world.request(ip_network("198.51.101.1/32"))


# -- what the host refuses ---------------------------------------------------------------


def test_a_destination_that_cannot_be_protected_has_no_path(world):
    world.kill_switch.refuse.add("protect")
    with pytest.raises(BackendError, match="protect failed"):
        world.request()
    assert world.paths.all() == []
    assert not world.circuits.opened


def test_a_circuit_that_cannot_be_carried_ends_an_opening_path_at_once(world):
    path = world.request()
    world.kill_switch.refuse.add("carry")
    world.open(1)
    assert isinstance(path.error, BackendError)
    assert path.settled
    assert world.circuits.closed == [1]
    assert world.paths.all() == []
    assert not world.kill_switch.protected


def test_a_rebuilt_circuit_that_cannot_be_carried_is_tried_again_behind_the_kill_switch(world):
    path = world.request()
    world.open(1)
    world.paths.handle(CircuitLost(1, CircuitEnd.UNANSWERED), NOW + 60)
    world.kill_switch.refuse.add("carry")
    for circuit in (2, 3):
        world.paths.handle_deadline(world.paths.next_deadline())
        world.open(circuit, NOW + 60 + circuit)
        assert path.state is PathState.REBUILDING
        assert world.kill_switch.protected == {BOB}
    world.kill_switch.refuse.clear()
    world.paths.handle_deadline(world.paths.next_deadline())
    world.open(4)
    assert world.kill_switch.carried == {BOB: VC}


def test_a_refused_uncarry_does_not_keep_the_path_from_being_rebuilt(world):
    path = world.request()
    world.open(1)
    world.kill_switch.refuse.add("uncarry")
    world.paths.handle(CircuitLost(1, CircuitEnd.UNANSWERED), NOW + 60)
    assert world.paths.kill_switch_refusals == 1
    world.paths.handle_deadline(world.paths.next_deadline())
    world.open(2)
    assert path.state is PathState.OPEN


def test_a_path_whose_kill_switch_does_not_end_is_closing_until_it_does(world):
    path = world.request()
    world.open(1)
    world.kill_switch.refuse.add("release")
    now = NOW
    with pytest.raises(BackendError, match="path 1 carries nothing any more"):
        world.paths.close(path.number, now)
    for _ in range(5):
        assert (path.state, world.kill_switch.protected) == (PathState.CLOSING, {BOB})
        assert world.paths.next_deadline() > now
        now = world.paths.next_deadline()
        world.paths.handle_deadline(now)
    world.kill_switch.refuse.clear()
    world.paths.handle_deadline(world.paths.next_deadline())
    assert world.paths.all() == []
    assert not world.kill_switch.protected
    assert len(world.circuits.opened) == 1


def test_all_paths_are_closed_with_one_change_of_the_kill_switch(world):
    others = [ip_network(f"198.51.101.{number}/32") for number in range(3)]
    for destination in (BOB, *others):
        world.request(destination)
    world.open(1)
    world.paths.close_all(NOW)
    assert world.paths.all() == []
    assert world.kill_switch.released == [{BOB, *others}]
    assert not world.kill_switch.carried
    assert len(world.circuits.closed) == 4


def test_of_all_paths_those_whose_kill_switch_does_not_end_are_closing(world):
    path, other = world.request(), world.request(ip_network("198.51.101.1/32"))
    world.kill_switch.refuse.add("release")
    with pytest.raises(BackendError, match="path 1 carries nothing any more"):
        world.paths.close_all(NOW)
    assert {path.state, other.state} == {PathState.CLOSING}
    world.kill_switch.refuse.clear()
    world.paths.close_all(NOW)
    assert world.paths.all() == []
    assert not world.kill_switch.protected


def test_a_limit_of_ours_is_told_at_the_first_attempt_and_waited_for_at_later_ones(world):
    path = world.request()
    world.open(1)
    world.circuits.full = True
    world.paths.handle(CircuitLost(1, CircuitEnd.UNANSWERED), NOW + 60)
    world.paths.handle_deadline(world.paths.next_deadline())
    assert path.state is PathState.REBUILDING
    with pytest.raises(LimitReached):
        world.request(ip_network("198.51.101.1/32"))
    assert world.kill_switch.protected == {BOB}


def test_a_strategy_that_nobody_knows_does_not_stop_the_rebuilding_of_what_was_left():
    world = World([mix(n) for n in range(1, 6)], selector=unknown_strategy)
    world.paths.adopt_all([PathTerms(BOB, 3, "fancy")], NOW)
    world.paths.handle_deadline(NOW)
    assert world.kill_switch.protected == {BOB}
    assert world.paths.next_deadline() > NOW
    with pytest.raises(ConfigurationError, match="there is no selection"):
        world.request(ip_network("198.51.101.1/32"))


def test_what_was_left_is_adopted_even_if_the_host_is_busy(world):
    world.kill_switch.refuse.add("protect")
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform")], NOW)
    assert [path.state for path in world.paths.all()] == [PathState.REBUILDING]


def test_a_stopping_node_drops_circuits_and_leaves_destinations_blocked(world):
    path, waiting = world.request(), world.request(ip_network("198.51.101.1/32"))
    world.open(path.circuit)
    assert world.paths.leave_blocked(NOW) == 2
    assert sorted(world.circuits.closed) == [1, 2]
    assert waiting.settled
    assert waiting.error is not None
    assert world.kill_switch.protected == {BOB, ip_network("198.51.101.1/32")}
    assert not world.kill_switch.carried
    assert world.paths.next_deadline() == math.inf


def test_what_is_avoided_does_not_outgrow_the_topology_table(world):
    path = world.request()
    for turn in range(60):
        hops = world.circuits.opened[-1].hops
        world.paths.handle(
            CircuitFailed(path.circuit, CircuitRefused("no", hop=1, reason="limit")), NOW + turn
        )
        if path.settled:
            path = world.request()
            continue
        assert hops[0].node_id in path.avoid
        assert len(path.avoid) <= 7
        world.paths.handle_deadline(world.paths.next_deadline())


# -- paths that were left, and askers that go away -----------------------------------------

ALICE = ip_network("2a00:77::10/128")
LOST = CircuitEnd.UNANSWERED


def exits_for_both():
    """Mix-nodes with exits for both IP versions."""
    return [mix(n) for n in range(1, 6)] + [mix(n, exits=True, both=True) for n in (6, 7)]


def fail(world, path, now):
    """Let every circuit of an opening path fail until the path has settled."""
    while not path.settled:
        world.paths.handle(CircuitFailed(path.circuit, CircuitTimedOut("late")), now)
        now = max(now + 1, min(world.paths.next_deadline(), now + 100))
        if not path.settled:
            world.paths.handle_deadline(now)
    return now


def test_a_request_takes_over_what_a_dead_node_left(world):
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform")], NOW)
    world.paths.handle_deadline(NOW)
    path = world.request()
    assert (path.number, path.settled) == (1, False)
    world.open(1)
    assert path.settled
    assert (path.error, len(world.circuits.opened)) == (None, 1)
    with pytest.raises(ConfigurationError, match="path 1 serves this destination already"):
        world.request()


def test_a_request_takes_over_a_path_that_is_open_at_once(world):
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform")], NOW)
    world.paths.handle_deadline(NOW)
    world.open(1)
    path = world.request()
    assert path.settled
    assert world.kill_switch.carried == {BOB: VC}


def test_other_parameters_replace_the_circuit_and_never_release(world):
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform", both_versions=True)], NOW)
    world.paths.handle_deadline(NOW)
    world.open(1)
    blocked = set(world.kill_switch.protected)
    world.kill_switch.refuse.add("release")
    (path,) = world.paths.open_paths([PathTerms(BOB, 2, "uniform")], NOW)
    assert (world.circuits.closed, path.settled) == ([1], False)
    assert world.kill_switch.protected == blocked
    assert path.terms == PathTerms(BOB, 2, "uniform", both_versions=True)
    world.paths.handle_deadline(NOW)
    assert len(world.circuits.opened[-1].hops) == 2


def test_a_taken_over_path_that_cannot_be_had_is_told_and_stays_blocked(world):
    world.paths.adopt_all([PathTerms(BOB, 3, "uniform")], NOW)
    path = world.request()
    world.paths.handle_deadline(NOW)
    now = fail(world, path, NOW)
    assert isinstance(path.error, CircuitTimedOut)
    assert world.kill_switch.protected == {BOB}
    world.paths.handle_deadline(world.paths.next_deadline())
    world.open(path.circuit, now + 60)
    assert (path.state, path.error) == (PathState.OPEN, None)


def test_a_path_whose_asker_went_away_stays_blocked_even_if_no_circuit_can_be_had(world):
    path = world.request()
    world.paths.disown(path.number)
    now = NOW
    for _ in range(10):
        world.paths.handle(CircuitFailed(path.circuit, CircuitTimedOut("late")), now)
        now = world.paths.next_deadline()
        world.paths.handle_deadline(now)
    assert world.kill_switch.protected == {BOB}
    assert path.state is PathState.REBUILDING


def test_all_destinations_of_a_request_are_protected_before_the_first_circuit():
    world = World(exits_for_both())
    protected_at = []
    begin = world.circuits.anonymous_connection
    world.circuits.anonymous_connection = lambda *arguments: (
        protected_at.append(set(world.kill_switch.protected)),
        begin(*arguments),
    )[1]
    paths = world.paths.open_paths([terms(BOB), terms(ALICE)], NOW)
    assert [path.destination for path in paths] == [BOB, ALICE]
    assert protected_at == [{BOB, ALICE}] * 2


def terms(destination, **options):
    return PathTerms(destination, 3, "uniform", **options)


@pytest.mark.parametrize("trouble", ["no path", "protect", "limit"])
def test_a_request_of_several_that_cannot_begin_leaves_nothing(trouble):
    world = World(
        exits_for_both() if trouble != "no path" else [mix(1), mix(2), mix(3, exits=True)]
    )
    begin = world.circuits.anonymous_connection

    def second_refused(path, destination, now):
        if world.circuits.opened:
            raise LimitReached("this node has as many circuits as it may open")
        return begin(path, destination, now)

    if trouble == "limit":
        world.circuits.anonymous_connection = second_refused
    else:
        world.kill_switch.refuse.add(trouble)
    with pytest.raises((NoSuitablePath, BackendError, LimitReached)):
        world.paths.open_paths([terms(BOB), terms(ALICE)], NOW)
    assert (world.paths.all(), world.kill_switch.protected) == ([], set())
    assert world.circuits.closed == list(range(1, len(world.circuits.opened) + 1))


def test_of_a_request_that_is_served_in_part_everything_stays_blocked():
    world = World(exits_for_both())
    bob, alice = world.paths.open_paths([terms(BOB), terms(ALICE)], NOW)
    now = fail(world, alice, NOW)
    assert world.kill_switch.protected == {BOB, ALICE}, "the other one may still be opened"
    world.open(bob.circuit, now)
    for _ in range(6):
        world.paths.handle_deadline(world.paths.next_deadline())
        world.paths.handle(CircuitFailed(alice.circuit, CircuitTimedOut("late")), now)
    assert world.kill_switch.protected == {BOB, ALICE}
    assert (bob.state, alice.state) == (PathState.OPEN, PathState.REBUILDING)


def test_of_a_request_that_is_not_served_at_all_nothing_remains():
    world = World(exits_for_both())
    bob, alice = world.paths.open_paths([terms(BOB), terms(ALICE)], NOW)
    now = fail(world, alice, NOW)
    fail(world, bob, now)
    assert (world.paths.all(), world.kill_switch.protected) == ([], set())


def test_both_families_block_the_other_version_until_the_last_such_path_ends(world):
    block = set(BLOCKED_FAMILY[6])
    carol = ip_network("203.0.114.11/32")
    first, second = world.paths.open_paths(
        [terms(BOB, both_versions=True), terms(carol, both_versions=True)], NOW
    )
    assert world.kill_switch.protected == {BOB, carol} | block
    world.paths.close(first.number, NOW)
    assert world.kill_switch.protected == {carol} | block
    world.paths.close(second.number, NOW)
    assert not world.kill_switch.protected


def test_a_blocked_version_does_not_release_the_destination_of_a_path():
    world = World(exits_for_both())
    own = BLOCKED_FAMILY[4][1]  # a path may lead to a prefix that blocks as well
    blocking, path = world.paths.open_paths([terms(ALICE, both_versions=True), terms(own)], NOW)
    world.paths.close(blocking.number, NOW)
    assert world.kill_switch.protected == {own}
    world.paths.close(path.number, NOW)
    assert not world.kill_switch.protected


def test_a_version_that_was_left_blocked_stays_so_until_it_is_released(world):
    world.paths.adopt_all([], NOW, blocked=[6])
    assert world.kill_switch.protected == set(BLOCKED_FAMILY[6])
    world.kill_switch.refuse.add("release")
    with pytest.raises(BackendError):
        world.paths.release_left()
    assert world.paths.left_blocked == {6}
    world.kill_switch.refuse.clear()
    world.paths.release_left()
    assert (world.kill_switch.protected, world.paths.left_blocked) == (set(), frozenset())


def test_more_left_destinations_than_paths_stay_protected_and_are_counted(world):
    left = [terms(ip_network(f"203.0.{n}.1/32")) for n in range(MAX_PATHS)]
    assert world.paths.adopt_all([*left, terms(BOB)], NOW) == 1
    assert len(world.paths.all()) == MAX_PATHS
    assert BOB in world.kill_switch.protected


def test_the_revision_tells_of_every_change_of_the_terms(world):
    seen = [world.paths.revision]

    def changed():
        seen.append(world.paths.revision)
        return seen[-1] != seen[-2]

    path = world.request()
    assert changed()
    world.open(path.circuit)
    world.paths.handle(CircuitLost(path.circuit, LOST), NOW)
    assert not changed()
    world.paths.disown(path.number)
    world.paths.open_paths([PathTerms(BOB, 2, "uniform")], NOW)
    assert changed()
    assert world.paths.all_terms() == [PathTerms(BOB, 2, "uniform")]
    world.paths.close(BOB, NOW)
    assert changed()
    assert world.paths.all_terms() == []


def test_simultaneous_requests_are_blocked_by_one_change_before_any_circuit():
    world = World(exits_for_both())
    changes, protect = [], world.kill_switch.protect
    world.kill_switch.protect = lambda *prefixes: (
        changes.append(set(prefixes)),
        protect(*prefixes),
    )
    begin = world.circuits.anonymous_connection
    blocked_at = []
    world.circuits.anonymous_connection = lambda *arguments: (
        blocked_at.append(set(world.kill_switch.protected)),
        begin(*arguments),
    )[1]
    bob, alice = world.paths.open_each([[terms(BOB)], [terms(ALICE)]], NOW)
    assert changes == [{BOB, ALICE}]
    assert blocked_at == [{BOB, ALICE}] * 2
    assert [bob[0].destination, alice[0].destination] == [BOB, ALICE]
    assert bob[0].companions == bob, "each request succeeds or fails by itself"


def test_of_simultaneous_requests_each_fails_by_itself():
    world = World(exits_for_both())
    protect = world.kill_switch.protect

    def refuse_alice(*prefixes):
        if ALICE in prefixes:
            raise BackendError("the kernel refused.")
        protect(*prefixes)

    world.kill_switch.protect = refuse_alice
    bob, again, alice = world.paths.open_each([[terms(BOB)], [terms(BOB)], [terms(ALICE)]], NOW)
    assert [path.destination for path in bob] == [BOB]
    assert isinstance(again, ConfigurationError)
    assert isinstance(alice, BackendError)
    assert [path.destination for path in world.paths.all()] == [BOB]


def test_one_of_simultaneous_requests_takes_a_path_over():
    world = World(exits_for_both())
    (path,) = world.paths.open_paths([terms(BOB)], NOW)
    world.open(path.circuit)
    world.paths.disown(path.number)
    taken, refused = world.paths.open_each([[terms(BOB)], [terms(BOB)]], NOW)
    assert taken == [path]
    assert isinstance(refused, ConfigurationError)
    assert path.held


def both_opened(world):
    bob, alice = (paths[0] for paths in world.paths.open_each([[terms(BOB)], [terms(ALICE)]], NOW))
    inner = (VC, InnerAddress(bytes([0xFD, *bytes(15)])))
    opened = [CircuitOpened(path.circuit, inner, path.destination) for path in (bob, alice)]
    return bob, alice, opened


def test_circuits_that_open_together_are_carried_by_one_change():
    world = World(exits_for_both())
    bob, alice, opened = both_opened(world)
    world.paths.handle_all(opened, NOW)
    assert [set(change) for change in world.kill_switch.changes] == [{BOB, ALICE}]
    assert (bob.state, alice.state) == (PathState.OPEN, PathState.OPEN)
    world.paths.close_all(NOW)
    assert world.kill_switch.carried == {}


def test_a_refused_change_for_several_circuits_is_repeated_for_each():
    world = World(exits_for_both())
    bob, alice, opened = both_opened(world)
    carry = world.kill_switch.carry

    def refuse_alice(*carried):
        if ALICE in dict(carried):
            raise BackendError("the kernel refused.")
        carry(*carried)

    world.kill_switch.carry = refuse_alice
    world.paths.handle_all(opened, NOW)
    assert (bob.state, set(world.kill_switch.carried)) == (PathState.OPEN, {BOB})
    assert alice.state is not PathState.OPEN


def test_a_circuit_that_is_lost_as_it_opens_leaves_nothing_carried():
    world = World(exits_for_both())
    bob, alice, opened = both_opened(world)
    world.paths.handle_all([CircuitLost(alice.circuit, CircuitEnd.TORN_DOWN), *opened], NOW)
    assert set(world.kill_switch.carried) == {BOB}
    assert ALICE in world.kill_switch.protected
    assert (bob.state, alice.circuit) == (PathState.OPEN, None)
