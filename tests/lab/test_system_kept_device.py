"""Devices of the kernel backend come back after another program removed them."""

import os
from functools import partial

import pytest

from overlay.errors import BackendError
from overlay.ipsec.xfrm.device import CircuitDevice
from overlay.system.fragmenting_device import FragmentingDevice
from overlay.system.host_notices import HostNotices
from overlay.system.kept_device import KeptDevices
from overlay.system.link_detour import LinkDetour

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="packet programs are for root of the host itself"
)

OWNED = (
    "ip rule; ip -6 rule; ip -4 route show table all; ip -br link; "
    # But for link-local routes, which come when the kernel likes.
    "ip -6 route show table all | grep -v -e fe80: -e ff00: -e multicast"
)
DEVICE = ("link delete {}", "link set {} down", "link set {} down name other")
LOSSES = {
    FragmentingDevice: (
        *(each.format(name) for name in ("anonfrag0", "anonfrag1") for each in DEVICE),
        "rule delete pref 108",
        "route flush table 28006",
    ),
    LinkDetour: (
        *(each.format("anonlink0") for each in DEVICE),
        "-6 rule delete pref 107",
        "route flush table 28012",
    ),
    CircuitDevice: (
        *(each.format("anonsec0") for each in DEVICE),
        "-6 route flush dev anonsec0 table main",
    ),
}


def owned(namespace):
    return sorted(namespace.run(["sh", "-c", OWNED]).stdout.splitlines())


@pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.__name__)
def test_what_another_program_removes_is_noticed_and_made_anew(namespace, kind):
    made = namespace.call(partial(kind, []) if kind is CircuitDevice else kind)
    kept = KeptDevices({"device": made})
    try:
        whole = owned(namespace)
        with namespace.call(HostNotices) as notices:
            for loss in LOSSES[kind]:
                assert kept_repair(namespace, kept, notices) == (), loss
                namespace.run(["sh", "-c", f"ip {loss}"])
                assert kept_repair(namespace, kept, notices) == ("device",), loss
                assert owned(namespace) == whole, loss
    finally:
        namespace.call(made.close)
    assert "anon" not in "".join(owned(namespace))


def kept_repair(namespace, kept, notices):
    def check():
        kept.hear(notices.drain())
        return kept.repair()

    return namespace.call(check)


def test_routes_and_addresses_of_a_path_come_and_go_without_a_repair(namespace):
    made = namespace.call(partial(CircuitDevice, []))
    kept = KeptDevices({"device": made})
    try:
        with namespace.call(HostNotices) as notices:
            for inner, far in (("192.0.2.1", "203.0.113.1"), ("2001:db8::1", "2001:db8:1::1")):
                address, route = f"{inner} dev {made.name}", f"{far} dev {made.name}"
                for change in (
                    *(f"address add {address}", f"route add {route}"),
                    *(f"route delete {route}", f"address delete {address}"),
                ):
                    namespace.configure([change])
                    assert kept_repair(namespace, kept, notices) == (), change
    finally:
        namespace.call(made.close)


def test_a_name_that_another_device_took_is_told_until_it_is_free(namespace):
    made = namespace.call(partial(CircuitDevice, []))
    kept = KeptDevices({"circuit device": made})
    namespace.run(["ip", "link", "delete", made.name])
    namespace.run(["ip", "link", "add", made.name, "type", "veth"])
    with pytest.raises(BackendError, match=r"\(File exists\): delete that device"):
        namespace.call(kept.repair)
    assert namespace.call(kept.missing) == ("circuit device",)
    namespace.run(["ip", "link", "delete", made.name])
    assert namespace.call(kept.repair) == ("circuit device",)
    assert namespace.call(kept.missing) == ()
    namespace.call(made.close)
