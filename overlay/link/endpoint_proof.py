r"""Which endpoint a pair is for: a state machine that believes round trips alone.

An observer of a packet can send a copy of it from elsewhere. So a packet that arrives
from an endpoint does not prove that the peer is there. What proves it is a *challenge*: a token
that is sent to that endpoint only, and that the peer must echo from there. The token names the
endpoint, so a peer that is not behind NAT can tell that the endpoint is its own address. Each
token is drawn anew, counts once, and expires after ``endpoint_silence_s``.

::

    QUIET --certain--> QUIET, settled
    QUIET --elsewhere--> DOUBTED --certain--> QUIET, settled
                            \--echoed--> CHALLENGER_PROVED --certain--> QUIET, settled
                                            \--silent--> PROBATION, settled elsewhere
    PROBATION --former--> QUIET, settled at the former endpoint
              \--silent--> QUIET

A link that exists has an *endpoint in use*, and stays there as long as the peer answers there.
It moves if the peer says that another endpoint is its own address; or if the peer has echoed a
token from elsewhere, and the endpoint in use, which is asked at the same time, answers later
than that. The former endpoint is asked for some time more, and gets the link back if it
answers. Then the peer was there all the time, and an observer forwards its tokens: from now on
the endpoint in use must be silent for ``endpoint_silence_s`` before the link moves.

A new link has no endpoint in use: it opens where the peer echoes first, or at once if its
confirm comes from where its only initiation came from.

Nothing is sent to an endpoint that is not proved, except challenges: one for each confirm from
there, of the same size, or one for larger packets in each ``_ASK_S``.

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
"""The endpoint that it is sent to, and random bytes that cannot be guessed within its lifetime."""

_ASK_S: Final = 0.05
"""How often the endpoint in use is asked at first: at least three times before a link moves."""

_ASK_LATER_S: Final = 0.1
"""How often afterwards: 30 times in ``endpoint_silence_s``, so that loss, even of three in four
answers, hardly ever moves a link."""

_ASK_OFTEN_FOR_S: Final = 0.5

_HEAD_START_S: Final = 0.12
"""How much longer than the challenger the endpoint in use may take, beside half a round trip."""

MAX_TOKENS: Final = 64
"""Tokens that may still be echoed, for the endpoint that is asked and for all others apart. The
oldest goes; the endpoint that is asked needs fewer."""

_MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"
"""Before an IPv4 address in the place of an IPv6 one (RFC 4291, section 2.5.5.2)."""


def names_endpoint(token: bytes, endpoint: Endpoint) -> bool:
    """Tell whether a token was made for ``endpoint``, as far as its receiver can."""
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
    """What may happen."""

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
    """Decides where the peer of one pair is; its owner sends the challenges.

    ``settled`` is the answer, None until there is one; it may change later. ``deadline`` is when
    :meth:`handle_deadline` has something to do, in seconds of Unix time.
    """

    def __init__(
        self,
        settings: LinkSettings,
        rng: Random,
        in_use: Endpoint | None,
        source: Endpoint,
    ) -> None:
        """Begin with the peer's initiation, or with its answer to ours.

        Args:
            settings: ``endpoint_silence_s``.
            rng: draws the tokens.
            in_use: where the link is now, None for a new link.
            source: where the initiation or the answer came from.
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
        """When :meth:`handle_deadline` has something to do."""
        return min(self._ask_at, self._gives_up_at)

    def initiated_also_from(self, source: Endpoint) -> None:
        """Note that a copy of the initiation came from another endpoint."""
        self._several = self._several or source != self._expected

    def confirmed(self, source: Endpoint, now: float) -> None:
        """Take an authentic confirm of the peer that came from ``source``."""
        undisputed = self._in_use is not None or not self._several
        if source == self._expected and undisputed:
            self._feed(ProofInput.CERTAIN, source, now)
        else:
            self._feed(ProofInput.ELSEWHERE, source, now)

    def seen(self, source: Endpoint, now: float) -> None:
        """Take the source of an authentic packet; one from the endpoint in use tells nothing."""
        if source != self._expected and not self._was_asked_since(source, now - _ASK_S):
            self._feed(ProofInput.ELSEWHERE, source, now)

    def echoed(
        self, token: bytes, source: Endpoint, now: float, *, own_address: bool = False
    ) -> bool:
        """Take an authentic echo of the peer; tell whether its token was made for ``source``.

        ``own_address`` tells that the peer knows the endpoint to be its own address.
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
        else:  # recorded, or slow: meanwhile the peer has answered elsewhere
            self._observed = True
            return True
        self._round_trip_s = now - challenge.sent_at
        self._feed(happened, source, now)
        return True

    def handle_deadline(self, now: float) -> None:
        """Ask again, or stop waiting."""
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
        """Return the challenge that a token answers, which then counts no more."""
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
            head_start_s = self._round_trip_s / 2 + _HEAD_START_S
            self._gives_up_at = min(self._gives_up_at, now + head_start_s)

    def _settle(self, source: Endpoint, now: float) -> None:  # noqa: ARG002 - an action
        self.settled = self._in_use = self._expected = source
        self._former = None
        self._stop_waiting()

    def _defend(self, source: Endpoint, now: float) -> None:
        """The peer is here and, it seems, there: only an observer can bring that about."""
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
        """What is known does not change."""

    def _stop_waiting(self) -> None:
        self._asked = None
        self._contest += 1
        self._began_at = self._ask_at = self._gives_up_at = math.inf

    def _ask(self, endpoint: Endpoint, now: float) -> None:
        """Begin to ask an endpoint whether the peer is there."""
        self._asked, self._began_at = endpoint, now
        self._gives_up_at = now + self._silence_s
        self._ask_again(now)

    def _ask_again(self, now: float) -> None:
        if self._asked is not None:
            self._draw(self._asked, now)
        often = now - self._began_at < _ASK_OFTEN_FOR_S
        self._ask_at = now + (_ASK_S if often else _ASK_LATER_S)


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
"""What each input does in each state; one that is missing changes nothing."""
