"""What the user reads when the kernel refuses."""

import errno
import os
import struct

import pytest

from overlay.errors import BackendError
from overlay.ipsec.interface import SaIdentity, Spi
from overlay.ipsec.xfrm import netlink
from overlay.ipsec.xfrm.forms import sa_id_body
from overlay.ipsec.xfrm.messages import XFRM_MSG_DELSA
from overlay.ipsec.xfrm.netlink import (
    NetlinkError,
    Request,
    XfrmSocket,
    refusal_error,
    refusal_in,
)
from overlay.system.netlink_messages import frames

REMEDIES = {
    errno.EPERM: "CAP_NET_ADMIN",
    errno.ENOENT: "load its module",
    errno.ENOSYS: "load its module",
    errno.EEXIST: "try again",
    errno.ENOBUFS: "five templates",
    errno.ENOMEM: "fewer circuits",
    errno.EPROTONOSUPPORT: "esp4",
    errno.EINVAL: "a newer one",
}


@pytest.mark.parametrize("number", REMEDIES, ids=errno.errorcode.get)
def test_a_refusal_is_one_sentence_with_operation_and_remedy(number):
    sentence = str(refusal_error("installing a security association", NetlinkError(number)))
    assert sentence.startswith("installing a security association failed")
    assert os.strerror(number) in sentence
    assert REMEDIES[number] in sentence
    assert sentence.endswith(".")
    assert ". " not in sentence


def test_the_kernels_own_words_are_kept():
    refusal = NetlinkError(errno.ENOSYS, "Requested AEAD algorithm not found")
    assert "(Requested AEAD algorithm not found)" in str(refusal_error("trying", refusal))


def acknowledgement(number, words=b"", *, flags=0x300, sequence=7):
    """nlmsghdr, errno, the request's header, then the kernel's words (NLMSGERR_ATTR_MSG)."""
    attribute = struct.pack("=HH", 4 + len(words), 1) + words + bytes(-len(words) % 4)
    body = struct.pack("=i", -number) + bytes(16) + (attribute if words else b"")
    return struct.pack("=IHHII", 16 + len(body), 2, flags, sequence, 0) + body


def verdicts(data):
    return [refusal_in(data, frame) for frame in frames(data)]


def test_acknowledgements_of_a_batch_are_told_apart():
    data = acknowledgement(0) + acknowledgement(errno.EEXIST) + acknowledgement(22, b"No.\0")
    assert verdicts(data) == [None, NetlinkError(errno.EEXIST), NetlinkError(22, "No")]


def test_attributes_of_broken_length_end_the_words():
    broken = bytearray(acknowledgement(22, b"No.\0"))
    broken[36:38] = struct.pack("=H", 1)
    assert verdicts(bytes(broken)) == [NetlinkError(22)]


def test_a_truncated_datagram_yields_the_whole_messages_alone():
    data = acknowledgement(0) + acknowledgement(errno.EEXIST)[:10]
    assert verdicts(data) == [None]


class LossyKernel:
    """Refuses everything from the second request on; its first answer comes after an overrun."""

    def __init__(self):
        self.answers = []

    def send(self, data):
        (sequence,) = struct.unpack_from("=I", data, 8)
        if sequence == 1:
            self.answers.append(OSError(errno.ENOBUFS, "overrun"))
        number = 0 if sequence == 1 else errno.EEXIST
        self.answers.append(acknowledgement(number, sequence=sequence))

    def recv(self, _, flags=0):
        if flags:
            raise BlockingIOError
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def close(self):
        pass


def test_an_old_answer_is_never_taken_for_that_of_another_request(monkeypatch):
    monkeypatch.setattr(netlink, "open_socket", lambda groups: LossyKernel())

    def request():
        return Request(XFRM_MSG_DELSA, sa_id_body(SaIdentity(Spi(256), bytes(16))))

    with XfrmSocket() as kernel:
        with pytest.raises(BackendError):
            kernel.send([request()])
        assert kernel.send([request()]) == [NetlinkError(errno.EEXIST)]
