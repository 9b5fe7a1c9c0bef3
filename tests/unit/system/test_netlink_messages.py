"""Framing of netlink datagrams, which the XFRM socket and all small requests share."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.system.netlink_messages import DONE, answers, frames, message, messages

BODIES = st.lists(st.binary(max_size=40), max_size=5)


def padded(bodies):
    made = [message(20 + n, 0, body, 7 + n) for n, body in enumerate(bodies)]
    return b"".join(each + bytes(-len(each) % 4) for each in made)


@given(BODIES)
def test_each_message_of_a_datagram_is_found(bodies):
    data = padded(bodies)
    assert [(frame.kind, frame.sequence) for frame in frames(data)] == [
        (20 + n, 7 + n) for n in range(len(bodies))
    ]
    assert [body for _, body in messages(data)] == bodies


@given(BODIES, st.integers(0, 300))
def test_a_datagram_that_is_cut_yields_the_whole_messages_alone(bodies, length):
    found = [body for _, body in messages(padded(bodies)[:length])]
    assert found == bodies[: len(found)]


@given(st.binary(max_size=200))
def test_garbage_ends_the_iteration(data):
    for frame in frames(data):
        assert 0 <= frame.start < frame.body <= frame.end <= len(data)


def test_a_dump_of_several_datagrams_ends_at_done_and_at_garbage():
    ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, kernels:
        kernels.send(padded([b"one1", b"two2"]))
        kernels.send(padded([b"thr3"]) + message(DONE, 0, bytes(4)))
        assert list(answers(ours)) == [b"one1", b"two2", b"thr3"]
        kernels.send(b"\xff" * 20)
        with pytest.raises(OSError, match="malformed"):
            list(answers(ours))
