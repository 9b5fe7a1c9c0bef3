"""REKEY with changed messages, weak shares, SPIs in use and too many offers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from apm_fakes import NOW, Actor, control, controls, onions
from apm_lab import BOB_V4
from rekey_playbooks import LATER, Scene, changed, is_rekey, keys, rekey_of

from overlay.apm.control import (
    RekeyOffer,
    RekeySwitch,
    RekeySwitched,
)
from overlay.apm.events import ApmDrop
from overlay.ipsec.interface import Spi
from overlay.selection.selector import MixPath


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
