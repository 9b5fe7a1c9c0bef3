"""The packet program, run by a stupid model of the kernel's machine."""

import errno
import struct
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import BackendError
from overlay.forwarding.checksum import internet_checksum
from overlay.system import reroute_program
from overlay.system.marks import LARGE_MARK
from overlay.system.reroute_program import load_reroute_program, reroute_instructions

MARK = 0x6D66
DROP, REROUTE = 2, 128


SKB, DATA = 1 << 40, 1 << 41
"""Where the packet's description and its bytes lie, for the model."""


def run(program, mark, data=b"", size=None):
    """Return the verdict, the packet's mark and its bytes afterwards.

    ``size`` is that of a packet of which the program sees the beginning, ``data``, alone.
    """
    memory, data = {SKB + 8: mark, SKB + 76: DATA, SKB + 80: DATA + len(data)}, bytearray(data)
    memory[SKB] = len(data) if size is None else size
    registers, at = [None, SKB, *(None,) * 8], 0

    def load(address, size):
        if address >= DATA:
            assert address - DATA + size <= len(data)
            return int.from_bytes(data[address - DATA : address - DATA + size], sys.byteorder)
        return memory[address]

    def store(address, size, value):
        if address >= DATA:
            data[address - DATA : address - DATA + size] = value.to_bytes(size, sys.byteorder)
        else:
            memory[address] = value

    while True:
        code, both, offset, value = struct.unpack_from("=BBhi", program, at * 8)
        low, high = both & 15, both >> 4
        to, by = (low, high) if sys.byteorder == "little" else (high, low)
        at += 1
        match code:
            case 0x61 | 0x69 | 0x71:
                registers[to] = load(registers[by] + offset, {0x61: 4, 0x69: 2, 0x71: 1}[code])
            case 0x63 | 0x6B:
                store(registers[to] + offset, {0x63: 4, 0x6B: 2}[code], registers[by])
            case 0xB7:
                registers[to] = value
            case 0xBF:
                registers[to] = registers[by]
            case 0x07 | 0x0F:
                registers[to] += value if code == 0x07 else registers[by]
            case 0x57:
                registers[to] &= value
            case 0x77:
                registers[to] >>= value
            case 0xA7:
                registers[to] ^= value
            case 0x55:
                at += offset if registers[to] != value else 0
            case 0x2D:
                at += offset if registers[to] > registers[by] else 0
            case 0x95:
                return registers[0], memory[SKB + 8], bytes(data)
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize("mark", [0, 1, 0x6D69, 0xFFFFFFFF])
def test_a_packet_is_marked_and_routed_again(mark):
    for atomic in (False, True):
        assert run(reroute_instructions(MARK, atomic=atomic), mark) == (REROUTE, MARK, b"")


def test_a_packet_that_comes_back_is_dropped_and_does_not_go_round():
    for atomic in (False, True):
        assert run(reroute_instructions(MARK, atomic=atomic), MARK) == (DROP, MARK, b"")


@given(
    identification=st.integers(0, 0xFFFF),
    flags=st.sampled_from([0, 0x4000, 0x8000, 0xC000]),
    length=st.integers(20, 60),
)
def test_what_is_no_fragment_needs_no_identification(identification, flags, length):
    packet = ipv4(identification, flags, length)
    _, _, found = run(reroute_instructions(MARK, atomic=True), 0, packet)
    assert found == ipv4(0, 0x4000, length)
    assert run(reroute_instructions(MARK), 0, packet)[2] == packet


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(lambda: ipv4(7, 0x2000, 60), id="first fragment"),
        pytest.param(lambda: ipv4(7, 0x0001, 60), id="last fragment"),
        pytest.param(lambda: b"\x60" + bytes(59), id="IPv6"),
        pytest.param(lambda: ipv4(7, 0, 60)[:19], id="cut off"),
    ],
)
def test_everything_else_is_left_as_it_is(packet):
    assert run(reroute_instructions(MARK, atomic=True), 0, packet())[2] == packet()


UDP, TCP, FRAGMENT = 17, 6, 44


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("protocol", "size", "expected"),
    [
        (UDP, 1038, MARK),
        (UDP, 1039, MARK | LARGE_MARK),
        (UDP, 60_000, MARK | LARGE_MARK),
        (FRAGMENT, 1300, MARK | LARGE_MARK),
        (TCP, 1300, MARK),
        (TCP, 60_000, MARK),
    ],
)
@pytest.mark.parametrize("atomic", [False, True])
def test_a_large_packet_that_is_not_of_tcp_gets_the_bit_of_large_ones(
    version, protocol, size, expected, atomic
):
    header = ipv4(0, 0x4000, 60, protocol) if version == 4 else ipv6(protocol)
    program = reroute_instructions(MARK, atomic=atomic, large_above=1038)
    for mark in (0, LARGE_MARK, 0x6D69):
        assert run(program, mark, header, size) == (REROUTE, expected, header)
    for mark in (MARK, MARK | LARGE_MARK):
        assert run(program, mark, header, size)[0] == DROP, "it would go round"
    assert run(program, 0, header[:19], size) == (REROUTE, MARK, header[:19]), "not readable"


def ipv6(protocol):
    return struct.pack(">IHBB", 6 << 28, 20, protocol, 64) + bytes(32 + 20)


def ipv4(identification, flags, length, protocol=UDP):
    places = b"\xcb\x00\x71\x07", bytes(4)
    fields = (0x45, 0, length, identification, flags, 64, protocol, 0, *places)
    header = struct.pack(">BBHHHBBH4s4s", *fields)
    checksum = internet_checksum(header).to_bytes(2, "big")
    return header[:10] + checksum + header[12:] + bytes(length - 20)


def test_an_unknown_machine_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(reroute_program.platform, "machine", lambda: "pdp11")
    with pytest.raises(BackendError, match=r"not known on pdp11.*userspace"):
        load_reroute_program(MARK)


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EPERM, "CAP_BPF"), (errno.ENOSYS, "CONFIG_LWTUNNEL_BPF")]
)
def test_a_refusal_says_what_mends_it(monkeypatch, number, remedy):
    libc = SimpleNamespace(syscall=lambda *_: -1)
    monkeypatch.setattr(reroute_program.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(reroute_program.ctypes, "CDLL", lambda *_, **__: libc)
    monkeypatch.setattr(reroute_program.ctypes, "get_errno", lambda: number)
    with pytest.raises(BackendError, match=remedy) as refused:
        load_reroute_program(MARK)
    assert str(refused.value).count(".") == 1
