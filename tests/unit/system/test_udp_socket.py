import errno
import socket

import pytest
import trio
import trio.testing

from overlay.addresses import Endpoint
from overlay.errors import BackendError
from overlay.system.udp import UdpSocket, bound_socket


class RefusingSocket:
    """Wraps a real socket; sendmsg with segments answers with one errno."""

    def __init__(self, real, refusal):
        self._real = real
        self._refusal = refusal
        self.segmented_calls = 0

    def __getattr__(self, name):
        return getattr(self._real, name)

    def sendmsg(self, *arguments):
        self.segmented_calls += 1
        raise OSError(self._refusal, "refused")


def test_a_batch_arrives_with_its_origin_over_loopback():
    async def scenario():
        with UdpSocket.open(Endpoint("127.0.0.1", 0)) as one:
            batch = [bytes([index]) * 900 for index in range(100)]
            one.send_batch([(datagram, one.local) for datagram in batch])
            received = []
            with trio.fail_after(5):
                while len(received) < 100:
                    received += await one.receive_batch()
            assert received == [(datagram, one.local) for datagram in batch]

    trio.run(scenario)


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.EOPNOTSUPP])
def test_where_the_kernel_refuses_segments_each_datagram_is_sent_by_itself(refusal):
    async def scenario():
        refusing = RefusingSocket(bound_socket(Endpoint("127.0.0.1", 0)), refusal)
        with UdpSocket(refusing) as one:
            one.send_batch([(b"x", one.local)] * 5)
            assert refusing.segmented_calls == 1
            assert one.counters == {"sent": 5}

    trio.run(scenario)


@pytest.mark.parametrize(
    ("refusal", "counter"),
    [
        (errno.EAGAIN, "dropped_buffer_full"),
        (errno.ENOBUFS, "dropped_buffer_full"),
        (errno.EPERM, "dropped_EPERM"),
        (errno.ENETUNREACH, "dropped_ENETUNREACH"),
    ],
)
def test_other_refusals_drop_and_count_the_whole_run(refusal, counter):
    refusing = RefusingSocket(bound_socket(Endpoint("127.0.0.1", 0)), refusal)
    with UdpSocket(refusing) as one:
        one.send_batch([(b"x", one.local)] * 5)
        assert one.counters == {counter: 5}


def test_a_taken_port_says_what_to_do():
    with UdpSocket.open(Endpoint("127.0.0.1", 0)) as one:
        with pytest.raises(BackendError, match="another program has this port") as caught:
            UdpSocket.open(one.local)
        assert str(one.local) in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)


def test_closing_wakes_the_receiver():
    async def scenario():
        one = UdpSocket.open(Endpoint("127.0.0.1", 0))

        async def receive():
            with pytest.raises(trio.ClosedResourceError):
                await one.receive_batch()
            with pytest.raises(trio.ClosedResourceError):
                await one.receive_batch()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            one.close()

    trio.run(scenario)


def test_cancelling_the_wait_loses_no_datagram():
    async def scenario():
        with UdpSocket.open(Endpoint("127.0.0.1", 0)) as one:
            one.send_batch([(b"kept", one.local)])
            with trio.CancelScope() as scope:
                scope.cancel()
                await one.receive_batch()
            with trio.fail_after(5):
                assert await one.receive_batch() == [(b"kept", one.local)]

    trio.run(scenario)


def test_an_ipv6_wildcard_leaves_the_port_free_for_ipv4():
    with (
        UdpSocket.open(Endpoint("::", 0)) as six,
        UdpSocket.open(Endpoint("0.0.0.0", six.local.port)) as four,
    ):
        assert four.local.port == six.local.port


def test_outer_fragmentation_is_allowed():
    with bound_socket(Endpoint("127.0.0.1", 0)) as four, bound_socket(Endpoint("::1", 0)) as six:
        assert four.getsockopt(socket.IPPROTO_IP, 10) == 0  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
        assert six.getsockopt(socket.IPPROTO_IPV6, 23) == 0
