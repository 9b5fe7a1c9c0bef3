"""REKEY as playbooks: two managers that hear each other only when the test lets them."""

from __future__ import annotations

import pytest
from apm_fakes import NOW, Actor, control
from rekey_playbooks import LATER, Scene, changed, is_rekey, keys, rekey_of

from overlay.apm.control import (
    RekeyOffer,
    Teardown,
    TeardownReason,
    parse_control,
)
from overlay.apm.events import ApmDrop, CircuitEnd, CircuitLost
from overlay.apm.rekey_source import TRANSITIONS
from overlay.apm.rekey_states import SourceRekeyInput, SourceRekeyState
from overlay.ipsec.interface import SaIdentity, Spi

LINGER_S = 30.0


def directions(actor: Actor) -> list[str]:
    return ["in" if sa.inbound else "out" for sa in actor.backend.associations()]


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
