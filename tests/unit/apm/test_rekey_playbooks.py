"""REKEY as playbooks: two managers that hear each other only when the test lets them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from apm_fakes import NOW, Actor, control, controls, onions
from apm_lab import BOB_V4, lab_settings

from overlay.apm.control import (
    CONTROL_PORT,
    ControlMessage,
    RekeyAnswer,
    RekeyOffer,
    RekeySwitch,
    RekeySwitched,
    Teardown,
    TeardownReason,
    parse_control,
)
from overlay.apm.datagram import UdpDatagram
from overlay.apm.events import ApmDrop, CircuitEnd, CircuitLost
from overlay.apm.rekey_source import TRANSITIONS
from overlay.apm.rekey_states import SourceRekeyInput, SourceRekeyState
from overlay.ipsec.interface import SaIdentity, SecurityAssociation, Spi
from overlay.selection.selector import MixPath

LATER = NOW + 2.0
"""By then every first exchange has begun."""
LINGER_S = 30.0


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


def directions(actor: Actor) -> list[str]:
    return ["in" if sa.inbound else "out" for sa in actor.backend.associations()]


def keys(actor: Actor, *, inbound: bool) -> list[SecurityAssociation]:
    return [sa for sa in actor.backend.associations() if sa.inbound is inbound]


# --- the whole exchange ---


def test_each_side_receives_before_the_other_sends_and_lets_go_after_that() -> None:
    scene = Scene()
    alice, mix = scene.alice, scene.mix
    assert (directions(alice), directions(mix)) == (["out", "in"], ["in", "out"])
    # << OFFER: nothing is installed yet
    offer = scene.offer()
    assert (directions(alice), directions(mix)) == (["out", "in"], ["in", "out"])
    # >> OFFER << ANSWER: the hop receives with the new keys
    mix.hears(offer, now=LATER)
    answer = rekey_of(mix.sends(LATER))
    assert directions(mix) == ["in", "out", "in"]
    # >> ANSWER: so does the source, and sends with them after a while
    alice.hears(answer, now=LATER)
    assert directions(alice) == ["out", "in", "in"]
    scene.due(alice, LATER + 2)
    switch = rekey_of(alice.sends(LATER + 2))
    assert directions(alice) == ["out", "in", "in", "out"]
    # >> SWITCH << SWITCHED
    mix.hears(switch, now=LATER + 2)
    switched = rekey_of(mix.sends(LATER + 2))
    assert directions(mix) == ["in", "out", "in", "out"]
    # >> SWITCHED: the old outbound SA has no use any more, the old inbound one has
    alice.hears(switched, now=LATER + 2)
    assert directions(alice) == ["in", "in", "out"]
    # what lingers goes
    for actor, left in ((alice, ["in", "out"]), (mix, ["in", "out"])):
        actor.manager.handle_deadline(LATER + 2 + LINGER_S)
        assert directions(actor) == left
    assert mix.manager.inspection().exchanges == 0
    scene.finish(LATER + 40)


def test_both_sides_have_the_same_new_keys_and_the_same_reqids_as_before() -> None:
    scene = Scene()
    before = {sa.reqid for sa in scene.alice.backend.associations()}
    scene.alice.hears(scene.switched(), now=LATER + 2)
    scene.alice.manager.handle_deadline(LATER + 40)
    scene.mix.manager.handle_deadline(LATER + 40)
    for inbound in (True, False):
        [ours] = keys(scene.alice, inbound=inbound)
        [theirs] = keys(scene.mix, inbound=not inbound)
        assert (ours.spi, ours.keymat, ours.suite) == (theirs.spi, theirs.keymat, theirs.suite)
    assert {sa.reqid for sa in scene.alice.backend.associations()} == before


def test_an_exchange_chains_to_the_one_before() -> None:
    scene = Scene()
    alice = scene.alice
    circuit = alice.manager.inspection().own_circuit(scene.number)
    first = circuit.ipsec.hops[0]  # type: ignore[union-attr]
    alice.hears(scene.switched(), now=LATER + 2)
    second = alice.manager.inspection().own_circuit(scene.number).ipsec.hops[0]  # type: ignore[union-attr]
    theirs = scene.mix.manager.inspection().of_others()[0].sas
    assert (first.generation, second.generation, theirs.generation) == (0, 1, 1)
    assert first.chain != second.chain == theirs.chain
    assert first.forward_keymat != second.forward_keymat != second.backward_keymat


# --- loss, copies, disorder ---


@pytest.mark.slow
def test_what_is_lost_is_repeated_with_growing_pauses() -> None:
    scene = Scene(answer_patience_s=60.0)
    first = scene.offer()
    times = []
    while len(times) < 6:
        now = scene.alice.manager.next_deadline()
        scene.alice.manager.handle_deadline(now)
        repeated = [d for d in scene.alice.sends(now) if is_rekey(d)]
        assert all(d == first for d in repeated)
        times += [now - LATER] * len(repeated)
    assert times == pytest.approx([0.5, 1.5, 3.5, 7.5, 15.5, 23.5])


@pytest.mark.parametrize("stage", ["offer", "answer", "switch", "switched"])
def test_any_message_may_be_lost_once(stage: str) -> None:
    scene = Scene()
    getattr(scene, stage)()  # and nobody hears it
    now = LATER + 2
    for _ in range(30):
        now += 0.5
        for actor, other in ((scene.alice, scene.mix), (scene.mix, scene.alice)):
            actor.manager.handle_deadline(now)
            scene.carry(actor, other, now)
    assert scene.mix.manager.inspection().of_others()[0].sas.generation == 1
    assert directions(scene.alice) == ["in", "in", "out"]
    scene.finish(now)


def test_a_repeated_offer_gets_the_same_answer_and_installs_nothing() -> None:
    scene = Scene()
    offer = scene.offer()
    scene.mix.hears(offer, now=LATER)
    answer = rekey_of(scene.mix.sends(LATER))
    before = scene.mix.backend.associations()
    scene.mix.hears(offer, now=LATER + 0.5)
    assert rekey_of(scene.mix.sends(LATER + 0.5)) == answer
    assert scene.mix.backend.associations() == before


def test_repeated_switch_is_answered_as_long_as_the_old_keys_linger() -> None:
    scene = Scene()
    switch = scene.switch()
    scene.mix.hears(switch, now=LATER + 2)
    switched = rekey_of(scene.mix.sends(LATER + 2))
    before = scene.mix.backend.associations()
    scene.mix.hears(switch, now=LATER + 3)
    assert rekey_of(scene.mix.sends(LATER + 3)) == switched
    assert scene.mix.backend.associations() == before
    scene.mix.manager.handle_deadline(LATER + 2 + LINGER_S)
    scene.mix.hears(switch, now=LATER + 40)
    assert [d for d in scene.mix.sends(LATER + 40) if is_rekey(d)] == []
    assert scene.drops(scene.mix) == {ApmDrop.REPLAYED: 1}


def test_repeated_answer_and_switched_change_nothing() -> None:
    scene = Scene()
    answer = scene.answer()
    scene.alice.hears(answer, now=LATER)
    before = scene.alice.backend.associations()
    scene.alice.hears(answer, now=LATER)
    assert scene.alice.backend.associations() == before
    scene.due(scene.alice, LATER + 2)
    scene.mix.hears(*scene.alice.sends(LATER + 2), now=LATER + 2)
    switched = rekey_of(scene.mix.sends(LATER + 2))
    scene.alice.hears(switched, now=LATER + 2)
    before = scene.alice.backend.associations()
    scene.alice.hears(switched, answer, now=LATER + 2)
    assert scene.alice.backend.associations() == before
    assert scene.drops(scene.alice) == {ApmDrop.LATE: 3}


def test_an_older_offer_is_dropped_and_a_newer_one_takes_its_place() -> None:
    scene = Scene()
    offer = scene.offer()
    scene.mix.hears(offer, now=LATER)
    scene.mix.sends(LATER)
    newer = changed(offer, generation=5, forward_spi=Spi(0x6666), backward_spi=Spi(0x7777))
    scene.mix.hears(newer, now=LATER + 1)
    assert len(keys(scene.mix, inbound=True)) == 2
    scene.mix.sends(LATER + 1)
    scene.mix.hears(offer, changed(offer, generation=4), now=LATER + 2)
    assert scene.mix.sends(LATER + 2) == []
    assert scene.drops(scene.mix) == {ApmDrop.REPLAYED: 2}
    scene.finish(LATER + 3)


# --- hostile ---


def test_every_flipped_bit_of_an_answer_keeps_the_keys_as_they_are() -> None:
    scene = Scene()
    answer = scene.answer()
    before = scene.alice.backend.associations()
    for bit in range(len(answer.payload) * 8):
        payload = bytearray(answer.payload)
        payload[bit // 8] ^= 1 << bit % 8
        scene.alice.hears(replace(answer, payload=bytes(payload)), now=LATER)
    assert scene.alice.backend.associations() == before
    assert sum(scene.drops(scene.alice).values()) == len(answer.payload) * 8
    scene.alice.hears(answer, now=LATER)
    assert len(keys(scene.alice, inbound=True)) == 2, "and the true one is still accepted"


@pytest.mark.parametrize("stage", ["switch", "switched"])
def test_every_flipped_bit_of_a_proof_proves_nothing(stage: str) -> None:
    scene = Scene()
    proof = getattr(scene, stage)()
    actor = scene.mix if stage == "switch" else scene.alice
    before = actor.backend.associations()
    for bit in range(len(proof.payload) * 8):
        payload = bytearray(proof.payload)
        payload[bit // 8] ^= 1 << bit % 8
        actor.hears(replace(proof, payload=bytes(payload)), now=LATER + 2)
    assert actor.backend.associations() == before
    assert [d for d in actor.sends(LATER + 2) if is_rekey(d)] == []


SMALL_ORDER = [bytes(32), bytes([1]) + bytes(31), (2**255 - 20).to_bytes(32, "little")]


@pytest.mark.parametrize("share", SMALL_ORDER)
def test_share_that_contributes_nothing_is_refused(share: bytes) -> None:
    scene = Scene()
    offer = scene.offer()
    scene.mix.hears(changed(offer, share=share), now=LATER)
    assert scene.mix.sends(LATER) == []
    assert scene.drops(scene.mix) == {ApmDrop.NOT_AUTHENTIC: 1}
    scene.mix.hears(offer, now=LATER + 1)
    scene.alice.hears(changed(rekey_of(scene.mix.sends(LATER + 1)), share=share), now=LATER + 1)
    assert scene.drops(scene.alice) == {ApmDrop.NOT_AUTHENTIC: 1}
    scene.finish(LATER + 2)


def test_offer_under_the_spi_in_use_is_malformed() -> None:
    scene = Scene()
    spi = scene.mix.manager.inspection().of_others()[0].sas.backward_spi
    scene.mix.hears(changed(scene.offer(), backward_spi=spi), now=LATER)
    assert scene.mix.sends(LATER) == []
    assert scene.drops(scene.mix) == {ApmDrop.MALFORMED: 1}


def test_offer_under_a_forward_spi_in_use_gets_no_answer() -> None:
    """Neither of the circuit itself nor of another: two SAs would answer to one name."""
    scene = Scene()
    carol = Actor(3, scene.mix.settings)
    carol.link_to(scene.mix)
    scene.mix.link_to(carol)
    carol.manager.anonymous_connection(MixPath((scene.mix.descriptor,)), BOB_V4, NOW)
    scene.mix.hears(*onions(carol.sends()))
    scene.mix.sends()
    offer, before = scene.offer(), scene.mix.backend.associations()
    spis = [circuit.sas.forward_spi for circuit in scene.mix.manager.inspection().of_others()]
    assert len(spis) == 2
    for later, spi in enumerate(spis):
        scene.mix.hears(changed(offer, forward_spi=spi), now=LATER + later)
    assert [d for d in scene.mix.sends(LATER + 1) if is_rekey(d)] == []
    assert scene.drops(scene.mix) == {ApmDrop.UNEXPECTED: 2}
    assert scene.mix.backend.associations() == before
    scene.mix.hears(offer, now=LATER + 2)
    assert len(controls(scene.mix.sends(LATER + 2))) == 1, "and a free one is still answered"


def test_rekey_from_the_wrong_side_or_for_no_circuit_is_dropped() -> None:
    scene = Scene()
    near = scene.alice.backend.installed[0].local_addresses[0]
    scene.alice.hears(
        control(scene.mix.address, near, RekeyOffer(1, Spi(998), Spi(999), bytes(32)))
    )
    scene.mix.hears(control(near, scene.mix.address, RekeySwitched(1, bytes(16))))
    scene.mix.hears(control(near, scene.mix.address, RekeySwitch(1, bytes(16))))
    scene.alice.hears(control(scene.mix.address, near, RekeySwitched(1, bytes(16))))
    assert sum(scene.drops(scene.alice).values()) == 2
    assert sum(scene.drops(scene.mix).values()) == 2


def test_a_source_that_wants_keys_all_the_time_is_slowed_down() -> None:
    scene = Scene(rekey_pause_s=1.0)
    offer = scene.offer()
    for generation in range(1, 50):
        spis = {"forward_spi": Spi(4000 + generation), "backward_spi": Spi(5000 + generation)}
        fresh = changed(offer, generation=generation, **spis)
        scene.mix.hears(fresh, now=LATER + generation / 100)
    assert len([d for d in scene.mix.sends(LATER + 1) if is_rekey(d)]) == 1
    assert scene.drops(scene.mix) == {ApmDrop.LIMIT: 48}
    assert len(keys(scene.mix, inbound=True)) == 2


def test_every_spi_of_the_source_is_one_that_it_drew() -> None:
    """A hop that chose one could name that of another circuit through it, and would learn by what
    the source then cannot install that both circuits are the same source's."""
    scene = Scene()
    scene.alice.hears(scene.switched(), now=LATER + 2)
    spis = {sa.spi for sa in scene.alice.backend.associations()}
    assert len(spis) == 3, "forward, backward, and the backward one that lingers"
    assert all(spi in scene.alice.spis for spi in spis)


