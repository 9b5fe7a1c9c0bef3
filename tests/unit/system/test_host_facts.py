"""What the running system tells about itself, compared with what its own programs say."""

import socket

import pytest

from overlay.errors import BackendError
from overlay.system import kernel_clock
from overlay.system.devices import Device, outward_devices, up_devices
from overlay.system.kernel_clock import read_kernel_clock
from overlay.system.privileges import effective_capabilities, parse_capabilities


@pytest.mark.parametrize(
    ("lines", "capabilities"),
    [
        (["Name:\tpython", "CapEff:\t0000000000003000"], {12, 13}),
        (["CapInh:\t0000000000000001", "CapEff:\t0000000000000000"], set()),
        (["CapEff:\t8000000000000001"], {0, 63}),
        ([], set()),
    ],
)
def test_effective_capabilities_are_read_bit_by_bit(lines, capabilities):
    assert parse_capabilities(lines) == capabilities


def test_this_process_knows_its_capabilities():
    assert all(0 <= number < 64 for number in effective_capabilities())


def test_the_loopback_device_is_known_as_such():
    devices = {device.name: device for device in up_devices()}
    if "lo" not in devices:
        pytest.skip("the loopback device is down here")
    assert devices["lo"] == Device("lo", devices["lo"].mtu, loopback=True)
    assert devices["lo"].mtu >= 1280
    assert outward_devices() <= {name for _, name in socket.if_nameindex()}


def test_the_kernels_clock_tells_an_error_that_is_not_negative():
    try:
        state = read_kernel_clock()
    except BackendError as error:
        pytest.skip(str(error))
    assert state.error_s >= 0.0


def test_a_forbidden_question_is_one_sentence(monkeypatch):
    class Library:
        def __init__(self, *_, **__):
            kernel_clock.ctypes.set_errno(1)

        def adjtimex(self, _):
            return -1

    monkeypatch.setattr(kernel_clock.ctypes, "CDLL", Library)
    with pytest.raises(BackendError, match=r"clock failed \(Operation not permitted\): .*\.$"):
        read_kernel_clock()
