"""Other people's programs read our wire: tshark down to the HTTP request, scapy with its tags."""

import os
import shutil
import subprocess

import pytest
from lab_overlay import LabOverlay
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.utils import rdpcap

from lab.watched import read_key_file

CONTENT = bytes(range(256)) * 8


@pytest.fixture(scope="module")
def tshark():
    if shutil.which("tshark"):
        return "tshark"
    reason = "The program tshark is missing: apt install tshark."
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def recorded(laboratory, tmp_path_factory):
    """One small download through three hops, captured whole on alice's cable."""
    directory = tmp_path_factory.mktemp("wireshark")
    with LabOverlay(directory, watched=True, wire_packets=True) as overlay:
        overlay.web.publish("file", CONTENT)
        capture = directory / "alice.pcap"
        # The kernel clears the whole ring first: 42 MB here.
        with overlay.alice.host.capture(capture, snaplen_bytes=2_000, most_packets=20_000):
            overlay.alice.ask("path", "open", overlay.web.address, "--hops", "3")
            assert overlay.fetch() == CONTENT
        return capture, list(read_key_file(directory / "alice.keys"))


def esp_sa_options(associations):
    """Render SAs for Wireshark's table ``esp_sa`` (its own words, quoted as it wants them)."""
    for sa in associations:
        version = "IPv6" if ":" in sa.source else "IPv4"
        assert sa.suite == "aes-256-gcm"
        yield "-o"
        fields = (
            version, sa.source, sa.destination, f"0x{sa.spi:08x}",
            "AES-GCM with 16 octet ICV [RFC4106]", f"0x{sa.keymat}", "NULL", "", "64-bit",
        )  # fmt: skip
        yield "uat:esp_sa:" + ",".join(f'"{field}"' for field in fields)


def test_tshark_decrypts_every_nested_layer_down_to_the_http_request(recorded, tshark):
    capture, associations = recorded
    done = subprocess.run(
        [
            tshark, "-r", str(capture), "-o", "esp.enable_encryption_decode:TRUE",
            *esp_sa_options(associations), "-Y", "http.request || http.response",
            "-T", "fields", "-e", "http.request.uri", "-e", "http.response.code", "-e", "esp.spi",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    requests = [row for row in rows if row[0] == "/file"]
    responses = [row for row in rows if row[1] == "200"]
    assert len(requests) == 1
    assert len(responses) == 1
    for row in (*requests, *responses):
        assert len(row[2].split(",")) == 4, "the link and three onion layers"


def test_nothing_but_esp_and_overlay_control_is_on_alices_cable(recorded, tshark):
    capture, _ = recorded
    done = subprocess.run(
        [tshark, "-r", str(capture), "-Y", "tcp || http || dns || icmp || icmpv6", "-T", "fields",
         "-e", "frame.number"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == ""


def test_scapy_opens_and_authenticates_every_layer_of_every_packet(recorded):
    capture, associations = recorded
    by_spi = {(sa.spi, sa.destination): sa for sa in associations}
    opened = 0
    for frame in rdpcap(str(capture)):
        if UDP not in frame or bytes(frame[UDP].payload).startswith(bytes(4)):
            continue
        if 4500 not in (frame[UDP].sport, frame[UDP].dport):
            continue
        inner = open_all(frame[IP], by_spi)
        if inner is not None:
            opened += 1
            assert inner.haslayer("TCP")
            assert "203.0.113.10" in (inner.src, inner.dst)
    assert opened >= 8, "a TCP connection has at least this many packets"


def open_all(packet, by_spi):
    """Open ESP after ESP; None for control traffic, dummies and what is not for TCP."""
    layers = 0
    while True:
        esp = packet.getlayer(ESP)
        if esp is None:
            return packet if layers == 4 and packet.version == 4 else None
        sa = by_spi[esp.spi, packet.dst]
        packet = scapy_sa(sa).decrypt(packet, verify=True, esn_en=True, esn=0)
        packet = packet.payload if not isinstance(packet, IP | IPv6) else packet
        layers += 1
        if getattr(packet, "nh", None) == 59 or getattr(packet, "proto", None) == 59:
            return None


def scapy_sa(sa):
    key = bytes.fromhex(sa.keymat)
    tunnel = (
        IPv6(src=sa.source, dst=sa.destination)
        if ":" in sa.source
        else IP(src=sa.source, dst=sa.destination)
    )
    nat = UDP(sport=4500, dport=4500) if sa.link else None
    return SecurityAssociation(
        ESP, spi=sa.spi, crypt_algo="AES-GCM", crypt_key=key, tunnel_header=tunnel,
        nat_t_header=nat, esn_en=True,
    )  # fmt: skip
