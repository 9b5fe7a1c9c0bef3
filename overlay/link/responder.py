"""The gate at which initiations from strangers are judged, the cheapest check first.

::

    mac1 -> many initiations? -> mac2 -> cookie wanted? -> CPU time of the prefix
         -> decrypt -> timestamp -> signature

Everything before the decryption costs a few hashes; a failed check leaves no state behind.
mac1 is checked by :mod:`overlay.link.datagram_filter`.
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
"""Forged addresses share one share of the budget, so that they use up no other's."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """An initiation of a proved node; ``address_proved`` if it brought a valid cookie."""

    initiation: VerifiedInitiation
    address_proved: bool


class HandshakeResponder:
    """Turns an initiation into a proven peer's, a cookie reply, or an error.

    Owns the cookie secrets, the load meter and the timestamps of initiators, all bounded.
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
        """Prepare.

        Args:
            credentials: ours.
            keys: for messages to us.
            settings: rates and bounds.
            rng: draws cookie secrets.
            budget: CPU time for strangers; one of its own by default.
            pair_cookie: returns what the peer at an endpoint may use instead of a cookie,
                None if there is no link to that endpoint.
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
        """Answer an encoded initiation with a valid mac1 without parsing it, if that is enough.

        Returns:
            COOKIE if initiations are many and this one has no valid cookie, so that a cookie reply
            was sent; LIMIT if none is left for its prefix; None if :meth:`judge` must decide.
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
        """Check an initiation with a valid mac1; ``wants_cookie`` asks for a cookie at any rate.

        Returns:
            The initiation of a proved node, or an encoded cookie reply.

        Raises:
            NotAuthentic: encryption or identity do not fit.
            Malformed: it decrypts to something else than a payload.
            Replayed: it is not newer than the initiator's last one.
            LimitReached: the source's prefix has had its share of CPU time, or strangers
                together have used it up.
        """
        overloaded = self._load.is_overloaded(now)
        proved = self._proves_address(initiation.encoded, source, now)
        if (overloaded or wants_cookie) and not proved:
            if not self._replies.take(source.packed, now):
                raise LimitReached("too many cookie replies")
            return self._cookies.reply(initiation.encoded, source, now)
        groups = groups_of(source.packed) if proved else _UNPROVED
        if not self._budget.spend(Work.HANDSHAKE, groups, now):
            # An honest initiator among forged ones gets the share of its own address.
            if not proved and self._replies.take(source.packed, now):
                return self._cookies.reply(initiation.encoded, source, now)
            raise LimitReached("strangers have used up this second's CPU time")
        opened = OpenedInitiation.open(self._credentials, initiation)
        self._timestamps.check(opened.link_key, opened.payload.timestamp_us, now)
        verified = opened.verify()
        self._timestamps.record(opened.link_key, opened.payload.timestamp_us)
        return Admitted(verified, proved)