def test_offers_that_come_to_nothing_are_slowed_down_as_well() -> None:
    scene = Scene(rekey_pause_s=1.0)
    offer = scene.offer()
    for number in range(50):
        scene.mix.hears(changed(offer, share=SMALL_ORDER[0]), now=LATER + number / 100)
    assert scene.drops(scene.mix) == {ApmDrop.NOT_AUTHENTIC: 1, ApmDrop.LIMIT: 49}
    scene.mix.hears(offer, now=LATER + 1)
    assert len(controls(scene.mix.sends(LATER + 1))) == 1
    scene.finish(LATER + 2)


# --- a hop that keeps silent, a host that refuses ---


@pytest.mark.parametrize("stage", ["offer", "switch"])
def test_a_silent_hop_ends_the_circuit_and_everything_of_it(stage: str) -> None:
    scene = Scene(answer_patience_s=60.0)
    getattr(scene, stage)()
    now = LATER + 2
    while now < LATER + 40:
        now += 0.25
        scene.alice.manager.handle_deadline(now)
        scene.alice.sends(now)
    losses = [e for e in scene.alice.manager.events() if isinstance(e, CircuitLost)]
    assert [loss.reason for loss in losses] == [CircuitEnd.NOT_REKEYED]
    assert scene.alice.backend.installed == []
    assert len(scene.alice.spis) == 0


