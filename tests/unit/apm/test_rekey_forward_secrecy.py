"""Record now, steal later: what the first keys give away ends with the exchange."""

from __future__ import annotations

from random import Random

import pytest
from apm_lab import BOB_V4, Net
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from overlay.apm.carrier import SIGNALLING_PORT, OnionCarrier
from overlay.apm.circuits import OnionSas
from overlay.apm.control import CONTROL_PORT, RekeyAnswer, RekeyOffer, parse_control
from overlay.apm.crypto import OnionPrivateKey
from overlay.apm.datagram import parse_datagram
from overlay.apm.events import CircuitOpened
from overlay.apm.keys import HopKeys
from overlay.apm.onion import SealedOnion, extract_onion_info
from overlay.apm.settings import ApmSettings
from overlay.errors import PeerError
from overlay.ipsec.esp import InboundSa
from overlay.ipsec.interface import SecurityAssociation, Spi
from overlay.sensitive import SecretBytes
from sims.world.engine.conditions import Flight, tap

BEFORE, AFTER = b"said under the keys of the onion", b"said under keys of an exchange"


class Recorder:
    """mallory: a neighbour, so she sees what the link carries; later she steals an onion key."""

    def __init__(self, net: Net) -> None:
        self.inside: list[bytes] = []
        self._links: dict[int, InboundSa] = {}
        for host in net.hosts.values():
            for configuration, _ in host.links.values():
                for sa in configuration.associations:
                    if sa.inbound:
                        self._links[sa.spi] = InboundSa(sa, Random(1), lambda _: None)

    def record(self, flight: Flight) -> None:
        data = flight.datagram
        opened = self._links[int.from_bytes(data[:4], "big")].open(data, 0, 0.0)
        if isinstance(opened, bytes):
            self.inside.append(opened)

    def stolen_keys(self, onion_private: SecretBytes) -> tuple[HopKeys, Spi, Spi]:
        """Open the recorded onion, which was for whose key this is."""
        carrier = OnionCarrier(ApmSettings(), Random(2))
        for packet in self.inside:
            if packet[6] != 17:
                continue
            datagram = parse_datagram(packet)
            if datagram.destination_port != SIGNALLING_PORT or datagram.payload[0] != 1:
                continue
            message = carrier.receive(datagram.source, datagram.payload, 0.0)  # type: ignore[arg-type]
            if message is not None:
                extracted = extract_onion_info(
                    SealedOnion.parse(message), OnionPrivateKey(1, onion_private)
                )
                terms = extracted.layer.terms
                return extracted.keys, terms.forward_spi, terms.backward_spi
        raise AssertionError("no onion was recorded")

    def read(self, keymat: SecretBytes, *spis: Spi) -> list[bytes]:
        """Return what opens under a key, whatever SPI it was sent under (all of them if none)."""
        plain = []
        for packet in (p for p in self.inside if p[6] == 50):
            spi = Spi(int.from_bytes(packet[40:44], "big"))
            if spis and spi not in spis:
                continue
            value = SecurityAssociation(
                spi, 1, packet[8:24], packet[24:40], 3, keymat, inbound=True
            )
            opened = InboundSa(value, Random(1), lambda _: None).open(packet, 40, 0.0)
            if isinstance(opened, bytes):
                plain.append(opened)
        return plain


class Story:
    """alice speaks through mix1 before and after the exchange; mallory records it all."""

    def __init__(self) -> None:
        self.net = Net(["alice", "mix1"])
        self.net.link(self.net["alice"], self.net["mix1"])
        self.mallory = Recorder(self.net)
        self.net.network.impose(tap(self.mallory.record))
        self.net.open("alice", ["mix1"])
        self.net.run(0.1)
        self.say(BEFORE)
        self.net.run(5)
        self.say(AFTER)
        self.net.run(1)
        assert [BEFORE in packet for packet in self.net["mix1"].to_exit] == [True, False]

    def say(self, words: bytes) -> None:
        [opened] = self.net["alice"].events_of(CircuitOpened)
        inner = ".".join(map(str, opened.inner_addresses.ipv4 or b""))
        bob = str(BOB_V4.network_address)
        there = IP(src=inner, dst=bob) / UDP(sport=1, dport=2) / Raw(words)
        back = IP(src=bob, dst=inner) / UDP(sport=2, dport=1) / Raw(words)
        self.net.inject("alice", bytes(there))
        self.net.inject("mix1", bytes(back))

    @property
    def sas(self) -> OnionSas:
        return self.net["mix1"].manager.inspection().of_others()[0].sas


@pytest.fixture(scope="module")
def story() -> Story:
    return Story()


def test_a_stolen_onion_key_opens_what_the_first_keys_sealed(story: Story) -> None:
    keys, forward, backward = story.mallory.stolen_keys(story.net["mix1"].identity.onion_private)
    there = story.mallory.read(keys.forward_keymat, forward)
    back = story.mallory.read(keys.backward_keymat, backward)
    assert any(BEFORE in packet for packet in there)
    assert any(BEFORE in packet for packet in back)


def test_and_nothing_of_what_came_after_the_exchange_which_it_shows_in_clear(story: Story) -> None:
    keys, *_ = story.mallory.stolen_keys(story.net["mix1"].identity.onion_private)
    read = story.mallory.read(keys.forward_keymat) + story.mallory.read(keys.backward_keymat)
    messages = [
        parse_control(datagram.payload)
        for datagram in map(parse_datagram, (p for p in read if p[0] >> 4 == 6))
        if datagram.destination_port == CONTROL_PORT
    ]
    assert any(isinstance(message, RekeyOffer) for message in messages)
    assert any(isinstance(message, RekeyAnswer) for message in messages)
    assert not any(AFTER in packet for packet in read)


def test_only_the_keys_of_the_exchange_open_it(story: Story) -> None:
    """So the test above would have found it."""
    assert story.sas.generation == 1
    assert any(AFTER in p for p in story.mallory.read(story.sas.forward_keymat))
    assert any(AFTER in p for p in story.mallory.read(story.sas.backward_keymat))
    assert not any(BEFORE in p for p in story.mallory.read(story.sas.forward_keymat))


def test_both_ends_have_dropped_the_chain_of_the_onion(story: Story) -> None:
    keys, *_ = story.mallory.stolen_keys(story.net["mix1"].identity.onion_private)
    story.net.run(40)
    for host in story.net.hosts.values():
        held = host.manager.inspection().onion_sas()
        assert held
        assert all(sas.chain != keys.chain for sas in held)
        installed = host.engine.contents().associations
        assert any(sa.inbound and sa.encapsulation is None for sa in installed)
        assert all(sa.keymat not in (keys.forward_keymat, keys.backward_keymat) for sa in installed)


def test_mallory_needs_the_right_onion_key(story: Story) -> None:
    with pytest.raises(PeerError):
        story.mallory.stolen_keys(story.net["alice"].identity.onion_private)
