"""The page docs/formats/circuit-control.md says what the code of REKEY does."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

from overlay.addresses import CircuitAddress, OverlayAddress
from overlay.apm import rekey_hop, rekey_source
from overlay.apm.circuits import OnionSas
from overlay.apm.control import RekeyAnswer, RekeyOffer, encode_control
from overlay.apm.rekey_keys import EphemeralKey
from overlay.apm.rekey_states import (
    HopRekeyInput,
    HopRekeyState,
    SourceRekeyInput,
    SourceRekeyState,
)
from overlay.ipsec.interface import Spi
from overlay.sensitive import SecretBytes

PAGE = Path(__file__).parents[3] / "docs" / "formats" / "circuit-control.md"


def table_of(
    states: type[enum.Enum], inputs: type[enum.Enum], transitions: Mapping[object, object]
) -> str:
    rows = ["| input | " + " | ".join(state.name for state in states) + " |"]
    rows.append("|---" * (len(states) + 1) + "|")
    for happened in inputs:
        cells = []
        for state in states:
            step = transitions.get((state, happened))
            if step is None:
                cells.append("")
                continue
            action, after = step  # type: ignore[misc]
            cells.append(f"{action.__name__.strip('_').replace('_', ' ')} → {after.name}")
        rows.append(f"| {happened.name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def vector() -> str:
    sas = OnionSas(
        hop=OverlayAddress(bytes.fromhex("fd6d6978") + bytes([1] * 12)),
        near=CircuitAddress(bytes.fromhex("fd636972") + bytes([2] * 12)),
        esp_suite=3,
        forward_spi=Spi(0x1000),
        backward_spi=Spi(0x2000),
        forward_keymat=SecretBytes(bytes(36)),
        backward_keymat=SecretBytes(bytes(36)),
        forward_reqid=65536,
        backward_reqid=65537,
        chain=SecretBytes(bytes([3] * 32)),
    )
    source, hop = (EphemeralKey(Fixed(byte)) for byte in (4, 5))
    offer = RekeyOffer(1, Spi(0x3000), Spi(0x4000), source.share)
    answer = RekeyAnswer(1, hop.share)
    ours = source.agree(sas, offer, answer, answer.share)
    assert ours == hop.agree(sas, offer, answer, offer.share)
    lines = {
        "offer": encode_control(offer),
        "answer": encode_control(replace(answer, tag=ours.answer_tag)),
        "forward keymat": ours.forward_keymat.reveal(),
        "backward keymat": ours.backward_keymat.reveal(),
        "chain": ours.chain.reveal(),
        "switch tag": ours.switch_tag,
        "switched tag": ours.switched_tag,
    }
    return "\n".join(f"{name}: {value.hex()}" for name, value in lines.items())


class Fixed(Random):
    """Draws one byte again and again."""

    def __init__(self, byte: int) -> None:
        super().__init__(0)
        self._byte = byte

    def randbytes(self, n: int) -> bytes:
        return bytes([self._byte] * n)


def test_the_page_shows_both_tables_of_the_code() -> None:
    page = PAGE.read_text()
    assert table_of(SourceRekeyState, SourceRekeyInput, rekey_source.TRANSITIONS) in page
    assert table_of(HopRekeyState, HopRekeyInput, rekey_hop.TRANSITIONS) in page


def test_the_page_shows_a_vector_that_the_code_computes() -> None:
    assert vector() in PAGE.read_text()
