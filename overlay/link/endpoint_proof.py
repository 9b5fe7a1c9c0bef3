r"""Which endpoint a pair is for: a state machine that believes round trips alone.

Whoever sees a packet on its way can send a copy of it from elsewhere. So a confirm that arrives
from an endpoint does not prove that the peer is there. What proves it is a *challenge*: a token
that is sent to that endpoint only, and that the peer must echo from there. The token names the
endpoint, so a peer that is not behind NAT can tell that the endpoint is its own address.

::

    QUIET --certain--> QUIET, settled
    QUIET --elsewhere--> DOUBTED --certain--> QUIET, settled
                            \--echoed--> CHALLENGER_PROVED --silent--> QUIET, settled elsewhere

A link that exists has an *endpoint in use*, and stays there as long as the peer answers there.
It moves if the peer says that another endpoint is its own address; or if the peer has echoed a
token from elsewhere and the endpoint in use is silent for ``endpoint_silence_s``. A new link
has no endpoint in use: it opens where the peer echoes first, or at once if its confirm comes
from where its only initiation came from.

Nothing is sent to an endpoint that is not proved, except one challenge for each confirm from
there, of the same size.
"""

from __future__ import annotations

import enum
import hmac
import math
from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Final

from overlay.addresses import Endpoint
from overlay.link.settings import LinkSettings

__all__ = [
    "TOKEN_BYTES",
    "TRANSITIONS",
    "EndpointProof",
    "ProofInput",
    "ProofState",
    "names_endpoint",
]

_NAME_BYTES: Final = 18
_PROOF_BYTES: Final = 8
TOKEN_BYTES: Final = _NAME_BYTES + _PROOF_BYTES
"""The endpoint that it is sent to, and a MAC that makes it impossible to guess."""

_SECRET_BYTES: Final = 32

_CHALLENGE_INTERVAL_S: Final = 0.5
"""How often the endpoint in use is asked; six times by default, so loss rarely moves a link."""

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
    DOUBTED = "a confirm came from elsewhere than the endpoint in use"
    CHALLENGER_PROVED = "the peer has answered from elsewhere, the endpoint in use not yet"


class ProofInput(enum.Enum):
    """What may happen."""

    CERTAIN = "the peer confirmed, or echoed, from the endpoint in use or the only one there is"
    ELSEWHERE = "a confirm came from another endpoint"
    ECHOED = "a token was echoed from another endpoint, the one that it was made for"
    OWN_ADDRESS = "such an echo says that the endpoint is the peer's own address"
    SILENT = "the endpoint in use did not answer in time"


class EndpointProof:
    """Decides where the peer of one pair is; its owner sends the challenges.

    ``settled`` is the answer, None until there is one; it may change later. ``deadline`` is when
    :meth:`handle_deadline` has something to do, in seconds of Unix time.
    """

    def __init__(
        self, settings: LinkSettings, rng: Random, in_use: Endpoint | None, source: Endpoint
    ) -> None:
        """Begin with the peer's initiation.

        Args:
            settings: ``endpoint_silence_s``.
            rng: draws the secret behind the tokens.
            in_use: where the link is now, None for a new link.
            source: where the initiation came from.
        """
        self._silence_s = settings.endpoint_silence_s
        self._rng = rng
        self._in_use = in_use
        self._expected = in_use or source
        self._several = False
        self._secret = b""
        self._challenger: Endpoint | None = None
        self._challenges: list[tuple[bytes, Endpoint]] = []
        self._gives_up_at = math.inf
        self.state = ProofState.QUIET
        self.settled: Endpoint | None = None
        self.deadline = math.inf

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

    def echoed(
        self, token: bytes, source: Endpoint, now: float, *, own_address: bool = False
    ) -> bool:
        """Take an authentic echo of the peer; tell whether its token was made for ``source``.

        ``own_address`` tells that the peer knows the endpoint to be its own address.
        """
        if not self._secret or not hmac.compare_digest(token, self._token(source)):
            return False
        if own_address:
            happened = ProofInput.OWN_ADDRESS
        elif self._in_use is None or source == self._in_use:
            happened = ProofInput.CERTAIN
        else:
            happened = ProofInput.ECHOED
        self._feed(happened, source, now)
        return True

    def handle_deadline(self, now: float) -> None:
        """Ask the endpoint in use again, or stop waiting for it."""
        if self._gives_up_at <= now:
            self._feed(ProofInput.SILENT, self._expected, now)
        elif self.deadline <= now:
            self._ask_endpoint_in_use(now)

    def take_challenges(self) -> list[tuple[bytes, Endpoint]]:
        """Drain the tokens to send, each with its endpoint."""
        taken, self._challenges = self._challenges, []
        return taken

    def _feed(self, happened: ProofInput, source: Endpoint, now: float) -> None:
        step = TRANSITIONS.get((self.state, happened))
        if step is not None:
            action, self.state = step
            action(self, source, now)

    def _token(self, endpoint: Endpoint) -> bytes:
        """Return the token for an endpoint; computed each time, so that none is remembered."""
        name = _name(endpoint)
        return name + hmac.digest(self._secret, name, "sha256")[:_PROOF_BYTES]

    # Actions of the table

    def _challenge(self, source: Endpoint, now: float) -> None:
        self._secret = self._secret or self._rng.randbytes(_SECRET_BYTES)
        self._challenges.append((self._token(source), source))
        if self._in_use is not None and self._gives_up_at == math.inf:
            self._gives_up_at = now + self._silence_s
            self._ask_endpoint_in_use(now)

    def _remember(self, source: Endpoint, now: float) -> None:  # noqa: ARG002 - an action
        self._challenger = source

    def _settle(self, source: Endpoint, now: float) -> None:  # noqa: ARG002 - an action
        self.settled = self._in_use = self._expected = source
        self._stop_waiting()

    def _move(self, source: Endpoint, now: float) -> None:
        self._settle(self._challenger or source, now)

    def _forget(self, source: Endpoint, now: float) -> None:  # noqa: ARG002 - an action
        self._stop_waiting()

    def _nothing(self, source: Endpoint, now: float) -> None:
        """What is known does not change."""

    def _stop_waiting(self) -> None:
        self._gives_up_at = self.deadline = math.inf

    def _ask_endpoint_in_use(self, now: float) -> None:
        self._challenges.append((self._token(self._expected), self._expected))
        self.deadline = min(now + _CHALLENGE_INTERVAL_S, self._gives_up_at)


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
            (s.CHALLENGER_PROVED, i.CERTAIN): (do._settle, s.QUIET),
            (s.CHALLENGER_PROVED, i.ELSEWHERE): (do._challenge, s.CHALLENGER_PROVED),
            (s.CHALLENGER_PROVED, i.ECHOED): (do._nothing, s.CHALLENGER_PROVED),
            (s.CHALLENGER_PROVED, i.OWN_ADDRESS): (do._settle, s.QUIET),
            (s.CHALLENGER_PROVED, i.SILENT): (do._move, s.QUIET),
        }
    )


TRANSITIONS: Final = _table()
"""What each input does in each state; one that is missing changes nothing."""
