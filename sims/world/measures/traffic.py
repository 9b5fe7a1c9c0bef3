"""Measure control traffic and the number of nodes on line."""

from __future__ import annotations

import math

from sims.world.participants.machine import Machine
from sims.world.participants.recorder import Recorder

__all__ = ["ChurnMeasure", "TrafficMeasure"]

_HOUR_S = 3600.0


class TrafficMeasure:
    """Measure control datagrams and bytes per node on line and second, between two samples."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._last = (recorder.world.time_s, 0, 0)

    def sample(self) -> None:
        """Record the rates since the last sample."""
        world = self._recorder.world
        since, datagrams, size = self._last
        network = world.network
        self._last = (world.time_s, network.sent, network.bytes_sent)
        node_seconds = (world.time_s - since) * max(len(world.alive), 1)
        if node_seconds > 0:
            self._recorder.add("messages_per_node_s", (network.sent - datagrams) / node_seconds)
            self._recorder.add("bytes_per_node_s", (network.bytes_sent - size) / node_seconds)


class ChurnMeasure:
    """Measure the number of nodes on line, their sessions, and the rate of changes."""

    def __init__(self, recorder: Recorder, nodes: int) -> None:
        self._recorder = recorder
        self._nodes = nodes
        self._began: dict[int, float] = {}
        self._ended: dict[int, float] = {}
        self._online = self._joins = self._leaves = 0
        self._since = recorder.world.time_s

    def switched(self, machine: Machine, *, online: bool, seen_whole: bool = True) -> None:
        """Record that a node started or stopped.

        ``seen_whole`` is False for a session that began before the run.
        """
        now = self._recorder.world.time_s
        began, ended = self._began, self._ended
        self._online += 1 if online else -1
        if online:
            self._joins += seen_whole
            self._record("session_off_s", now - ended.pop(machine.index, math.nan))
            if seen_whole:
                began[machine.index] = now
        else:
            self._leaves += 1
            self._record("session_on_s", now - began.pop(machine.index, math.nan))
            ended[machine.index] = now

    def sample(self) -> None:
        """Record the state of the population."""
        world = self._recorder.world
        self._recorder.add("online_nodes", self._online)
        self._recorder.add("online_share", self._online / self._nodes)
        hours = (world.time_s - self._since) / _HOUR_S
        if hours > 0:
            self._recorder.add("joins_per_hour", self._joins / hours)
            self._recorder.add("leaves_per_hour", self._leaves / hours)
            self._joins = self._leaves = 0
            self._since = world.time_s

    def end(self) -> None:
        """Record the ages of the sessions that continue at the end of the run."""
        now = self._recorder.world.time_s
        for began in self._began.values():
            self._recorder.add("session_cut_s", now - began)

    def _record(self, metric: str, value: float) -> None:
        if not math.isnan(value):
            self._recorder.add(metric, value)
