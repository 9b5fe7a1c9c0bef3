"""Two hosts with a link between them, and conditions on messages."""

from __future__ import annotations

from link_lab import NOW, Host, Lab, mirrored

from overlay.link.handshake import MessageType
from overlay.link.settings import LinkSettings


def is_not_a(*kinds: MessageType):
    return lambda data: data[0] not in kinds


def connected(settings: LinkSettings | None = None) -> tuple[Host, Host, Lab]:
    alice, bob = Host(1, settings), Host(2, settings)
    lab = Lab(alice, bob)
    alice.links.connect(bob.peer, NOW)
    lab.settle(NOW)
    assert mirrored(alice, bob)
    return alice, bob, lab


def bob_rng():
    from random import Random

    return Random(99)


def variants(message: bytes) -> list[bytes]:
    truncated = [message[:end] for end in range(len(message))]
    return [*truncated, message + b"\0", message + message]


def flips(message: bytes, end: int) -> list[bytes]:
    flipped = []
    for bit in range(8 * end):
        changed = bytearray(message)
        changed[bit // 8] ^= 0x80 >> bit % 8
        flipped.append(bytes(changed))
    return flipped
