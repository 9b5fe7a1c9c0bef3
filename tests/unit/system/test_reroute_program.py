"""The packet program, run by a stupid model of the kernel's machine."""

import errno
import struct
import sys

import pytest

from overlay.errors import BackendError
from overlay.system import reroute_program
from overlay.system.reroute_program import load_reroute_program, reroute_instructions

MARK = 0x6D66
DROP, REROUTE = 2, 128


def run(program, mark):
    """Return the verdict and the packet's mark afterwards."""
    registers, packet, at = [None, "packet", None], {8: mark}, 0
    while True:
        code, both, offset, value = struct.unpack_from("=BBhi", program, at * 8)
        low, high = both & 15, both >> 4
        to, by = (low, high) if sys.byteorder == "little" else (high, low)
        at += 1
        match code:
            case 0x61:
                assert registers[by] == "packet"
                registers[to] = packet[offset]
            case 0x63:
                assert registers[to] == "packet"
                packet[offset] = registers[by]
            case 0xB7:
                registers[to] = value
            case 0x55:
                at += offset if registers[to] != value else 0
            case 0x95:
                return registers[0], packet[8]
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize("mark", [0, 1, 0x6D69, 0xFFFFFFFF])
def test_a_packet_is_marked_and_routed_again(mark):
    assert run(reroute_instructions(MARK), mark) == (REROUTE, MARK)


def test_a_packet_that_comes_back_is_dropped_and_does_not_go_round():
    assert run(reroute_instructions(MARK), MARK) == (DROP, MARK)


def test_an_unknown_machine_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(reroute_program.platform, "machine", lambda: "pdp11")
    with pytest.raises(BackendError, match=r"not known on pdp11.*userspace"):
        load_reroute_program(MARK)


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EPERM, "CAP_BPF"), (errno.ENOSYS, "CONFIG_LWTUNNEL_BPF")]
)
def test_a_refusal_says_what_mends_it(number, remedy):
    said = str(reroute_program._load_error(number))
    assert remedy in said
    assert said.count(".") == 1
