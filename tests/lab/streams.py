"""A TCP conversation in which one side returns, reversed, all that the other sent."""

import contextlib
import socket


def family(address):
    """The socket family of an :mod:`ipaddress` value."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def answer_reversed(server, size, seen):
    """Accept one connection, add who it is to ``seen``, and answer ``size`` bytes."""
    server.settimeout(60)
    with contextlib.suppress(OSError):  # the other side fails the test
        accepted, peer = server.accept()
        seen.append(peer[0])
        with accepted:
            accepted.settimeout(60)
            accepted.sendall(receive(accepted, size)[::-1])


def receive(stream, size):
    """All that comes, up to ``size`` bytes or the end."""
    data = bytearray()
    while len(data) < size:
        part = stream.recv(65536)
        if not part:
            break
        data += part
    return bytes(data)
