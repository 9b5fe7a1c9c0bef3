"""Which name servers the files of resolvers name."""

import ipaddress
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.system.name_servers import name_servers


def written(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text) if isinstance(text, str) else file.write_bytes(text)


@pytest.mark.parametrize(
    ("path", "text", "servers"),
    [
        ("etc/resolv.conf", "# no\nsearch lan\nnameserver 10.0.0.53\nnameserver x", ["10.0.0.53"]),
        ("etc/resolv.conf", "nameserver fe80::1%eth0", ["fe80::1"]),
        ("run/systemd/resolve/resolv.conf", "nameserver 100.64.0.7\n", ["100.64.0.7"]),
        (
            "run/systemd/netif/links/2",
            "DNS=100.64.0.7 fd00::7\nNTP=1.2.3.4",
            ["100.64.0.7", "fd00::7"],
        ),
        ("etc/systemd/resolved.conf", "[Resolve]\nDNS=10.1.1.1:53#dns.lan", ["10.1.1.1"]),
        (
            "etc/systemd/resolved.conf",
            "[Resolve]\nDNS=10.1.1.1#dns.lan [fd00::9]:53",
            ["10.1.1.1", "fd00::9"],
        ),
        ("run/NetworkManager/no-stub-resolv.conf", "nameserver 10.0.0.54\n", ["10.0.0.54"]),
        ("run/NetworkManager/resolv.conf", "nameserver 10.0.0.55\r\n", ["10.0.0.55"]),
        (
            "etc/NetworkManager/conf.d/dns.conf",
            "[global-dns-domain-*]\nservers=10.0.0.4,fd00::4",
            ["10.0.0.4", "fd00::4"],
        ),
        ("etc/dnsmasq.conf", "server=/lan/10.7.0.1#5353\n#server=10.7.0.9\n", ["10.7.0.1"]),
        (
            "etc/dnsmasq.d/vpn",
            "server=10.7.0.2@tun0\nrev-server=10.8.0.0/16,10.7.0.3\n",
            ["10.7.0.2", "10.8.0.0", "10.7.0.3"],
        ),
        ("run/dnsmasq/resolv.conf", "nameserver 10.7.0.4\n", ["10.7.0.4"]),
        ("run/resolvconf/resolv.conf", "nameserver 10.7.0.5\n", ["10.7.0.5"]),
        ("etc/unbound/unbound.conf.d/up.conf", "  forward-addr: 10.7.0.6@853#name\n", ["10.7.0.6"]),
        ("etc/resolv.conf", b"\xff\xfe\nnameserver 10.7.0.8\n", ["10.7.0.8"]),
    ],
)
def test_resolvers_behind_a_stub_are_known(tmp_path, path, text, servers):
    written(tmp_path, path, text)
    assert set(servers) <= {str(each) for each in name_servers(tmp_path)}


def test_a_file_that_dnsmasq_names_is_read(tmp_path):
    written(tmp_path, "etc/dnsmasq.conf", "resolv-file=/opt/servers\n")
    written(tmp_path, "opt/servers", "nameserver 10.7.0.7\n")
    assert name_servers(tmp_path) == {ipaddress.ip_address("10.7.0.7")}


def test_what_cannot_be_read_tells_of_none(tmp_path):
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc" / "resolv.conf")
    (tmp_path / "etc" / "dnsmasq.conf").mkdir()
    assert name_servers(tmp_path) == frozenset()
    assert name_servers(tmp_path / "missing") == frozenset()


def test_the_number_of_servers_is_bounded(tmp_path):
    lines = "".join(f"nameserver 10.{n >> 8}.{n & 255}.1\n" for n in range(1000))
    written(tmp_path, "etc/resolv.conf", lines)
    assert len(name_servers(tmp_path)) == 256


@pytest.mark.slow
@given(st.binary(max_size=300))
def test_no_content_is_an_error(tmp_path_factory, content):
    root = tmp_path_factory.mktemp("root")
    written(root, "etc/resolv.conf", b"nameserver " + content)
    written(root, "etc/dnsmasq.conf", b"resolv-file=" + content)
    name_servers(root)
