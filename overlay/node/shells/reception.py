"""Read the node's UDP ports: ESP at once, control datagrams within a budget.

::

    ESP queue ───────> engine ──> next hop, TUN          no budget
        └─ strays ──┐
    other requests ─┴─> turn ──> DHT, links ──> pause    5 % of the time while ESP arrives
    with a cookie ────> turn ──> DHT, links ──> pause    5 %
    expected answers ─> turn ──> DHT, links ──> pause    25 %

Any host can send to the port. So the time for each wake-up and each datagram is bounded. While
circuits carry traffic, the node pauses after a batch of control datagrams, several times as long as
the batch took. Meanwhile the queue fills, and the kernel drops further datagrams, which costs this
process nothing. After a batch without authentic ESP the node pauses briefly, so that the next batch
is larger.

Strays are control datagrams that the kernel aggregated with ESP. ESP of a link under attack is also
a stray if it comes from another endpoint than the peer's.

Reasons: docs/decisions/0041.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from overlay.demultiplexer import Demultiplexed, demultiplex
from overlay.ipsec.esp import NEAR_AHEAD, NEAR_BEHIND
from overlay.ipsec.userspace.engine import AttackedLink
from overlay.node.node_cores import NodeCores
from overlay.system.port_program import Suspect
from overlay.system.udp import UdpSocket

__all__ = ["PortReaders", "ReceptionBudget"]


@dataclass(frozen=True, slots=True)
class ReceptionBudget:
    """Bounds on the costs of datagrams from any host.

    Attributes:
        control_datagrams: read in one batch. ESP waits one or two milliseconds meanwhile.
        expected_share: fraction of its time that the node spends at most (0 to 1) on answers that
            it waits for, while ESP arrives. Only a node that got a request can forge many.
        returning_share: the same for requests with a cookie, which may be wrong. They have a share,
            so that a flood without cookies does not displace a node that has a cookie.
        strangers_share: the same for other requests of any node and for strays. A request from a
            forged address costs about ten microseconds, and 100,000 a second are easily sent.
        wake_up_s: cost of a wake-up for a batch, in seconds, which the measured work does not
            contain. It counts as part of the share.
        control_rest_s: longest pause that these fractions cause, in seconds.
        esp_recent_s: ESP counts as arriving for this time after an authentic packet, in seconds.
            Without ESP nothing waits, so a node without circuits joins at full speed.
        control_pause_s: least pause between two batches of control datagrams, in seconds. A
            wake-up costs as much as ten datagrams, so a flood must not cause one for each.
        idle_pause_s: pause after a batch of which no datagram was authentic ESP, in seconds,
            for the same reason. It delays the next datagrams by a fraction of a link's delay.
        steering_pause_s: least time between two reports of attacks to the kernel, in seconds.
        strays: most datagrams from the ESP queue that wait for their turn. They are few: see
            ``overlay.system.steering``.
    """

    control_datagrams: int = 64
    expected_share: float = 0.25
    returning_share: float = 0.05
    strangers_share: float = 0.05
    wake_up_s: float = 0.0001
    control_rest_s: float = 0.1
    esp_recent_s: float = 0.1
    control_pause_s: float = 0.002
    idle_pause_s: float = 0.001
    steering_pause_s: float = 0.25
    strays: int = 256


class _Turn:
    """A lock and a share of time for all readers of one kind of datagrams."""

    def __init__(self, share: float) -> None:
        self.lock = trio.Lock()
        self.rest_factor = 1 / share - 1


class PortReaders:
    """The readers of one node's ports. Each is a task, and those of one kind share a budget.

    ``strays_dropped`` counts strays that were dropped because too many waited.
    """

    def __init__(
        self,
        cores: NodeCores,
        now: Callable[[], float],
        told: Callable[[], None],
        steer: Callable[[Sequence[Suspect]], None] = lambda _: None,
        spent: Callable[[], float] = time.thread_time,
        budget: ReceptionBudget | None = None,
    ) -> None:
        """Store the arguments.

        Args:
            cores: get the datagrams.
            now: returns Unix seconds on the node's clock.
            told: called after a batch that may have changed when timers are due.
            spent: returns the processor time of this thread in seconds. Elapsed time would include
                the time of other programs on a busy host.
            steer: puts doubtful ESP of links under attack into the queue of other requests.
            budget: the default unless a test needs another.
        """
        self._cores = cores
        self._now = now
        self._told = told
        self._budget = budget or ReceptionBudget()
        self._expected = _Turn(self._budget.expected_share)
        self._returning = _Turn(self._budget.returning_share)
        self._strangers = _Turn(self._budget.strangers_share)
        self._strays = Demultiplexed()
        self._stray_came = trio.Event()
        self._esp_came_at = -math.inf
        self._steer = steer
        self._spent = spent
        self._suspects: list[Suspect] = []
        self._next_steering = -math.inf
        self.strays_dropped = 0

    async def read_esp(self, port: UdpSocket) -> None:
        """Process ESP from one queue as long as the node runs."""
        batch = await port.receive_batch()
        while True:
            parts = demultiplex(batch)
            idle = self._carry(parts, defer_doubtful=True)
            if parts.malformed or parts.keepalives or len(parts):
                self._keep_strays(parts)
            batch = []
            if idle:
                await trio.sleep(self._budget.idle_pause_s)
                batch = port.read_batch()
            batch = batch or await port.receive_batch()

    async def read_expected(self, port: UdpSocket) -> None:
        """Process expected answers from one queue as long as the node runs."""
        await self._read_control(port, self._expected)

    async def read_returning(self, port: UdpSocket) -> None:
        """Process requests with a cookie from one queue as long as the node runs."""
        await self._read_control(port, self._returning)

    async def read_strangers(self, port: UdpSocket) -> None:
        """Process other requests from one queue as long as the node runs."""
        await self._read_control(port, self._strangers)

    async def _read_control(self, port: UdpSocket, turn: _Turn) -> None:
        most = self._budget.control_datagrams
        while True:
            async with turn.lock:
                # Reading counts, because it costs more than the check of most invalid datagrams.
                began = self._spent()
                batch = port.read_batch(most)
                if batch:
                    # The kernel can aggregate ESP with a control datagram.
                    await self._take_and_rest(demultiplex(batch), turn, began)
            if not batch:
                await port.wait_readable()

    async def read_strays(self) -> None:
        """Process strays of the ESP queues as long as the node runs."""
        while True:
            await self._stray_came.wait()
            self._stray_came = trio.Event()
            parts, self._strays = self._strays, Demultiplexed()
            async with self._strangers.lock:
                await self._take_and_rest(parts, self._strangers, self._spent())

    async def _take_and_rest(self, parts: Demultiplexed, turn: _Turn, began: float) -> None:
        """Process one batch, then pause, so that other work has its share of time.

        ``began`` is the processor time at which the work on this batch began.
        """
        self._carry(parts, defer_doubtful=False)
        if self._cores.receive_control(parts, self._now()):
            self._told()
        await trio.sleep(self._rest_after(self._spent() - began, turn))

    def _rest_after(self, took_s: float, turn: _Turn) -> float:
        budget = self._budget
        if trio.current_time() - self._esp_came_at > budget.esp_recent_s:
            return budget.control_pause_s
        rest = (took_s + budget.wake_up_s) * turn.rest_factor
        return min(max(rest, budget.control_pause_s), budget.control_rest_s)

    def _carry(self, parts: Demultiplexed, *, defer_doubtful: bool) -> bool:
        """Process the ESP of a batch; return True if nothing of it was authentic.

        Afterwards ``parts.esp`` contains the deferred datagrams.
        """
        if not parts.esp:
            return True
        now = self._now()
        datapath = self._cores.datapath
        arrived = datapath.from_network(parts.esp, now, defer_doubtful=defer_doubtful)
        parts.esp = arrived.deferred
        if not arrived.idle:
            self._esp_came_at = trio.current_time()
        if arrived.attacked or self._suspects:
            self._steer_away(arrived.attacked)
        if self._cores.arrived(arrived, now):
            self._told()
        return arrived.idle

    def _steer_away(self, attacked: Sequence[AttackedLink]) -> None:
        """Report the links under attack to the kernel if they changed, but not too often."""
        if trio.current_time() < self._next_steering:
            return
        self._next_steering = trio.current_time() + self._budget.steering_pause_s
        suspects = [_suspect(link) for link in attacked]
        if suspects != self._suspects:
            self._suspects = suspects
            self._steer(suspects)

    def _keep_strays(self, parts: Demultiplexed) -> None:
        room = self._budget.strays - len(self._strays)
        self.strays_dropped += parts.move_to(self._strays, room)
        self._stray_came.set()


def _suspect(link: AttackedLink) -> Suspect:
    """Return which packets of a link under attack stay in the ESP queue.

    The numbers move in steps, so that the kernel's program changes once in 2**13 packets.
    """
    known = link.highest > 0
    first = link.highest // NEAR_BEHIND * NEAR_BEHIND - NEAR_BEHIND
    return Suspect(
        spi=link.spi,
        address=link.peer.packed,
        port=link.peer.port,
        first=first % 2**32,
        # The highest number was rounded down, so it is up to one step above the rounded one.
        count=2 * NEAR_BEHIND + NEAR_AHEAD if known else None,
    )
