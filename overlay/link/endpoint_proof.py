r"""Find out at which endpoint the peer of a pair is, with challenges that it must echo.

An observer of a packet can send a copy of it from another endpoint. So a packet that arrives from
an endpoint does not prove that the peer is there. A *challenge* proves it: a token that is sent
only to that endpoint and that the peer must echo from there. The token names the endpoint, so a
peer that is not behind NAT can tell that the endpoint is its own address. Each token is random,
is accepted once, and expires after ``endpoint_silence_s``.

::

    QUIET --certain--> QUIET, settled
    QUIET --elsewhere--> DOUBTED --certain--> QUIET, settled
                            \--echoed--> CHALLENGER_PROVED --certain--> QUIET, settled
                                            \--silent--> PROBATION, settled elsewhere
    PROBATION --former--> QUIET, settled at the former endpoint
              \--silent--> QUIET

An existing link has an *endpoint in use*, and stays there as long as the peer answers there. It
moves in two cases. Either the peer says that another endpoint is its own address. Or the peer has
echoed a token from elsewhere (the challenger), and the endpoint in use, which is challenged at the
same time, has not answered soon after that.

After a move the former endpoint is challenged for a while, and gets the link back if it answers.
Then the peer was there all the time, and an observer forwards its tokens. From then on the
endpoint in use must be silent for ``endpoint_silence_s`` before the link moves.

A new link has no endpoint in use. It opens at the endpoint from which the peer echoes first. If
the confirm and all copies of the initiation came from one endpoint, it opens there at once.

Only challenges are sent to an endpoint that is not proved: one of the same size for each confirm
from there, or one per ``ASK_S`` for larger packets.

Reasons: docs/decisions/0039.
"""

from __future__ import annotations

import enum
import hmac
import math
from collections import deque
from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Final, NamedTuple

from overlay.addresses import Endpoint
from overlay.link.settings import LinkSettings

__all__ = [
    "ASK_LATER_S",
    "ASK_S",
    "HEAD_START_S",
    "MAX_TOKENS",
    "TOKEN_BYTES",
    "TRANSITIONS",
    "EndpointProof",
    "ProofInput",
    "ProofState",
    "names_endpoint",
]

_NAME_BYTES: Final = 18
_SECRET_BYTES: Final = 8
TOKEN_BYTES: Final = _NAME_BYTES + _SECRET_BYTES
"""A token has the endpoint to which it is sent, and random bytes that cannot be guessed within its
lifetime."""

ASK_S: Final = 0.05
"""Interval of challenges to the endpoint in use at first: at least three before a link moves."""

ASK_LATER_S: Final = 0.1
"""Interval of challenges afterwards: 30 in ``endpoint_silence_s`` (default 3 s). So even the loss
of three in four answers hardly ever moves a link."""

_ASK_OFTEN_FOR_S: Final = 0.5

HEAD_START_S: Final = 0.12
"""Time that the endpoint in use has after the challenger's echo, plus half a round trip."""

MAX_TOKENS: Final = 64
"""Most tokens that may still be echoed, counted separately for the challenged endpoint and for all
others. The oldest is dropped first. The challenged endpoint needs fewer."""

_MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"
"""Prefix of an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2)."""


def names_endpoint(token: bytes, endpoint: Endpoint) -> bool:
    """Tell whether a token names ``endpoint``. The receiver cannot check its random bytes."""
    return token[:_NAME_BYTES] == _name(endpoint)


def _name(endpoint: Endpoint) -> bytes:
    packed = endpoint.packed
    address = packed if len(packed) == 16 else _MAPPED_PREFIX + packed
    return address + endpoint.port.to_bytes(2, "big")


class ProofState(enum.Enum):
    """What is known about the peer's endpoint."""

    QUIET = "nothing is in doubt, or nothing is known yet"
    DOUBTED = "a packet came from elsewhere than the endpoint in use"
    CHALLENGER_PROVED = "the peer has answered from elsewhere, the endpoint in use not yet"
    PROBATION = "the link has moved, and the former endpoint may still answer"


class ProofInput(enum.Enum):
    """The inputs of the state machine; each value says what happened."""

    CERTAIN = "the peer confirmed, or echoed, from the endpoint in use or the only one there is"
    ELSEWHERE = "an authentic packet came from another endpoint"
    ECHOED = "a token was echoed from another endpoint, the one that it was made for"
    FORMER = "a token was echoed from the endpoint that was in use before the link moved"
    OWN_ADDRESS = "such an echo says that the endpoint is the peer's own address"
    SILENT = "the endpoint that was asked did not answer in time"


class _Challenge(NamedTuple):
    token: bytes
    endpoint: Endpoint
    sent_at: float
    contest: int