@pytest.mark.parametrize("stage", ["answer", "agreed", "switch"])
def test_a_host_that_refuses_new_sas_goes_on_with_the_old_ones(stage: str) -> None:
    scene = Scene()
    if stage == "agreed":
        scene.alice.hears(scene.answer(), now=LATER)
        scene.alice.backend.fail = True
        scene.alice.manager.handle_deadline(LATER + 2)
        assert directions(scene.alice) == ["out", "in"]
    elif stage == "answer":
        answer = scene.answer()
        scene.alice.backend.fail = True
        scene.alice.hears(answer, now=LATER)
        assert directions(scene.alice) == ["out", "in"]
    else:
        switch = scene.switch()
        scene.mix.backend.fail = True
        scene.mix.hears(switch, now=LATER + 2)
        assert directions(scene.mix) == ["in", "out", "in"]
    scene.alice.backend.fail = scene.mix.backend.fail = False
    now = LATER + 2
    for _ in range(20):
        now += 0.5
        for actor, other in ((scene.alice, scene.mix), (scene.mix, scene.alice)):
            actor.manager.handle_deadline(now)
            scene.carry(actor, other, now)
    assert scene.mix.manager.inspection().of_others()[0].sas.generation in (1, 2)
    assert directions(scene.alice) == ["in", "in", "out"]
    scene.finish(now)


