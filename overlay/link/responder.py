"""Check initiations from unauthenticated senders, with the cheapest check first.

::

    mac1 -> many initiations? -> mac2 -> cookie wanted? -> CPU time of the prefix
         -> decrypt -> timestamp -> signature

All checks before the decryption cost only a few hashes, and a failed check leaves no state.
:mod:`overlay.link.datagram_filter` checks mac1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from overlay.addresses import Endpoint
from overlay.errors import LimitReached
from overlay.link.cookie import CookieJar, LoadMeter, ReceiverKeys, is_under_cookie
from overlay.link.drops import LinkDrop
from overlay.link.exchange import Credentials, OpenedInitiation, VerifiedInitiation
from overlay.link.handshake import Initiation
from overlay.link.replay import TimestampTable
from overlay.link.settings import LinkSettings
from overlay.reply_budget import ReplyBudget
from overlay.shares import FRACTIONS, Group, groups_of
from overlay.work_budget import Work, WorkBudget

__all__ = ["Admitted", "HandshakeResponder"]


_UNPROVED: Final = (Group(b"unproved", FRACTIONS[0]),)
"""All initiations without a cookie use one share of the budget, because their addresses may be
forged. So they cannot use up the share of an honest sender's prefix."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An initiation of an authenticated node; ``address_proved`` if its cookie was valid."""

    initiation: VerifiedInitiation
    address_proved: bool


class HandshakeResponder:
    """Check an initiation; the result is an authenticated peer, a cookie reply or an error.

    The responder owns the cookie secrets, the load meter and the timestamps of initiators. All of
    them are bounded.
    """

    def __init__(
        self,
        credentials: Credentials,
        keys: ReceiverKeys,
        settings: LinkSettings,
        rng: Random,
        budget: WorkBudget | None = None,
        pair_cookie: Callable[[Endpoint], bytes | None] = lambda _: None,
    ) -> None:
        """Begin with new cookie secrets and no known initiators.

        Args:
            credentials: of this node.
            keys: for messages to this node.
            settings: rates and limits.
            rng: draws cookie secrets.
            budget: CPU time for unauthenticated senders; a new one by default.
            pair_cookie: returns the secret that the peer at an endpoint may use instead of a
                cookie, None if there is no link to that endpoint.
        """
        self._pair_cookie = pair_cookie
        self._credentials = credentials
        self._cookies = CookieJar(keys, rng)
        self._load = LoadMeter(settings.cookie_above_initiations_per_s)
        self._replies = ReplyBudget(settings.max_cookie_replies_per_s)
        self._budget = budget or WorkBudget()
        self._timestamps = TimestampTable(settings.max_known_initiators, settings.max_clock_skew_s)

    def drop_early(
        self,
        initiation: bytes,
        source: Endpoint,
        now: float,
        send: Callable[[bytes, Endpoint], None],
    ) -> LinkDrop | None:
        """Answer an encoded initiation with a valid mac1 by a cookie reply, without parsing it.

        This happens only under load, for an initiation without a valid cookie.

        Returns:
            COOKIE if a cookie reply was sent, LIMIT if the prefix has used up its replies, None if
            :meth:`judge` must decide.
        """
        many = self._load.is_high(now)
        if not many and not self._replies.is_spent(source.packed, now):
            return None
        if self._proves_address(initiation, source, now):
            return None
        self._load.is_overloaded(now)  # counts it
        if not self._replies.take(source.packed, now):
            return LinkDrop.LIMIT
        send(self._cookies.reply(initiation, source, now), source)
        return LinkDrop.COOKIE

    def _proves_address(self, initiation: bytes, source: Endpoint, now: float) -> bool:
        cookie = self._pair_cookie(source)
        if cookie is not None and is_under_cookie(initiation, cookie):
            return True
        return self._cookies.is_valid(initiation, source, now)

    def judge(
        self, initiation: Initiation, source: Endpoint, now: float, *, wants_cookie: bool
    ) -> Admitted | bytes:
        """Check an initiation with a valid mac1; ``wants_cookie`` requires a cookie without load.

        Returns:
            The initiation of an authenticated node, or an encoded cookie reply.

        Raises:
            NotAuthentic: encryption or identity are not valid.
            Malformed: the plaintext is not a payload.
            Replayed: it is not newer than the initiator's last one.
            LimitReached: the CPU time of the source's prefix or of all unauthenticated senders is
                used up, or no cookie reply is left.
        """
        overloaded = self._load.is_overloaded(now)
        proved = self._proves_address(initiation.encoded, source, now)
        if (overloaded or wants_cookie) and not proved:
            if not self._replies.take(source.packed, now):
                raise LimitReached("too many cookie replies")
            return self._cookies.reply(initiation.encoded, source, now)
        groups = groups_of(source.packed) if proved else _UNPROVED
        if not self._budget.spend(Work.HANDSHAKE, groups, now):
            # The shared budget may be used up by forged addresses. With a cookie, an honest
            # initiator uses the share of its own address.
            if not proved and self._replies.take(source.packed, now):
                return self._cookies.reply(initiation.encoded, source, now)
            raise LimitReached("unauthenticated senders have used up this second's CPU time")
        opened = OpenedInitiation.open(self._credentials, initiation)
        self._timestamps.check(opened.link_key, opened.payload.timestamp_us, now)
        verified = opened.verify()
        self._timestamps.record(opened.link_key, opened.payload.timestamp_us)
        return Admitted(verified, proved)
