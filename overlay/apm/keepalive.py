"""Watch one open circuit with PINGs, measure its round-trip time, and detect its loss.

Any packet through the exit's backward SA proves that the circuit works. The watch sends a PING in
two cases: the circuit was idle for the keep-alive interval, or packets were sent and no packet
came back for a short time. An unanswered PING is repeated soon. So the loss of a circuit is
detected in one or two seconds and not after three intervals::

    HEARD --sent, nothing back / interval over--> ASKED --repeats--> doubtful --patience--> lost
      ^---------------- any packet from the exit, PONG ----'-------------'

Waiting times follow from mean and deviation of the round-trip time, as in RFC 6298, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.apm.control import ECHO_BYTES, CircuitPing, CircuitPong

__all__ = ["CircuitWatch", "TrafficMarks", "WatchTimes"]

_MOST_ASKED: Final = 64
"""Largest number of unanswered PINGs; no more are sent until a packet arrives."""

_SHORTEST_WAIT_S: Final = 0.15
"""Shortest wait for an answer, because a busy host may need this long to process a PING."""

_FIRST_WAIT_S: Final = 1.0
"""The wait for an answer before any measurement (RFC 6298, section 2.1)."""

_LONGEST_GRACE_S: Final = 0.5
"""Longest time without a received packet, on a circuit that sends, before the watch sends a PING.
So a stream without answers causes two PINGs per second."""

_STALL_S: Final = 0.5
"""If a look is later than this, the process did not run and could not receive answers either."""

_FIRST_SAMPLES: Final = 16
"""Number of round trips that are measured soon after the opening, with a higher weight. The first
one is long, because the hops still set up the circuit. Without extra PINGs, a stream with answers
would allow no further measurement."""

_SAMPLE_PAUSE_S: Final = 0.25

_MOST_OVERTAKEN: Final = 32
"""Number of PINGs remembered whose PONG was overtaken by other packets: eight rounds to four
hops."""

_FIRST_ANSWERED: Final = 0.4
"""Initial estimate of the fraction of PINGs that are answered."""

_ANSWERED_WEIGHT: Final = 1 / 16
"""Weight of one PING in that estimate. At 30 % loss in both directions, half of the PINGs are
answered, so a larger weight would follow runs of chance."""

_CERTAIN: Final = 1e-5
"""A circuit is lost if the silence has at most this probability on a circuit that works."""

_DOUBTFUL: Final = 0.05
"""The same for a circuit in doubt. It is larger, because a needless takeover does no harm."""

_MOST_NEEDED: Final = 40

_SHORTEST_PAUSE_S: Final = 0.1
"""Shortest time between two PINGs."""

_ACTIVE_S: Final = 1.0
"""Time after a packet for which the circuit counts as active."""


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """Times of the watch in seconds; :class:`~overlay.apm.settings.ApmSettings` has them."""

    interval_s: float
    losses: int
    patience_s: float
    look_s: float


@dataclass(frozen=True, slots=True)
class TrafficMarks:
    """Marks of sent and received packets that change with every packet; None without packets."""

    sent: tuple[int, int] | None = None
    heard: tuple[int, int] | None = None

    def after(self, before: TrafficMarks) -> TrafficMarks:
        """Return these marks, or those of ``before`` for a new SA without packets."""
        return TrafficMarks(self.sent or before.sent, self.heard or before.heard)


class CircuitWatch:
    """The state of the watch of one circuit, without I/O; times in seconds of one clock."""

    def __init__(self, times: WatchTimes, hops: int, now: float) -> None:
        """Start the watch of a circuit of ``hops`` hops that was confirmed at ``now``."""
        self._times = times
        self._hops = hops
        self._traffic = TrafficMarks()
        self._deviation_s = 0.0
        self._asked: dict[bytes, tuple[int, float]] = {}
        self._overtaken: dict[bytes, tuple[int, float | None]] = {}
        self._asked_since: float | None = None
        self._sent_since: float | None = None
        self._active_until = now
        self._grace_s = 0.0
        self._answered = _FIRST_ANSWERED
        self._samples = 0
        self._sample_at = now
        self._rest_until = now
        self._ask_at = now
        self._due = now
        self._answered_to = 0
        self.rtt_s: float | None = None

    # --- state ---

    @property
    def is_doubtful(self) -> bool:
        """Whether so many PINGs are unanswered that a working circuit is improbable."""
        return len(self._to_exit()) >= max(2, self._needed(_DOUBTFUL))

    @property
    def silent_hop(self) -> int:
        """The position of the first hop that answered no PING since the last received packet."""
        return min(self._answered_to + 1, self._hops)

    def is_lost(self, now: float) -> bool:
        """Tell whether the circuit has been silent for too long."""
        since = self._asked_since
        return (
            since is not None
            and now - since >= self.patience_s
            and len(self._to_exit()) >= max(self._times.losses, self._needed(_CERTAIN))
        )

    def next_look(self, now: float) -> float:
        """Return when :meth:`look` must be called next."""
        busy = self._asked_since is not None or now < self._active_until
        pause_s = self._times.look_s if busy else 5 * self._times.look_s
        if self._asked_since is not None:
            next_step = self._ask_at
        else:
            next_step = min(self._rest_until, self._next_sample())
            if self._sent_since is not None:
                next_step = min(next_step, self._sent_since + self._grace())
        self._due = min(now + pause_s, max(next_step, now + 0.001))
        return self._due

    @property
    def patience_s(self) -> float:
        """Time in seconds for which the hops of this circuit may be silent before it is lost."""
        return max(self._times.patience_s, 4 * self._wait_s())

    # --- inputs ---

    def look(self, traffic: TrafficMarks, now: float) -> bool:
        """Process the counters, and tell whether a PING is due.

        The first PING is due at once, because it tells the exit that its CONFIRM arrived.
        """
        if self.rtt_s is None and self._asked_since is None:
            self._traffic = traffic
            return True
        before, self._traffic = self._traffic, traffic.after(self._traffic)
        heard = self._traffic.heard != before.heard
        sent = self._traffic.sent != before.sent
        if sent or heard:
            self._active_until = now + _ACTIVE_S
        if heard:
            self._heard(now)
            self._grace_s = 0.0
        elif sent and self._sent_since is None:
            self._sent_since = now
        if self._stalled(now) and self._asked_since is not None:
            self._ask_anew(now)
        if self._asked_since is not None:
            return now >= self._ask_at and len(self._asked) < _MOST_ASKED
        if self._sent_since is not None and now - self._sent_since >= self._grace():
            return True
        return now >= min(self._rest_until, self._next_sample())

    def pings(self, rng: Random, now: float) -> list[tuple[int, CircuitPing]]:
        """Return the PINGs to send now, each with the position of its hop.

        The first PING goes only to the exit. Repetitions go to every hop, because their answers
        show which hop is silent.
        """
        again = self._asked_since is not None
        if not again:
            self._asked_since = now
        self._ask_at = now + self._pause_s()
        self._rest_until = now + self._times.interval_s
        self._sample_at = now + _SAMPLE_PAUSE_S
        positions = range(self._hops, 0, -1) if again else (self._hops,)
        return [(position, self._ping(position, rng, now)) for position in positions]

    def repeat(self, rng: Random, now: float) -> CircuitPing | None:
        """Return another PING to the exit if one is unanswered.

        It has a new echo value. Otherwise an answer could belong to either PING and would not
        measure the round trip (RFC 6298, section 3).
        """
        if not self._to_exit() or len(self._asked) >= _MOST_ASKED:
            return None
        return self._ping(self._hops, rng, now)

    def answered(self, position: int, pong: CircuitPong, now: float) -> bool:
        """Process a PONG of the hop at ``position``; return False if it answers no known PING."""
        asked = self._asked.get(pong.echo)
        if asked is None:
            return self._answered_late(position, pong.echo, now)
        if asked[0] != position:
            return False
        if position < self._hops:
            del self._asked[pong.echo]
            self._answered_to = max(self._answered_to, position)
            return True
        del self._asked[pong.echo]
        self._measure(asked[1], now)
        self._heard(now)
        # Only PONGs come back, so this stream has no answers of its own: send fewer PINGs.
        self._grace_s = min(2 * self._grace(), _LONGEST_GRACE_S)
        return True

    # --- parts ---

    def _answered_late(self, position: int, echo: bytes, now: float) -> bool:
        """Process a PONG that other packets have overtaken; measure it if the exit sent it."""
        position_asked, asked_at = self._overtaken.get(echo, (None, None))
        if position_asked != position:
            return False
        del self._overtaken[echo]
        if position == self._hops and asked_at is not None:
            self._measure(asked_at, now)
        return True

    def _ping(self, position: int, rng: Random, now: float) -> CircuitPing:
        echo = rng.randbytes(ECHO_BYTES)
        self._asked[echo] = (position, now)
        return CircuitPing(echo)

    def _to_exit(self) -> list[bytes]:
        return [echo for echo, (position, _) in self._asked.items() if position == self._hops]

    def _needed(self, probability: float) -> int:
        """Return the number of consecutive losses that has this probability on a working circuit.

        A circuit with losses still works. With a loss of 15 % on each of six links, three of five
        PINGs get no answer.
        """
        lost = min(max(1 - self._answered, 0.01), 0.8)
        return min(math.ceil(math.log(probability) / math.log(lost)), _MOST_NEEDED)

    def _pause_s(self) -> float:
        """Return the time to the next PING; all PINGs that prove a loss fit into the patience."""
        wait_s = max(self._wait_s(), _SHORTEST_WAIT_S)
        return max(min(wait_s, self.patience_s / self._needed(_CERTAIN)), _SHORTEST_PAUSE_S)

    def _heard(self, now: float) -> None:
        for echo in self._to_exit():
            if now - self._asked[echo][1] > self._wait_s():
                self._count(answered=False)
        # Answers of hops before the exit may also be under way, so they are expected too.
        self._set_aside(self._asked)
        self._asked_since = self._sent_since = None
        self._answered_to = 0
        self._rest_until = now + self._times.interval_s

    def _ask_anew(self, now: float) -> None:
        """Restart the silence, because this process did not run in a part of it.

        Answers that arrived meanwhile are still accepted, but they do not measure a round trip.
        """
        self._set_aside({echo: (position, None) for echo, (position, _) in self._asked.items()})
        self._asked_since, self._ask_at, self._answered_to = now, now, 0

    def _set_aside(self, asked: Mapping[bytes, tuple[int, float | None]]) -> None:
        """Stop waiting for these answers, but accept them if they arrive."""
        self._overtaken.update(asked)
        while len(self._overtaken) > _MOST_OVERTAKEN:
            del self._overtaken[next(iter(self._overtaken))]
        self._asked.clear()

    def _next_sample(self) -> float:
        return self._sample_at if self._samples < _FIRST_SAMPLES else math.inf

    def _measure(self, asked_at: float, now: float) -> None:
        if self._stalled(now):  # the answer waited until this process ran again
            return
        rtt_s = now - asked_at
        self._samples += 1
        self._count(answered=True)
        if self.rtt_s is None:
            self.rtt_s, self._deviation_s = rtt_s, rtt_s / 2
            return
        early = self._samples <= _FIRST_SAMPLES
        difference_s = rtt_s - self.rtt_s
        self._deviation_s += (abs(difference_s) - self._deviation_s) / (2 if early else 4)
        self.rtt_s += difference_s / (2 if early else 8)

    def _count(self, *, answered: bool) -> None:
        """Update the estimated fraction of answered PINGs, slowly because single PINGs vary."""
        self._answered += (answered - self._answered) * _ANSWERED_WEIGHT

    def _stalled(self, now: float) -> bool:
        return now - self._due > _STALL_S

    def _wait_s(self) -> float:
        return _FIRST_WAIT_S if self.rtt_s is None else self.rtt_s + 4 * self._deviation_s

    def _grace(self) -> float:
        return max(self._grace_s, min(self._wait_s(), _LONGEST_GRACE_S), _SHORTEST_WAIT_S)