# --- soft limits ---


def current(scene: Scene, *, inbound: bool) -> SaIdentity:
    return keys(scene.alice, inbound=inbound)[-1].identity


@pytest.mark.parametrize("inbound", [True, False])
def test_a_soft_limit_begins_at_once(inbound: bool) -> None:
    scene = Scene(rekey_spread_s=1e6)
    assert scene.alice.manager.soft_expired(current(scene, inbound=inbound), NOW + 1)
    message = parse_control(rekey_of(scene.alice.sends(NOW + 1)).payload)
    assert isinstance(message, RekeyOffer)


@pytest.mark.parametrize("stage", ["offer", "answer"])
def test_a_soft_limit_of_keys_that_are_being_replaced_changes_nothing(stage: str) -> None:
    scene = Scene()
    answered = getattr(scene, stage)()
    if stage == "answer":
        scene.alice.hears(answered, now=LATER)
    outbound = keys(scene.alice, inbound=False)[0].identity
    assert scene.alice.manager.soft_expired(outbound, LATER)
    assert [d for d in scene.alice.sends(LATER) if is_rekey(d)] == []


def test_new_keys_that_wear_out_during_the_switch_are_replaced_next() -> None:
    scene = Scene()
    switched = scene.switched()
    assert scene.alice.manager.soft_expired(current(scene, inbound=False), LATER + 2)
    assert scene.alice.manager.soft_expired(current(scene, inbound=False), LATER + 2)
    scene.alice.hears(switched, now=LATER + 2)
    offer = parse_control(rekey_of(scene.alice.sends(LATER + 2)).payload)
    assert isinstance(offer, RekeyOffer)
    assert offer.generation == 2


