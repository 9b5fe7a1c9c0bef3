"""A requested path: guarded from the wish to its close, rebuilt when its circuit is lost."""

import math
from ipaddress import ip_network
from random import Random

import pytest

from overlay.addresses import Endpoint, InnerAddress
from overlay.apm.events import CircuitFailed, CircuitLost, CircuitOpened
from overlay.dht.descriptor import OnionKey, Role, sign_descriptor
from overlay.dht.topology_table import TopologyTable
from overlay.errors import CircuitRefused, CircuitTimedOut, ConfigurationError, NoSuitablePath
from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.identity import LocalIdentity
from overlay.node.paths import MAX_PATHS, Paths, PathState
from overlay.selection.uniform import UniformSelector

NOW = 1_000_000_000.0
BOB = ip_network("203.0.113.10/32")
VC = InnerAddress(bytes([100, 64, 0, 9]))


class Circuits:
    def __init__(self):
        self.opened, self.closed = [], []

    def anonymous_connection(self, path, destination, now):
        self.opened.append(path)
        return len(self.opened)

    def close(self, circuit, now):
        self.closed.append(circuit)


class RecordingGuard:
    def __init__(self):
        self.protected, self.carried, self.calls = set(), {}, []

    def protect(self, destination):
        self.protected.add(destination)

    def carry(self, destination, inner_address):
        assert destination in self.protected
        self.carried[destination] = inner_address

    def uncarry(self, destination, inner_address):
        assert self.carried.pop(destination) == inner_address

    def release(self, destination):
        assert destination not in self.carried
        self.protected.discard(destination)


def mix(number, *, exits=False):
    identity = LocalIdentity.generate(Random(number))
    roles = {Role.RELAY} | ({Role.EXIT} if exits else set())
    return sign_descriptor(
        identity,
        network_id="test",
        onion_keys=(OnionKey(1, identity.onion_key),),
        esp_suites=(3,),
        endpoints=(Endpoint(f"11.{number}.0.1", 4500),),
        roles=frozenset(roles),
        exit_policy=ExitPolicy((ExitRule(True, ip_network("0.0.0.0/0")),)) if exits else None,
        bandwidth_kbit=1000,
        sequence=1,
        valid_from=int(NOW) - 10,
        expires=int(NOW) + 3600,
    )


class World:
    def __init__(self, mixes):
        self.circuits, self.guard = Circuits(), RecordingGuard()
        table = TopologyTable()
        for descriptor in mixes:
            assert table.add(descriptor, NOW)
        self.paths = Paths(
            circuits=self.circuits,
            guard=self.guard,
            table=table,
            selector=lambda name: UniformSelector(),
            source=LocalIdentity.generate(Random(999)).node_id,
            onion_suite=1,
            esp_suite=3,
            rng=Random(7),
        )

    def request(self, destination=BOB, now=NOW):
        return self.paths.request(destination, hops=3, strategy="uniform", via=(), now=now)

    def open(self, circuit, now=NOW):
        self.paths.handle(CircuitOpened(circuit, (VC,), BOB), now)


@pytest.fixture
def world():
    return World([mix(n) for n in range(1, 6)] + [mix(6, exits=True), mix(7, exits=True)])


def test_a_destination_is_guarded_before_its_first_circuit_and_carried_after_it(world):
    path = world.request()
    assert world.guard.protected == {BOB}
    assert not world.guard.carried
    world.open(path.circuit)
    assert path.state is PathState.OPEN
    assert path.settled.is_set()
    assert world.guard.carried == {BOB: VC}


def test_a_lost_circuit_leaves_the_guard_and_is_replaced(world):
    path = world.request()
    world.open(1)
    world.paths.handle(CircuitLost(1, "keep-alive unanswered"), NOW + 60)
    assert path.state is PathState.REBUILDING
    assert world.guard.protected == {BOB}
    assert not world.guard.carried
    world.paths.handle_deadline(world.paths.next_deadline())
    world.open(2, NOW + 61)
    assert path.state is PathState.OPEN
    assert world.guard.carried == {BOB: VC}


def test_the_hop_that_refused_is_avoided_at_the_next_attempt(world):
    path = world.request()
    refusing = world.circuits.opened[0].hops[0]
    world.paths.handle(CircuitFailed(1, CircuitRefused("no", hop=1, reason="limit")), NOW)
    for _ in range(2):
        world.paths.handle_deadline(world.paths.next_deadline())
        assert refusing not in world.circuits.opened[-1].hops
        world.paths.handle(CircuitFailed(path.circuit, CircuitTimedOut("late")), NOW + 5)


def test_a_path_that_never_opened_ends_with_the_last_error_and_without_guard(world):
    path = world.request()
    now = NOW
    while not path.settled.is_set():
        world.paths.handle(CircuitFailed(path.circuit, CircuitTimedOut("late")), now)
        now = max(now + 1, min(world.paths.next_deadline(), now + 100))
        world.paths.handle_deadline(now)
    assert isinstance(path.error, CircuitTimedOut)
    assert world.paths.all() == []
    assert not world.guard.protected
    assert world.paths.next_deadline() == math.inf


def test_closing_tears_the_circuit_down_and_releases_the_destination(world):
    path = world.request()
    world.open(1)
    world.paths.close(path.number, NOW)
    assert world.circuits.closed == [1]
    assert not world.guard.protected
    with pytest.raises(ConfigurationError, match="there is no path 1"):
        world.paths.close(path.number, NOW)


def test_no_path_means_no_guard_left():
    world = World([mix(1), mix(2, exits=True)])
    with pytest.raises(NoSuitablePath):
        world.request()
    assert not world.guard.protected
    assert world.paths.all() == []


def test_one_destination_has_one_path(world):
    world.request()
    with pytest.raises(ConfigurationError, match="path 1 serves this destination already"):
        world.request()
    assert world.guard.protected == {BOB}


def test_what_a_dead_node_had_guarded_stays_guarded_and_is_rebuilt(world):
    world.paths.adopt(BOB, hops=3, strategy="uniform", now=NOW)
    assert world.guard.protected == {BOB}
    world.paths.handle_deadline(NOW)
    assert len(world.circuits.opened) == 1
    world.open(1)
    assert world.guard.carried == {BOB: VC}


def test_adopted_destinations_wait_for_a_topology_without_spinning():
    world = World([mix(1)])
    world.paths.adopt(BOB, hops=3, strategy="uniform", now=NOW)
    now = NOW
    for _ in range(50):
        world.paths.handle_deadline(now)
        assert world.paths.next_deadline() > now
        now = world.paths.next_deadline()
    assert now > NOW + 300
    assert world.guard.protected == {BOB}


def test_the_number_of_paths_is_bounded(world):
    for n in range(MAX_PATHS):
        world.request(ip_network(f"203.0.{n}.1/32"))
    with pytest.raises(ConfigurationError, match="256 paths"):
        world.request(ip_network("198.51.100.1/32"))
