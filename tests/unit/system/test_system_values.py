"""Netlink messages, kernel settings, error sentences and filter choice."""

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import BackendError
from overlay.system import filter_choice
from overlay.system.conntrack import forget_connections
from overlay.system.failures import refused
from overlay.system.iptables import Iptables
from overlay.system.kernel_settings import change_setting, parse_note, read_setting
from overlay.system.local_address import own_addresses
from overlay.system.netlink_messages import answers, attribute, attributes, message, nested
from overlay.system.nftables import Nftables
from overlay.system.packet_filter import FilterTable, run_filter_tool
from overlay.system.tun import TunDevice


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40)))
def test_attributes_round_trip(values):
    packed = b"".join(attribute(kind, value) for kind, value in values.items())
    assert attributes(packed) == values
    assert attributes(attributes(nested(7, packed)).get(7, b"")) == values


@given(st.binary(max_size=200))
def test_any_bytes_parse_as_attributes(data):
    assert all(len(value) <= len(data) for value in attributes(data).values())


class Kernel:
    """Answers with prepared datagrams; strict: no more and no less."""

    def __init__(self, *datagrams):
        self.datagrams = list(datagrams)

    def recv(self, size):
        return self.datagrams.pop(0)


def test_a_dump_ends_with_done_and_may_span_datagrams():
    kernel = Kernel(message(20, 0, b"one!") + message(20, 0, b"two!"), message(3, 0, bytes(4)))
    assert list(answers(kernel)) == [b"one!", b"two!"]
    assert kernel.datagrams == []


def test_a_refused_dump_is_an_oserror_with_its_errno():
    kernel = Kernel(message(2, 0, struct.pack("=i", -errno.EPERM)))
    with pytest.raises(PermissionError):
        list(answers(kernel))


def test_own_addresses_hold_the_loopback():
    assert socket.inet_aton("127.0.0.1") in own_addresses()


def test_forgetting_what_was_never_tracked_raises_nothing():
    assert forget_connections(bytes([192, 0, 2, 77])) in (0, None)


@pytest.mark.parametrize(
    ("note", "setting"),
    [
        ("net/ipv4/conf/eth0.100/forwarding=0", ("net/ipv4/conf/eth0.100/forwarding", "0")),
        ("net/ipv6/conf/all/forwarding=1", ("net/ipv6/conf/all/forwarding", "1")),
        ("net/ipv4/conf/eth0/forwarding=", None),
        ("net/ipv4/conf/eth0/forwarding", None),
        ("net/ipv4/../../kernel/core_pattern=1", None),
        ("kernel/panic=1", None),
        ("net/ipv4/conf/eth0/forwarding=1;x", None),
    ],
)
def test_only_numbers_of_network_settings_are_restored(note, setting):
    assert parse_note(note) == setting


def test_a_setting_that_has_its_value_is_not_written():
    name = "net/ipv4/ip_forward"
    value = read_setting(name)
    assert value in ("0", "1")
    change_setting(name, value)


def test_an_unknown_setting_says_what_to_do():
    assert read_setting("net/ipv4/no_such_setting") is None
    with pytest.raises(BackendError, match="sysctl -w net/ipv4/no_such_setting=1"):
        change_setting("net/ipv4/no_such_setting", "1")


def test_missing_rights_have_one_remedy_everywhere():
    sentence = str(refused("doing it", PermissionError(errno.EPERM, "x")))
    assert sentence == (
        "doing it failed (Operation not permitted): run as root, give the program "
        "CAP_NET_ADMIN, or start it inside `unshare -Urn`."
    )
    assert str(refused("doing it", OSError(errno.EIO, "x"))) == (
        "doing it failed (Input/output error)."
    )


@pytest.fixture
def no_programs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("overlay.system.programs.SYSTEM_DIRECTORIES", ())
    return tmp_path


