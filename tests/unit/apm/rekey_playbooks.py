"""An open circuit of one hop whose offer of new keys is due."""

from __future__ import annotations

from dataclasses import replace

from apm_fakes import NOW, Actor, control, controls, onions
from apm_lab import BOB_V4, lab_settings

from overlay.apm.control import (
    CONTROL_PORT,
    ControlMessage,
    RekeyAnswer,
    RekeyOffer,
    RekeySwitch,
    RekeySwitched,
    parse_control,
)
from overlay.apm.datagram import UdpDatagram
from overlay.apm.events import ApmDrop
from overlay.ipsec.interface import SecurityAssociation
from overlay.selection.selector import MixPath

LATER = NOW + 2.0
"""By then every first exchange has begun."""


class Scene:
    """alice has an open circuit over mix1 (one hop), and her offer is due."""

    def __init__(self, **settings: object) -> None:
        chosen = lab_settings(**settings)
        self.alice, self.mix = Actor(1, chosen), Actor(2, chosen)
        self.alice.link_to(self.mix)
        self.mix.link_to(self.alice)
        path = MixPath((self.mix.descriptor,))
        self.number = self.alice.manager.anonymous_connection(path, BOB_V4, NOW)
        self.mix.hears(*onions(self.alice.sends()))
        self.carry(self.mix, self.alice)
        assert self.alice.event_names() == ["CircuitOpened"]
        self.carry(self.alice, self.mix)
        self.carry(self.mix, self.alice)
        self.installed = len(self.alice.backend.associations())

    def carry(self, sender: Actor, receiver: Actor, now: float = NOW) -> list[ControlMessage]:
        """Deliver what ``sender`` has to say; return its circuit control."""
        datagrams = sender.sends(now)
        receiver.hears(*datagrams, now=now)
        return controls(datagrams)

    def due(self, actor: Actor, now: float) -> None:
        actor.manager.handle_deadline(now)
        assert actor.manager.next_deadline() > now

    def offer(self, now: float = LATER) -> UdpDatagram:
        """alice's next offer, not delivered."""
        self.due(self.alice, now)
        return rekey_of(self.alice.sends(now))

    def answer(self, now: float = LATER) -> UdpDatagram:
        self.mix.hears(self.offer(now), now=now)
        return rekey_of(self.mix.sends(now))

    def switch(self, now: float = LATER) -> UdpDatagram:
        """alice's switch, not delivered; her wait is over at most two seconds later."""
        self.alice.hears(self.answer(now), now=now)
        self.due(self.alice, now + 2)
        return rekey_of(self.alice.sends(now + 2))

    def switched(self, now: float = LATER) -> UdpDatagram:
        self.mix.hears(self.switch(now), now=now + 2)
        return rekey_of(self.mix.sends(now + 2))

    def drops(self, actor: Actor) -> dict[ApmDrop, int]:
        return dict(actor.manager.relay_report().drops)

    def finish(self, now: float) -> None:
        """The circuit ends: both sides are as they were before it."""
        self.alice.manager.close(self.number, now)
        self.carry(self.alice, self.mix, now)
        for wait in (0.5, 1.0, 100.0):
            for actor in (self.alice, self.mix):
                actor.manager.handle_deadline(now + wait)
                actor.sends(now + wait)
        for actor in (self.alice, self.mix):
            assert actor.backend.installed == []
            assert len(actor.spis) == 0
            assert not actor.manager.inspection().forward_spis()


def rekey_of(datagrams: list[UdpDatagram]) -> UdpDatagram:
    [found] = [d for d in datagrams if is_rekey(d)]
    return found


def is_rekey(datagram: UdpDatagram) -> bool:
    if datagram.destination_port != CONTROL_PORT:
        return False
    kinds = RekeyOffer | RekeyAnswer | RekeySwitch | RekeySwitched
    return isinstance(parse_control(datagram.payload), kinds)


def changed(datagram: UdpDatagram, **fields: object) -> UdpDatagram:
    message = replace(parse_control(datagram.payload), **fields)  # type: ignore[type-var]
    return control(datagram.source, datagram.destination, message)


def keys(actor: Actor, *, inbound: bool) -> list[SecurityAssociation]:
    return [sa for sa in actor.backend.associations() if sa.inbound is inbound]
