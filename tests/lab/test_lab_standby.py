"""TCP goes on while relays of its path are killed, and ends at once with the exit (S13)."""

import contextlib
import socket
import threading
import time

import pytest
from lab_overlay import LabOverlay
from test_lab_rekey import echoing_tcp

from lab.nodes import wait_until

pytestmark = pytest.mark.timed

HOPS = 3
LONGEST_SILENCE_S = 1.0
NOTICED_S = 3.0


@pytest.fixture
def overlay(laboratory, tmp_path):
    with LabOverlay(tmp_path, mixes=5) as made:
        yield made


class Conversation:
    """An echo over TCP through one path, asked for every 10 ms until it fails."""

    def __init__(self, overlay, address, opened):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = lambda: socket.create_server((address, 0), family=family)  # noqa: E731 - as it is
        self._server = opened.enter_context(overlay.bob.namespace.call(listening))
        opened.enter_context(echoing_tcp(self._server))
        port = self._server.getsockname()[1]
        connect = lambda: socket.create_connection((address, port), timeout=30)  # noqa: E731
        self._client = opened.enter_context(overlay.alice.host.namespace.call(connect))
        self.error, self.failed_at, self._longest = None, None, 0.0
        self._asked_at = time.monotonic()
        self._talking = threading.Thread(target=self._talk, daemon=True)
        self._talking.start()

    def _talk(self):
        try:
            while True:
                self._asked_at = time.monotonic()
                self._client.sendall(b"x")
                assert self._client.recv(1) == b"x"
                self._longest = max(self._longest, time.monotonic() - self._asked_at)
                time.sleep(0.01)
        except OSError as error:
            self.error, self.failed_at = error, time.monotonic()

    def longest_silence_s(self):
        """Return the longest wait for an echo since the last call, the present one included."""
        longest = max(self._longest, time.monotonic() - self._asked_at)
        self._longest = 0.0
        return longest

    def ended(self):
        self._talking.join(30)
        return not self._talking.is_alive()


def test_tcp_survives_the_death_of_relays_and_learns_at_once_of_the_exits(overlay, tmp_path):
    alice = overlay.alice
    addresses = (str(overlay.bob.ipv4.ip), str(overlay.bob.ipv6.ip))
    with (
        alice.host.capture(tmp_path / "alice.pcap") as capture,
        contextlib.ExitStack() as opened,
    ):
        before = alice.ask("path", "open", *addresses, "--hops", str(HOPS))
        talks = [Conversation(overlay, address, opened) for address in addresses]
        silences = []
        for position, path in ((0, 0), (1, 1)):
            wait_until("the standby circuits", lambda: standing_by(alice), timeout_s=60)
            for talk in talks:
                talk.longest_silence_s()
            listed = alice.ask("path", "list")
            kill(overlay, listed[path]["hops"][position])
            time.sleep(4)  # a path built anew has another inner address
            silences += [talk.longest_silence_s() for talk in talks]
        paths = alice.ask("path", "list")
        assert [talk.error for talk in talks] == [None, None]
        assert [p["inner_addresses"] for p in paths] == [p["inner_addresses"] for p in before]
        assert sum(p["takeovers"] for p in paths) >= 2
        assert max(silences) < LONGEST_SILENCE_S, silences
        killed_at = time.monotonic()
        kill(overlay, paths[0]["hops"][-1])
        assert all(talk.ended() for talk in talks)
    assert {type(talk.error) for talk in talks} <= {ConnectionAbortedError, ConnectionResetError}
    assert max(talk.failed_at for talk in talks) - killed_at < NOTICED_S
    hidden = {*addresses, *(each for path in before for each in path["inner_addresses"])}
    seen = list(capture.packets())
    assert len(seen) > 100
    assert [packet for packet in seen if {packet.source, packet.destination} & hidden] == []


def standing_by(node):
    return all(path["standby_ready"] for path in node.ask("path", "list"))


def kill(overlay, hop):
    overlay.nodes[overlay.named(hop["overlay_address"])].kill()
