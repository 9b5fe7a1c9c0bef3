from __future__ import annotations

import pytest

from overlay.addresses import Endpoint
from overlay.demultiplexer import NAT_KEEPALIVE, Channel, Demultiplexed, demultiplex, frame

ALICE = Endpoint("8.8.8.8", 4500)


@pytest.mark.parametrize("channel", list(Channel))
def test_a_framed_payload_comes_out_on_its_channel_alone(channel):
    result = demultiplex([(frame(channel, b"payload"), ALICE)])
    assert result.link == ([(b"payload", ALICE)] if channel is Channel.LINK else [])
    assert result.dht == ([(b"payload", ALICE)] if channel is Channel.DHT else [])
    assert (result.esp, result.keepalives, result.malformed) == ([], 0, 0)


def test_esp_is_everything_with_an_spi_and_a_sequence_number():
    packet = b"\x00\x00\x01\x00" + bytes(30)
    result = demultiplex([(packet, ALICE), (NAT_KEEPALIVE, ALICE), (packet[:8], ALICE)])
    assert result.esp == [(packet, ALICE), (packet[:8], ALICE)]
    assert (result.keepalives, result.malformed) == (1, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\xfe",
        b"\xff\xff",
        bytes(4),
        bytes(5),
        bytes(4) + b"\x01",
        bytes(4) + b"\x02",
        bytes(4) + b"\x03payload",
        b"\x00\x00\x01\x00\x00\x00\x00",
    ],
)
def test_what_is_neither_is_counted(data):
    result = demultiplex([(data, ALICE)])
    assert result.malformed == 1
    assert (result.esp, result.dht, result.link, result.keepalives) == ([], [], [], 0)


def test_what_finds_no_place_is_counted():
    here = Endpoint("192.0.2.1", 4500)
    esp = b"\x00\x00\x07\x00" + bytes(20)
    link, dht = (frame(channel, b"x") for channel in (Channel.LINK, Channel.DHT))
    batch = [(data, here) for data in (link, esp, dht, b"\xff", esp, b"abc")]
    first, waiting = demultiplex(batch), Demultiplexed()
    assert len(first) == 4
    assert first.move_to(waiting, 3) == 1
    assert (len(waiting.dht), len(waiting.link), len(waiting.esp)) == (1, 1, 1)
    assert (waiting.keepalives, waiting.malformed) == (1, 1)
    assert demultiplex(batch).move_to(waiting, 0) == 4
    assert len(waiting) == 3
