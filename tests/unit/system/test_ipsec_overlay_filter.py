"""The filter that keeps overlay addresses inside IPsec, packet by packet."""

from dataclasses import replace

import pytest
from ipsec_filter_packets import (
    CIRCUIT,
    CUTTING_WALL,
    EXIT,
    INNER,
    NORMALISED,
    OUTSIDE,
    OVERLAY,
    WALL,
    Packet,
    verdict,
)

from overlay.system.ipsec_firewall import wall_rules
from overlay.system.packet_filter import Hook, Verdict

OPEN_WALL = wall_rules((6978, 6979), closed=False)


@pytest.mark.parametrize("ours", [OVERLAY, CIRCUIT])
@pytest.mark.parametrize("hook", [Hook.PREROUTING, Hook.FORWARD, Hook.POSTROUTING])
def test_nothing_to_or_from_the_overlays_addresses_is_ever_plain(ours, hook):
    for packet in (Packet(OUTSIDE, ours), Packet(ours, OUTSIDE)):
        assert verdict(WALL, hook, packet)[0] is Verdict.DROP
        packet.ipsec_in = packet.ipsec_out = True
        assert verdict(WALL, hook, packet)[0] is Verdict.ACCEPT


@pytest.mark.parametrize("ours", [OVERLAY, CIRCUIT])
def test_every_layer_of_an_onion_is_normalised(ours):
    packet = Packet(CIRCUIT, ours, protocol=50, ipsec_out=True)
    assert verdict(WALL, Hook.POSTROUTING, packet) == (Verdict.ACCEPT, NORMALISED[6])


@pytest.mark.parametrize(
    ("rules", "packet"),
    [
        (WALL, Packet(CIRCUIT, OVERLAY, protocol=50, ipsec_out=True)),
        (EXIT, Packet(OUTSIDE, INNER[6], ipsec_out=True)),
        (EXIT, Packet(INNER[6], OUTSIDE)),
    ],
)
def test_a_flow_label_that_nothing_has_cleared_goes_nowhere(rules, packet):
    assert verdict(rules, Hook.POSTROUTING, packet)[0] is Verdict.ACCEPT
    assert verdict(rules, Hook.POSTROUTING, replace(packet, labelled=True))[0] is Verdict.DROP


@pytest.mark.parametrize(
    ("protocol", "port", "expected"),
    [
        (50, None, Verdict.ACCEPT),
        (17, 6978, Verdict.ACCEPT),
        (17, 6979, Verdict.ACCEPT),
        (17, 53, Verdict.DROP),
        (6, 22, Verdict.DROP),
        (58, None, Verdict.DROP),
    ],
)
def test_overlay_addresses_answer_to_esp_and_control_alone(protocol, port, expected):
    packet = Packet(CIRCUIT, OVERLAY, protocol=protocol, port=port, ipsec_in=True)
    assert verdict(WALL, Hook.INPUT, packet)[0] is expected


def test_the_control_ports_are_closed_outside_of_ipsec():
    assert verdict(WALL, Hook.INPUT, Packet(OUTSIDE, "2a00:db8::1", protocol=17, port=6979))[0] is (
        Verdict.DROP
    )


def test_a_host_that_did_not_forward_still_does_not():
    others = Packet(OUTSIDE, "2a00:db8:9::9")
    assert verdict(WALL, Hook.FORWARD, others)[0] is Verdict.DROP
    assert verdict(OPEN_WALL, Hook.FORWARD, others)[0] is Verdict.ACCEPT


@pytest.mark.parametrize("ours", [OVERLAY, CIRCUIT])
@pytest.mark.parametrize(
    ("length", "ipsec_in", "done"),
    [(1281, True, [Verdict.LARGE]), (1280, True, []), (1281, False, [])],
)
def test_what_fits_no_link_is_marked_on_its_way_through_circuits(ours, length, ipsec_in, done):
    packet = Packet(CIRCUIT, ours, protocol=50, length=length, ipsec_in=ipsec_in)
    assert verdict(CUTTING_WALL, Hook.PREROUTING, packet)[1] == done
    assert verdict(WALL, Hook.PREROUTING, packet)[1] == []
