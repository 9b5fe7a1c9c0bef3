"""CPU time for unauthenticated senders: onions and offers of new keys wait for the some time."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from apm_fakes import NOW, Actor, control, controls, onions
from apm_lab import BOB_V4
from apm_onions import exit_layer, send

from overlay.addresses import Endpoint, OverlayAddress
from overlay.apm.control import (
    CONTROL_PORT,
    CircuitPing,
    CircuitPong,
    Confirm,
    RekeyAnswer,
    RekeyOffer,
    parse_control,
)
from overlay.apm.datagram import UdpDatagram
from overlay.apm.events import ApmDrop
from overlay.identity import LocalIdentity
from overlay.selection.selector import MixPath
from overlay.work_budget import Work, WorkBudget


def neighbours(relay: Actor, *hosts: str) -> list[Actor]:
    made = [Actor(number, where=Endpoint(host, 4500)) for number, host in enumerate(hosts, 10)]
    for actor in made:
        relay.link_to(actor)
        actor.link_to(relay)
    return made


def kinds(relay: Actor, now: float = NOW) -> list[type]:
    return [type(message) for message in controls(relay.sends(now))]


def test_onion_without_cpu_time_is_dropped_unopened_and_forgotten() -> None:
    relay = Actor(2, budget=WorkBudget(Work.ONION.value))
    one, other = neighbours(relay, "203.0.113.1", "198.51.100.1")
    send(one, relay, exit_layer(one, relay))
    assert kinds(relay) == [Confirm]
    send(other, relay, exit_layer(other, relay))
    assert kinds(relay) == []
    report = relay.manager.relay_report()
    assert report.drops == {ApmDrop.LIMIT: 1}
    assert (report.remembered_onions, report.exits) == (1, 1)
    send(other, relay, exit_layer(other, relay), NOW + 4)
    assert kinds(relay, NOW + 4) == [Confirm]


@dataclass
class WrongKey:
    """A receiver whose onions are sealed to another node's key, which only opening shows."""

    identity: LocalIdentity
    relay: Actor

    @property
    def address(self) -> OverlayAddress:
        return self.relay.address

    def hears(self, datagram: UdpDatagram, now: float) -> None:
        self.relay.hears(datagram, now=now)


def test_onions_that_do_not_open_use_up_no_time_of_others() -> None:
    relay = Actor(2, budget=WorkBudget(100 * Work.ONION.value))
    mallory, alice = neighbours(relay, "203.0.113.1", "198.51.100.1")
    target = WrongKey(Actor(3).identity, relay)
    for _ in range(100):
        send(mallory, target, exit_layer(mallory, target))  # type: ignore[arg-type]
    drops = relay.manager.relay_report().drops
    assert 0 < drops[ApmDrop.NOT_AUTHENTIC] <= 100 // 9
    assert sum(drops.values()) == 100
    send(alice, relay, exit_layer(alice, relay))
    assert kinds(relay) == [Confirm]


@pytest.mark.parametrize("spent", [True, False])
def test_offers_of_new_keys_wait_and_the_circuit_goes_on(spent: bool) -> None:
    relay = Actor(2, budget=WorkBudget(1.2 * Work.ONION.value if spent else 1.0))
    [alice] = neighbours(relay, "203.0.113.1")
    alice.manager.anonymous_connection(MixPath((relay.descriptor,)), BOB_V4, NOW)
    relay.hears(*onions(alice.sends()))
    alice.hears(*relay.sends())
    relay.hears(*alice.sends())
    relay.sends()
    alice.manager.handle_deadline(NOW + 2)
    [offer] = [d for d in alice.sends(NOW + 2) if is_offer(d)]
    if spent:
        send(alice, relay, exit_layer(alice, relay), NOW + 2)
        assert kinds(relay, NOW + 2) == [Confirm]
    ping = control(offer.source, relay.address, CircuitPing(b"12345678"))
    relay.hears(offer, ping, now=NOW + 2)
    assert kinds(relay, NOW + 2) == ([CircuitPong] if spent else [RekeyAnswer, CircuitPong])
    relay.hears(offer, now=NOW + 6)
    assert kinds(relay, NOW + 6) == [RekeyAnswer]


def is_offer(datagram: UdpDatagram) -> bool:
    if datagram.destination_port != CONTROL_PORT:
        return False
    return isinstance(parse_control(datagram.payload), RekeyOffer)