class EndpointProof:
    """The state machine for the peer of one pair. Its owner sends the challenges.

    Attributes:
        state: what is known about the peer's endpoint.
        settled: the endpoint of the peer, None until it is known; it may change later.
    """

    def __init__(
        self,
        settings: LinkSettings,
        rng: Random,
        in_use: Endpoint | None,
        source: Endpoint,
    ) -> None:
        """Begin after the peer's initiation, or after its response to ours.

        Args:
            settings: only ``endpoint_silence_s`` is used.
            rng: draws the tokens.
            in_use: endpoint of the link, None for a new link.
            source: source of the initiation or of the response.
        """
        self._silence_s = settings.endpoint_silence_s
        self._rng = rng
        self._in_use = in_use
        self._expected = in_use or source
        self._several = False
        self._tokens: deque[_Challenge] = deque(maxlen=MAX_TOKENS)
        self._tokens_asked: deque[_Challenge] = deque(maxlen=MAX_TOKENS)
        self._challenges: list[tuple[bytes, Endpoint]] = []
        self._challenger: Endpoint | None = None
        self._former: Endpoint | None = None
        self._observed = False
        self._contest = 0
        self._round_trip_s = 0.0
        self._asked: Endpoint | None = None
        self._began_at = self._ask_at = self._gives_up_at = math.inf
        self.state = ProofState.QUIET
        self.settled: Endpoint | None = None

    @property
    def deadline(self) -> float:
        """When to call :meth:`handle_deadline`, in seconds of Unix time."""
        return min(self._ask_at, self._gives_up_at)

    def initiated_also_from(self, source: Endpoint) -> None:
        """Record that a copy of the initiation came from ``source``."""
        self._several = self._several or source != self._expected

    def confirmed(self, source: Endpoint, now: float) -> None:
        """Process an authentic confirm of the peer that came from ``source``."""
        undisputed = self._in_use is not None or not self._several
        if source == self._expected and undisputed:
            self._feed(ProofInput.CERTAIN, source, now)
        else:
            self._feed(ProofInput.ELSEWHERE, source, now)

    def seen(self, source: Endpoint, now: float) -> None:
        """Process the source of an authentic packet. The endpoint in use has no effect."""
        if source != self._expected and not self._was_asked_since(source, now - ASK_S):
            self._feed(ProofInput.ELSEWHERE, source, now)

    def echoed(
        self, token: bytes, source: Endpoint, now: float, *, own_address: bool = False
    ) -> bool:
        """Process an authentic echo of the peer.

        Args:
            token: the echoed token.
            source: the endpoint from which the echo came.
            now: Unix seconds.
            own_address: whether the peer says that ``source`` is its own address.

        Returns:
            Whether the token was sent to ``source`` and has not expired.
        """
        challenge = self._answered(token, source, now)
        if challenge is None:
            return False
        if own_address:
            happened = ProofInput.OWN_ADDRESS
        elif self._in_use is None or source == self._in_use:
            happened = ProofInput.CERTAIN
        elif source == self._former:
            happened = ProofInput.FORMER
        elif challenge.contest == self._contest:
            happened = ProofInput.ECHOED
        else:  # an observer delayed the echo, or it was slow: the peer answered elsewhere since
            self._observed = True
            return True
        self._round_trip_s = now - challenge.sent_at
        self._feed(happened, source, now)
        return True

    def handle_deadline(self, now: float) -> None:
        """Send the next challenge to the asked endpoint, or stop waiting for it."""
        if self._gives_up_at <= now:
            self._feed(ProofInput.SILENT, self._expected, now)
        elif self._ask_at <= now:
            self._ask_again(now)

    def take_challenges(self) -> list[tuple[bytes, Endpoint]]:
        """Drain the tokens to send, each with its endpoint."""
        taken, self._challenges = self._challenges, []
        return taken

    def _feed(self, happened: ProofInput, source: Endpoint, now: float) -> None:
        step = TRANSITIONS.get((self.state, happened))
        if step is not None:
            action, self.state = step
            action(self, source, now)

    # Tokens

    def _draw(self, endpoint: Endpoint, now: float) -> None:
        token = _name(endpoint) + self._rng.randbytes(_SECRET_BYTES)
        tokens = self._tokens_asked if endpoint == self._asked else self._tokens
        tokens.append(_Challenge(token, endpoint, now, self._contest))
        self._challenges.append((token, endpoint))

    def _was_asked_since(self, endpoint: Endpoint, then: float) -> bool:
        return any(each.endpoint == endpoint and each.sent_at > then for each in self._tokens)

    def _answered(self, token: bytes, source: Endpoint, now: float) -> _Challenge | None:
        """Return the challenge that a token answers, and forget it: a token is accepted once."""
        for tokens in (self._tokens_asked, self._tokens):
            for challenge in tokens:
                if hmac.compare_digest(token, challenge.token) and source == challenge.endpoint:
                    tokens.remove(challenge)
                    in_time = 0 <= now - challenge.sent_at <= self._silence_s
                    return challenge if in_time else None
        return None

    # Actions of the table

    def _challenge(self, source: Endpoint, now: float) -> None:
        self._draw(source, now)
        if self._in_use is not None and self._asked is None:
            self._ask(self._in_use, now)

    def _remember(self, source: Endpoint, now: float) -> None:
        self._challenger = source
        if not self._observed:
            head_start_s = self._round_trip_s / 2 + HEAD_START_S
            self._gives_up_at = min(self._gives_up_at, now + head_start_s)

    def _settle(self, source: Endpoint, now: float) -> None:  # noqa: ARG002 - an action
        self.settled = self._in_use = self._expected = source
        self._former = None
        self._stop_waiting()

    def _defend(self, source: Endpoint, now: float) -> None:
        """Keep the endpoint that answered, and be stricter from now on.

        The peer seems to be at two endpoints, which only an observer that forwards tokens can
        cause.
        """
        self._observed = True
        self._settle(source, now)

    def _move(self, source: Endpoint, now: float) -> None:
        former = self._in_use
        self._settle(self._challenger or source, now)
        if former is not None:
            self._former = former
            self._ask(former, now)

    def _forget(self, source: Endpoint, now: float) -> None:  # noqa: ARG002 - an action
        self._former = None
        self._stop_waiting()

    def _nothing(self, source: Endpoint, now: float) -> None:
        """Change nothing."""

    def _stop_waiting(self) -> None:
        self._asked = None
        self._contest += 1
        self._began_at = self._ask_at = self._gives_up_at = math.inf

    def _ask(self, endpoint: Endpoint, now: float) -> None:
        """Begin to challenge an endpoint repeatedly."""
        self._asked, self._began_at = endpoint, now
        self._gives_up_at = now + self._silence_s
        self._ask_again(now)

    def _ask_again(self, now: float) -> None:
        if self._asked is not None:
            self._draw(self._asked, now)
        often = now - self._began_at < _ASK_OFTEN_FOR_S
        self._ask_at = now + (ASK_S if often else ASK_LATER_S)


