"""Describe the datagrams that a node accepts, so that the kernel can test them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final, Self

from overlay.demultiplexer import Channel, frame
from overlay.dht.envelope import (
    OPENINGS,
    REQUEST_ID_AT,
    SMALLEST_BYTES,
    SMALLEST_REQUEST_BYTES,
    network_tag,
)
from overlay.ipsec.spi_mark import SpiMark
from overlay.link.handshake import GEOMETRY, MESSAGE_BYTES, NUMBER_AT, PADDED, MessageType
from overlay.system.port_program import ControlForm, FixedCookie, PackedCookie, PortForms

__all__ = ["Marks", "port_forms"]

_CHANNEL_AT: Final = 4
_PAYLOAD_AT: Final = 5


@dataclass(frozen=True, slots=True)
class Marks:
    """Secret properties of the numbers that a node draws and other nodes send back.

    Attributes:
        link_spis: of the SPIs of inbound link SAs.
        numbers: of the indexes of handshakes and the ids of DHT requests. It differs from
            ``link_spis``, because every node that gets a request learns such numbers.
    """

    link_spis: SpiMark
    numbers: SpiMark

    @classmethod
    def draw(cls, rng: Random) -> Self:
        """Return new properties."""
        return cls(SpiMark.draw(rng), SpiMark.draw(rng))


def port_forms(network_id: str, marks: Marks) -> PortForms:
    """Return the datagrams that a node of a network accepts if its numbers have these marks."""
    return PortForms(marks.link_spis, (*_dht_forms(network_id, marks), *_link_forms(marks)))


def _link_forms(marks: Marks) -> list[ControlForm]:
    forms = []
    for opening, size in MESSAGE_BYTES.items():
        framed = frame(Channel.LINK, opening)[_CHANNEL_AT:]
        mark = None if opening[0] == MessageType.INITIATION else marks.numbers
        if size == GEOMETRY.notice:  # a notice names an inbound SPI
            mark = marks.link_spis
        form = ControlForm(framed, _PAYLOAD_AT + size, exact=opening != PADDED)
        if mark is None:
            form = replace(form, cookie=FixedCookie(form.size - GEOMETRY.mac))  # mac2
        else:
            form = replace(form, number_at=_PAYLOAD_AT + NUMBER_AT, mark=mark)
        forms.append(form)
    return forms


def _dht_forms(network_id: str, marks: Marks) -> list[ControlForm]:
    tag = network_tag(network_id)
    forms = []
    for opening, is_answer in OPENINGS.items():
        framed = frame(Channel.DHT, opening + tag)[_CHANNEL_AT:]
        if is_answer:
            form = ControlForm(framed, _PAYLOAD_AT + SMALLEST_BYTES, exact=False)
            form = replace(form, number_at=_PAYLOAD_AT + REQUEST_ID_AT, mark=marks.numbers)
        else:
            form = ControlForm(framed, _PAYLOAD_AT + SMALLEST_REQUEST_BYTES, exact=False)
            form = replace(form, cookie=PackedCookie(_PAYLOAD_AT + SMALLEST_BYTES))
        forms.append(form)
    return forms
