"""The laboratory's pings wait for an answer that comes late."""

import threading

import trio

from lab.pinging import pings
from overlay.system.tun import TunDevice

TARGET = "10.99.0.2"
PAUSES_S = (0.02, 0.02, 1.0)
"""After which the answers come. `ping -c 3 -i 0.05 -W 5` does not wait for the last one."""


def echo_reply(request):
    """Return the answer to an IPv4 echo request (RFC 792; checksums as in RFC 1624)."""
    checksum = int.from_bytes(request[22:24], "big") + 0x0800  # the type 8 becomes 0
    checksum = (checksum & 0xFFFF) + (checksum >> 16)
    swapped = request[:12] + request[16:20] + request[12:16]
    return swapped + b"\0" + request[21:22] + checksum.to_bytes(2, "big") + request[24:]


async def answer(device):
    for pause_s in PAUSES_S:
        [request] = await device.read_batch()
        await trio.sleep(pause_s)
        device.write_batch([echo_reply(request)])


def test_a_late_answer_is_no_loss(namespace):
    with namespace.call(lambda: TunDevice.open("late0", 1500)) as device:
        namespace.configure([f"address add 10.99.0.1/24 dev {device.name}"])
        answering = threading.Thread(target=trio.run, args=(answer, device))
        answering.start()
        assert pings(namespace, TARGET, count=3).returncode == 0
        answering.join(10)
    assert not answering.is_alive()
