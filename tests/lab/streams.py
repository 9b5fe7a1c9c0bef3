"""A TCP conversation in which one side returns, reversed, all that the other sent; a UDP echo."""

import contextlib
import socket
import threading
import time

_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 8_000_000
_ENOUGH_S = 20


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
            receive(accepted, 1)  # the other side ends first


def ask_reversed(stream, sent):
    """Send all on a connected socket and check the answer and its end.

    Whoever asks ends first and sees the other's end, so nothing is under way to it afterwards.
    """
    stream.sendall(sent)
    assert receive(stream, len(sent)) == sent[::-1]
    stream.shutdown(socket.SHUT_WR)
    assert receive(stream, 1) == b""


def receive(stream, size):
    """All that comes, up to ``size`` bytes or the end."""
    data = bytearray()
    while len(data) < size:
        part = stream.recv(65536)
        if not part:
            break
        data += part
    return bytes(data)


def roomy(datagrams):
    """Give a UDP socket a buffer that a machine without time for seconds does not fill."""
    datagrams.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    return datagrams


@contextlib.contextmanager
def echoing(server):
    """While inside, return each datagram that comes to a bound UDP socket."""
    ended = threading.Event()
    server.settimeout(0.2)

    def answer():
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                server.sendto(*server.recvfrom(65_536))

    answering = threading.Thread(target=answer)
    answering.start()
    try:
        yield
    finally:
        ended.set()
        answering.join()


def numbered_echoes(client, *, count, rate_pps, size):
    """Send numbered datagrams on a connected UDP socket; return the numbers in order of return."""

    def send():
        begun = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begun + number / rate_pps - time.monotonic()))
            client.send(number.to_bytes(4, "big").ljust(size, b"\0"))

    client.settimeout(_ENOUGH_S)
    sending = threading.Thread(target=send)
    sending.start()
    returned = []
    with contextlib.suppress(TimeoutError):
        while len(returned) < count:
            returned.append(int.from_bytes(client.recv(size + 1)[:4], "big"))
    sending.join()
    return returned


def longest_silence(client, lasting_s):
    """Ask every 20 ms for an echo; return the longest time that one took."""
    longest, until = 0.0, time.monotonic() + lasting_s
    while (began := time.monotonic()) < until:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.02)
    return longest


@contextlib.contextmanager
def echoing_tcp(server):
    """While inside, return what comes on the first connection."""

    def answer():
        accepted, _ = server.accept()
        with accepted, contextlib.suppress(OSError):
            while data := accepted.recv(65_536):
                accepted.sendall(data)

    answering = threading.Thread(target=answer, daemon=True)
    answering.start()
    yield
    server.close()
    answering.join(5)
