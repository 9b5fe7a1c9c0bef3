"""A kernel's XFRM tables behind a netlink socket, which can be made to fail.

It keeps SAs by (destination, SPI) and policies by (selector, direction), as bodies of the
messages that made them. ``refuse`` maps the numbers of coming requests to an errno.
"""

import errno
import struct

from overlay.ipsec.xfrm.messages import (
    XFRM_MSG_DELPOLICY,
    XFRM_MSG_DELSA,
    XFRM_MSG_GETPOLICY,
    XFRM_MSG_GETSA,
    XFRM_MSG_NEWPOLICY,
    XFRM_MSG_NEWSA,
    XFRM_MSG_UPDPOLICY,
    XFRM_MSG_UPDSA,
    userpolicy_id,
    userpolicy_info,
    usersa_id,
    usersa_info,
)

_XFRMA_ENCAP = 4
_SELECTOR_BYTES = userpolicy_id.offset_of("index")


class FakeKernel:
    """The tables, whatever socket is opened to them."""

    def __init__(self):
        self.associations, self.policies = {}, {}
        self.sockets = []
        self.refuse = {}
        self.lose_answers = 0
        self.deaf = 0
        self.room = 100
        self.count = 0

    def socket(self, groups=()):
        self.sockets.append(FakeSocket(self))
        return self.sockets[-1]

    def entries(self):
        return len(self.associations), len(self.policies)

    def work(self, data):
        """Do what a datagram asks; return the answers."""
        answers = []
        while data:
            length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
            body = data[16:length]
            if flags & 0x300 == 0x300 and kind in (XFRM_MSG_GETSA, XFRM_MSG_GETPOLICY):
                answers += self._dump(kind, sequence)
            else:
                answers += self._one(kind, flags, sequence, body)
            data = data[(length + 3) & ~3 :]
        return answers

    def _one(self, kind, flags, sequence, body):
        self.count += 1
        number = self.refuse.pop(self.count, 0) or self._change(kind, body)
        if kind == XFRM_MSG_GETSA and not number:
            return [message(XFRM_MSG_NEWSA, sequence, self.associations[identity(body)])]
        if not number and not flags & 0x04:
            return []
        return [message(2, sequence, struct.pack("=i", -number) + bytes(16))]

    def _dump(self, kind, sequence):
        table, found = (
            (self.associations, XFRM_MSG_NEWSA)
            if kind == XFRM_MSG_GETSA
            else (self.policies, XFRM_MSG_NEWPOLICY)
        )
        return [
            *(message(found, sequence, body) for body in table.values()),
            message(3, sequence, bytes(4)),
        ]

    def _change(self, kind, body):
        if kind in (XFRM_MSG_NEWSA, XFRM_MSG_UPDSA, XFRM_MSG_DELSA, XFRM_MSG_GETSA):
            table, absent = self.associations, errno.ESRCH
            is_made = kind in (XFRM_MSG_NEWSA, XFRM_MSG_UPDSA)
            key = made_identity(body) if is_made else identity(body)
        else:
            table, absent = self.policies, errno.ENOENT
            is_made = kind in (XFRM_MSG_NEWPOLICY, XFRM_MSG_UPDPOLICY)
            cls = userpolicy_info if is_made else userpolicy_id
            key = body[:_SELECTOR_BYTES], body[cls.offset_of("dir")]
        if kind in (XFRM_MSG_NEWSA, XFRM_MSG_NEWPOLICY):
            if key in table:
                return errno.EEXIST
            table[key] = body
            return 0
        if key not in table:
            return absent
        if kind == XFRM_MSG_UPDSA:
            table[key] = with_ports_of(table[key], body)
        if kind == XFRM_MSG_UPDPOLICY:
            table[key] = body
        if kind in (XFRM_MSG_DELSA, XFRM_MSG_DELPOLICY):
            del table[key]
        return 0


class FakeSocket:
    """One socket to a kernel."""

    def __init__(self, kernel):
        self._kernel = kernel
        self.answers = []

    def send(self, data):
        if self._kernel.deaf:
            self._kernel.deaf -= 1
            raise OSError(errno.ENOBUFS, "no room")
        answers = self._kernel.work(bytes(data))
        if self._kernel.lose_answers or len(self.answers) > self._kernel.room:
            self._kernel.lose_answers -= bool(self._kernel.lose_answers)
            # The error is told first, and what is in the queue stays there.
            self.answers.insert(0, OSError(errno.ENOBUFS, "overrun"))
            return
        self.answers += answers

    def recv(self, _, flags=0):
        if flags and not self.answers:
            raise BlockingIOError
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def settimeout(self, _):
        pass

    def setsockopt(self, *_):
        pass

    def close(self):
        pass


def message(kind, sequence, body):
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def with_ports_of(body, other):
    """What UPDSA changes of an SA that is in use: the encapsulation."""
    ports = {}
    for each in (body, other):
        at = usersa_info.struct_bytes()
        while at < len(each):
            size, kind = struct.unpack_from("=HH", each, at)
            ports[each] = at, at + size
            if kind == _XFRMA_ENCAP:
                break
            at += (size + 3) & ~3
    (begin, end), (begin2, end2) = ports[body], ports[other]
    return body[:begin] + other[begin2:end2] + body[end:]


def identity(body):
    daddr, spi = usersa_id.offset_of("daddr"), usersa_id.offset_of("spi")
    return body[daddr : daddr + 16], body[spi : spi + 4]


def made_identity(body):
    daddr, spi = usersa_info.offset_of("id_daddr"), usersa_info.offset_of("id_spi")
    return body[daddr : daddr + 16], body[spi : spi + 4]
