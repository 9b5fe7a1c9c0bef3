"""Paths above a kill switch and circuits that record what is asked of them."""

import contextlib
from ipaddress import ip_network
from random import Random

import pytest

from overlay.addresses import Endpoint, InnerAddress
from overlay.apm.events import CircuitOpened
from overlay.dht.descriptor import OnionKey, Role, sign_descriptor
from overlay.dht.topology_table import TopologyTable
from overlay.errors import (
    BackendError,
    LimitReached,
)
from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.identity import LocalIdentity
from overlay.paths.mix_choice import MixChoice
from overlay.paths.paths import Paths
from overlay.paths.requested_path import PathTerms
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
