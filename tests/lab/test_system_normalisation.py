# ruff: noqa: F811 - fixtures of another module
"""Header fields that the packet filters make alike, on real packets in both directions."""

import contextlib
from ipaddress import ip_network

import pytest
import trio
from marks import PROGRAM, SERVER, headers, marked_datagram, parse_header, send_raw
from test_system_exit_filter import (  # noqa: F401 - fixtures
    INNER,
    circuit,
    filter_type,
    hosts,
    installed,
)

from lab.reading import UDP
from overlay.forwarding.answers import normalised_answers
from overlay.system.nftables import Nftables
from overlay.system.normalisation import normalising_rules
from overlay.system.packet_filter import FilterTable, Hook, Rule, Verdict

PORTS = {4: 5004, 6: 5006}


def ends(hosts, version):
    exit_host, bob = hosts
    addresses = (exit_host.ipv4, bob.ipv4) if version == 4 else (exit_host.ipv6, bob.ipv6)
    return [(str(each.ip), PORTS[version]) for each in addresses]


def datagrams(capture, length):
    return [h for h in headers(capture.path) if (h.protocol, h.length) == (UDP, length)]


async def answer_of(device):
    """Wait for the datagram; what says that nothing listens comes before it."""
    with trio.fail_after(5):
        while True:
            for packet in await device.read_batch():
                if parse_header(packet).protocol == UDP:
                    return packet


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.usefixtures("installed")
def test_an_exit_sends_and_hands_back_no_mark(
    hosts, circuit, filter_type, version, exchange, tmp_path
):
    (exit_end, bob_end), exit_host, bob = ends(hosts, version), *hosts
    inner = (INNER[version == 6], PORTS[version])
    with bob.capture(tmp_path / "bob.pcap") as capture:
        question = marked_datagram(PROGRAM, inner, bob_end, b"question")
        circuit.exit_device.write_batch([question])
        exchange(exit_host, bob)
    (arrived,) = (
        h for h in headers(capture.path) if h.protocol == 17 and h.length == len(question)
    )
    assert arrived.hop_limit == 63, "the underlay's router takes one"
    assert arrived.traffic_class == 0
    send_raw(bob.namespace, marked_datagram(SERVER, bob_end, exit_end, b"answer"))
    answer = trio.run(answer_of, circuit.exit_device)
    back = parse_header(answer)
    assert (back.hop_limit, back.traffic_class) == (64, 0)
    if filter_type is Nftables:
        assert (arrived.flow_label, arrived.identification) == (0, 0)
        assert (back.flow_label, back.identification) == (0, 0)
    (clean,) = normalised_answers([answer])
    assert not parse_header(clean).marked_by(SERVER)
    assert clean[-6:] == b"answer"


def test_what_has_a_flow_label_is_cleared_or_dropped(hosts, filter_type, exchange, tmp_path):
    """The rules of the kernel backend, whose tunnels would copy the label."""
    exit_host, bob = hosts
    exit_end, bob_end = ends(hosts, 6)
    exit_host.namespace.set_kernel(ipv6__auto_flowlabels=0)
    to_bob = Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, destination=ip_network(bob_end[0]))
    table = FilterTable("trial", 1, tuple(normalising_rules(to_bob)))
    exit_host.namespace.call(lambda: filter_type().replace(table))
    with bob.capture(tmp_path / "bob.pcap") as capture:
        for marks in (SERVER, SERVER._replace(flow_label=0)):
            datagram = marked_datagram(marks, exit_end, bob_end, b"marked")
            with contextlib.suppress(PermissionError):  # how Linux tells that a rule dropped it
                send_raw(exit_host.namespace, datagram)
        exchange(exit_host, bob)
    found = datagrams(capture, len(datagram))
    assert len(found) == (2 if filter_type is Nftables else 1)
    assert {(h.flow_label, h.traffic_class, h.hop_limit) for h in found} == {(0, 0, 63)}
