"""The program of the exit's last wall, run by a small model of classic BPF."""

import ipaddress
import struct

import pytest

from overlay.system.exit_egress import egress_instructions

POOLS = (ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd99:0:0:1::/72"))
PROGRAM = egress_instructions(POOLS)
DROP, GO_ON = 2, 0xFFFFFFFF
PROTOCOL, IP_HEADER = 0xFFFFF000, 0xFFF00000
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD


def run(program, ether_type, header):
    """Return the verdict; a load beyond the packet ends with 0, as in the kernel."""
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        match code:
            case 0x28:
                assert value == PROTOCOL
                accumulator = ether_type
            case 0x20:
                offset = value - IP_HEADER
                if not 0 <= offset <= len(header) - 4:
                    return 0
                accumulator = int.from_bytes(header[offset : offset + 4], "big")
            case 0x54:
                accumulator &= value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x06:
                return value
            case _:
                raise AssertionError(code)


def packet(ether_type, source, destination="203.0.113.7"):
    source = ipaddress.ip_address(source).packed
    if ether_type == IPV6:
        return bytes(8) + source + ipaddress.ip_address("2001:db8::7").packed
    target = ipaddress.ip_address(destination).packed
    return bytes(14 if ether_type == ARP else 12) + source + target + bytes(20)


@pytest.mark.parametrize(
    ("ether_type", "source", "expected"),
    [
        (IPV4, "100.64.0.1", DROP),
        (IPV4, "100.127.255.255", DROP),
        (IPV4, "100.128.0.0", GO_ON),
        (IPV4, "100.63.255.255", GO_ON),
        (ARP, "100.64.0.1", DROP),
        (ARP, "192.0.2.1", GO_ON),
        (IPV6, "fd99:0:0:1::1", DROP),
        (IPV6, "fd99:0:0:1:ff:ffff:ffff:ffff", DROP),
        (IPV6, "fd99:0:0:1:100::", GO_ON),
        (IPV6, "fd99::1", GO_ON),
        (IPV6, "2001:db8::1", GO_ON),
        (0x88CC, "100.64.0.1", GO_ON),
    ],
)
def test_what_has_a_pool_address_as_its_sender_is_dropped(ether_type, source, expected):
    assert run(PROGRAM, ether_type, packet(ether_type, source)) == expected


def test_a_destination_in_the_pool_does_not_matter():
    assert run(PROGRAM, IPV4, packet(IPV4, "192.0.2.1", "100.64.0.1")) == GO_ON


@pytest.mark.parametrize("pool", POOLS)
def test_one_pool_alone_is_enough(pool):
    program = egress_instructions([pool])
    ether_type = IPV4 if pool.version == 4 else IPV6
    assert run(program, ether_type, packet(ether_type, str(pool.network_address + 1))) == DROP


def test_without_pools_everything_goes_on():
    assert run(egress_instructions(()), IPV4, packet(IPV4, "100.64.0.1")) == GO_ON