def test_replaced_and_foreign_sas_ask_for_nothing() -> None:
    scene = Scene()
    worn = keys(scene.alice, inbound=True)[0].identity
    scene.alice.hears(scene.switched(), now=LATER + 2)
    assert not scene.alice.manager.soft_expired(worn, LATER + 3)
    for sa in scene.mix.backend.associations():
        assert not scene.mix.manager.soft_expired(sa.identity, LATER + 3)
    assert not scene.alice.manager.soft_expired(SaIdentity(Spi(1234), bytes(16)), LATER + 3)


# --- the end in the middle ---


@pytest.mark.parametrize("stage", ["offer", "answer", "switch", "switched"])
def test_a_circuit_that_ends_during_an_exchange_leaves_nothing(stage: str) -> None:
    scene = Scene()
    last = getattr(scene, stage)()
    actor = scene.mix if stage in ("offer", "switch") else scene.alice
    actor.hears(last, now=LATER + 2)
    scene.finish(LATER + 3)


@pytest.mark.parametrize("stage", ["offer", "answer", "switch", "switched"])
def test_a_link_that_is_lost_during_an_exchange_leaves_nothing(stage: str) -> None:
    scene = Scene()
    getattr(scene, stage)()
    scene.alice.manager.link_lost(scene.mix.address, LATER + 3)
    scene.mix.manager.link_lost(scene.alice.address, LATER + 3)
    assert scene.alice.backend.installed == scene.mix.backend.installed == []
    assert len(scene.alice.spis) == 0
    assert not scene.mix.manager.inspection().forward_spis()


def test_teardown_by_the_hop_during_an_exchange_leaves_nothing_at_the_source() -> None:
    scene = Scene()
    scene.alice.hears(scene.answer(), now=LATER)
    near = scene.alice.backend.installed[0].local_addresses[0]
    goodbye = control(scene.mix.address, near, Teardown(TeardownReason.SHUTDOWN))
    scene.alice.hears(goodbye, now=LATER)
    scene.finish(LATER + 1)


def test_a_hop_counts_traffic_under_unproven_keys_as_use() -> None:
    """The source's SWITCH is lost for long while its packets use the new SA."""
    scene = Scene(unconfirmed_expiry_s=30.0, idle_expiry_s=60.0)
    scene.switch()
    unproven = keys(scene.mix, inbound=True)[-1].identity
    scene.mix.backend.used[unproven] = LATER + 50
    scene.mix.manager.handle_deadline(LATER + 65)
    assert scene.mix.manager.relay_report().exits == 1


def test_no_state_is_without_a_way_out() -> None:
    for state in SourceRekeyState:
        steps = {happened: step for (s, happened), step in TRANSITIONS.items() if s is state}
        assert SourceRekeyInput.DUE in steps
        assert any(step[1] is not state for step in steps.values())
