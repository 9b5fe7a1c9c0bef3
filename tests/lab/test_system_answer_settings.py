"""Kernel settings of a protected host are given back exactly, and other programs' changes last."""

import pytest

from overlay.errors import BackendError
from overlay.system.answer_settings import AnswerSettings
from overlay.system.iptables import Iptables
from overlay.system.kernel_settings import change_setting, read_setting
from overlay.system.nftables import Nftables
from overlay.system.packet_filter import FilterTable

ODD = "q\"'=$;{*\\..#"
"""A device's name may hold all but "/", ":" and white space."""
NAME = "guard-settings"
REFLECT, ACCEPT = "net/ipv4/fwmark_reflect", "net/ipv4/tcp_fwmark_accept"


@pytest.fixture(params=[Nftables, Iptables])
def filter_type(request):
    return request.param


@pytest.fixture
def inside(namespace, filter_type):
    """Run a step of a kill switch's owner; each owner is a process that may have been killed."""
    for device in ("before", "quiet", ODD):
        namespace.run(["ip", "link", "add", device, "type", "bridge"])
    namespace.call(lambda: change_setting(arp("quiet"), "3"))

    def owner():
        packet_filter = filter_type()
        settings = AnswerSettings(packet_filter, NAME)

        def enforce():
            packet_filter.replace(FilterTable(NAME, 1, (), settings.notes()))
            settings.apply()

        return settings, enforce

    yield lambda step: namespace.call(lambda: step(*owner()))
    namespace.call(lambda: filter_type().remove(NAME))


def arp(device):
    return f"net/ipv4/conf/{device}/arp_ignore"


def found(*devices):
    return [read_setting(arp(each)) for each in devices]


def test_devices_of_any_name_and_age_get_back_what_they_had(inside, namespace):
    devices = ("default", "before", "quiet", ODD)

    def kill_switch(settings, enforce):
        enforce()
        assert found(*devices) == ["3"] * 4
        return settings.notes()

    first = inside(kill_switch)
    for number in range(40):
        namespace.run(["ip", "link", "add", f"new{number}", "type", "bridge"])
    # Many devices that came and went leave no notes.
    assert inside(kill_switch) == first
    assert len(first) < 8

    def release(settings, _):
        settings.restore()
        return found(*devices, "new0", "new39")

    assert inside(release) == ["0", "0", "3", "0", "0", "0"]


def test_what_other_programs_choose_meanwhile_wins_in_the_end(inside):
    def steps(settings, enforce):
        change_setting(ACCEPT, "1")
        enforce()
        change_setting(arp("before"), "1")  # it keeps quiet about inner addresses as well
        assert not settings.differ()
        change_setting(ACCEPT, "0")
        assert settings.differ()
        enforce()
        change_setting(arp(ODD), "2")
        change_setting("net/ipv6/fwmark_reflect", "0")
        assert [read_setting(ACCEPT), read_setting(REFLECT)] == ["1", "1"]

    def release(settings, _):
        settings.restore()
        names = (ACCEPT, REFLECT, "net/ipv6/fwmark_reflect")
        return [read_setting(name) for name in names] + found("default", "before", "quiet", ODD)

    inside(steps)
    assert inside(release) == ["0", "0", "0", "0", "1", "3", "2"]


def test_a_setting_that_is_refused_hides_no_other_that_differs(inside, monkeypatch):
    def refuse(name, value):
        if name == REFLECT:
            raise BackendError("setting it failed (read-only): set it outside.")
        change_setting(name, value)

    def steps(settings, enforce):
        monkeypatch.setattr("overlay.system.answer_settings.change_setting", refuse)
        enforce()
        refused = settings.differ()
        change_setting(ACCEPT, "0")
        return refused, settings.differ()

    assert inside(steps) == (False, True)
