"""Keep-alive of one open circuit: PINGs to its exit, the round trip, the losses in a row."""

from __future__ import annotations

from random import Random

from overlay.apm.control import ECHO_BYTES, Ping, Pong

__all__ = ["KeepAlive"]


class KeepAlive:
    """Which PINGs are unanswered; bounded by the number of losses that end the circuit."""

    __slots__ = ("_losses", "_sent", "rtt_s")

    def __init__(self, losses: int) -> None:
        """Count the circuit as lost after ``losses`` unanswered PINGs in a row."""
        self._losses = losses
        self._sent: dict[bytes, float] = {}
        self.rtt_s: float | None = None

    @property
    def is_lost(self) -> bool:
        """Whether as many PINGs in a row as allowed have gone unanswered."""
        return len(self._sent) >= self._losses

    def ping(self, rng: Random, now: float) -> Ping:
        """Return the next PING and remember when it left."""
        echo = rng.randbytes(ECHO_BYTES)
        self._sent[echo] = now
        return Ping(echo)

    def repeat(self) -> Ping | None:
        """Return the latest PING once more if it is unanswered; it counts as one."""
        return Ping(next(reversed(self._sent))) if self._sent else None

    def answered(self, pong: Pong, now: float) -> bool:
        """Take an answer; False if it answers no PING that is open."""
        sent = self._sent.get(pong.echo)
        if sent is None:
            return False
        self.rtt_s = now - sent
        self._sent.clear()
        return True