Step = tuple[Callable[[EndpointProof, Endpoint, float], None], ProofState]


def _table() -> Mapping[tuple[ProofState, ProofInput], Step]:
    s, i, do = ProofState, ProofInput, EndpointProof
    return MappingProxyType(
        {
            (s.QUIET, i.CERTAIN): (do._settle, s.QUIET),
            (s.QUIET, i.ELSEWHERE): (do._challenge, s.DOUBTED),
            (s.QUIET, i.OWN_ADDRESS): (do._settle, s.QUIET),
            #
            (s.DOUBTED, i.CERTAIN): (do._settle, s.QUIET),
            (s.DOUBTED, i.ELSEWHERE): (do._challenge, s.DOUBTED),
            (s.DOUBTED, i.ECHOED): (do._remember, s.CHALLENGER_PROVED),
            (s.DOUBTED, i.OWN_ADDRESS): (do._settle, s.QUIET),
            (s.DOUBTED, i.SILENT): (do._forget, s.QUIET),
            #
            (s.CHALLENGER_PROVED, i.CERTAIN): (do._defend, s.QUIET),
            (s.CHALLENGER_PROVED, i.ELSEWHERE): (do._challenge, s.CHALLENGER_PROVED),
            (s.CHALLENGER_PROVED, i.ECHOED): (do._nothing, s.CHALLENGER_PROVED),
            (s.CHALLENGER_PROVED, i.OWN_ADDRESS): (do._settle, s.QUIET),
            (s.CHALLENGER_PROVED, i.SILENT): (do._move, s.PROBATION),
            #
            (s.PROBATION, i.CERTAIN): (do._nothing, s.PROBATION),
            (s.PROBATION, i.ELSEWHERE): (do._challenge, s.PROBATION),
            (s.PROBATION, i.ECHOED): (do._nothing, s.PROBATION),
            (s.PROBATION, i.FORMER): (do._defend, s.QUIET),
            (s.PROBATION, i.OWN_ADDRESS): (do._settle, s.QUIET),
            (s.PROBATION, i.SILENT): (do._forget, s.QUIET),
        }
    )


TRANSITIONS: Final = _table()
"""The action and the next state for each state and input. Missing combinations have no effect."""
