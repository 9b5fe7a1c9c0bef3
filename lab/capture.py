"""A vantage point: tcpdump on one interface, from "listening" to "nothing was missed".

A capture is ready when :meth:`Capture.__enter__` returns, and complete when it closes:
tcpdump is asked (SIGUSR1) until it has written all that the kernel gave it, and packets
that the kernel had to drop are an error, since a test that did not see cannot judge.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, Self

from lab.namespaces import LabError, Namespace, end_program
from lab.reading import Packet, read_packets

__all__ = ["Capture"]

_BUFFER_KIB: Final = 65_536
"""64 MiB: a quarter of a second at 2 Gbit/s."""

_STATISTICS = re.compile(
    r"(\d+) packets? captured, (\d+) packets? received by filter, (\d+) packets? dropped by kernel"
)
_ASK_AT_MOST: Final = 10_000


class Capture:
    """Record an interface of a namespace into ``path``; a context manager.

    ``snaplen_bytes`` is how much of each frame is kept (headers fit in 128), ``expression``
    a filter in pcap-filter(7)'s language.
    """

    def __init__(
        self,
        namespace: Namespace,
        interface: str,
        path: Path,
        *,
        snaplen_bytes: int = 128,
        expression: str = "",
    ) -> None:
        self.path = path
        self.interface = interface
        self._namespace = namespace
        self._command = [
            "tcpdump", "-i", interface, "-n", "-p", "-U", "-Z", "root", "--immediate-mode",
            "-B", str(_BUFFER_KIB), "-s", str(snaplen_bytes), "-w", str(path),
            *expression.split(),
        ]  # fmt: skip
        self._tcpdump: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start tcpdump and return once the kernel hands it every packet.

        Raises:
            LabError: tcpdump ended instead, with what it said.
        """
        tcpdump = self._namespace.popen(self._command, stderr=subprocess.PIPE)
        said: list[str] = []
        for line in _lines(tcpdump):
            said.append(line)
            if "listening on" in line:
                self._tcpdump = tcpdump
                return
        end_program(tcpdump)
        raise LabError(f"capturing on {self.interface} failed: {' '.join(said)}")

    def stop(self) -> None:
        """Wait until all that was captured is written, then end tcpdump; harmless if repeated.

        Raises:
            LabError: the kernel dropped packets, or tcpdump died.
        """
        tcpdump, self._tcpdump = self._tcpdump, None
        if tcpdump is None:
            return
        try:
            dropped = _drained(tcpdump)
        finally:
            end_program(tcpdump)
        if dropped:
            raise LabError(
                f"the capture on {self.interface} missed {dropped} packets: send less, "
                "or keep fewer bytes of each."
            )

    def packets(self) -> Iterator[Packet]:
        """Yield what the capture saw (after :meth:`stop`)."""
        return read_packets(self.path)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _drained(tcpdump: subprocess.Popen[bytes]) -> int:
    """Ask until captured equals received; return how many packets the kernel dropped."""
    lines = _lines(tcpdump)
    for _ in range(_ASK_AT_MOST):
        tcpdump.send_signal(signal.SIGUSR1)
        for line in lines:
            found = _STATISTICS.search(line)
            if found is not None:
                break
        else:
            raise LabError("tcpdump ended while it was capturing.")
        captured, received, dropped = (int(number) for number in found.groups())
        if captured + dropped >= received:
            return dropped
    raise LabError("tcpdump cannot keep up with the traffic: end the traffic before the capture.")


def _lines(tcpdump: subprocess.Popen[bytes]) -> Iterator[str]:
    stream: IO[bytes] | None = tcpdump.stderr
    if stream is None:
        raise LabError("tcpdump was started without a pipe for what it says.")
    while line := stream.readline():
        yield line.decode(errors="replace").strip()