def test_without_any_packet_filter_the_remedy_is_named(no_programs):
    with pytest.raises(BackendError, match="install the package nftables"):
        filter_choice.find_packet_filter()
    with pytest.raises(BackendError, match="nft is not installed"):
        run_filter_tool(["nft", "list", "tables"])


@pytest.mark.parametrize(("nft_exit", "expected"), [(0, Nftables), (1, Iptables)])
def test_iptables_stands_in_where_the_kernel_refuses_nftables(no_programs, nft_exit, expected):
    for name, code in (("nft", nft_exit), ("iptables-legacy", 0), ("ip6tables-legacy", 0)):
        program = no_programs / name
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)
    assert isinstance(filter_choice.find_packet_filter().chosen, expected)


def test_a_filter_program_that_waits_for_ever_is_ended(no_programs):
    program = no_programs / "nft"
    program.write_text("#!/bin/sh\nread line\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    with pytest.raises(BackendError, match=r"nft did not end within 0 s: end the program"):
        run_filter_tool(["nft", "list", "tables"], "\n", within_s=0.2)


def test_iptables_waits_for_the_lock_of_others_only_for_a_time(no_programs):
    """Else a program that holds the lock would hang the node."""
    calls = no_programs / "calls"
    programs = ("iptables-legacy", "ip6tables-legacy")
    for name in (*programs, *(f"{program}-restore" for program in programs)):
        program = no_programs / name
        program.write_text(f'#!/bin/sh\necho "$@" >>{calls}\necho "lock is held" >&2; exit 4\n')
        program.chmod(0o755)
    # Without the privilege to read the tables, no program is started for it.
    with pytest.raises(BackendError, match=r"failed \((lock is held|Operation not permitted)\)"):
        Iptables().replace(FilterTable("guard-1", 7, ()))
    assert not Iptables().usable()
    asked = calls.read_text().splitlines()
    assert asked
    assert all(line.startswith("-w 2 ") for line in asked)


def test_a_filter_whose_programs_are_missing_for_a_moment_is_found_later(no_programs, monkeypatch):
    given = []

    class Found:
        def replace(self, table):
            given.append(table.name)

    later = filter_choice.LaterFilter()
    table = FilterTable("guard-1", 7, ())
    with pytest.raises(BackendError, match="install the package nftables"):
        later.replace(table)
    assert later.fingerprint("guard-1") is None
    monkeypatch.setattr(filter_choice, "find_packet_filter", Found)
    later.replace(table)
    assert given == ["guard-1"]


def test_a_table_that_the_other_filter_holds_goes_last_and_its_notes_count():
    events = []

    class Filter:
        clears_flow_labels = False

        def __init__(self, name, notes):
            self.name, self.held = name, notes

        def replace(self, table):
            events.append((self.name, "set"))
            self.held = table.notes

        def remove(self, name):
            events.append((self.name, "removed"))
            self.held = None

        def notes(self, name):
            return self.held

        def fingerprint(self, name):
            return None if self.held is None else b"there"

    chosen, other = Filter("chosen", None), Filter("other", ("a=1", "b"))
    filters = filter_choice.ChosenFilter(chosen, other)
    assert filters.notes("t") == ("a=1", "b")
    filters.replace(FilterTable("t", 7, (), ("b", "c")))
    assert events == [("chosen", "set"), ("other", "removed")]
    assert filters.notes("t") == ("b", "c")
    other.held = ("c", "d")  # a process that was killed while it changed filters
    assert filters.notes("t") == ("b", "c", "d")
    filters.remove("t")
    assert filters.notes("t") is None


@pytest.mark.parametrize(("name", "mtu"), [("anon%d", 1279), ("anon%d", 65_536), ("", 1400)])
def test_a_tun_device_refuses_values_out_of_range(name, mtu):
    with pytest.raises(ValueError, match=r"\.$"):
        TunDevice.open(name, mtu)


def test_a_missing_tun_driver_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("overlay.system.tun.CLONE_DEVICE", tmp_path / "tun")
    with pytest.raises(BackendError, match="modprobe tun"):
        TunDevice.open("anon%d", 1400)
