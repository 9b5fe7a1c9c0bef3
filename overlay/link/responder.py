"""The gate at which initiations from strangers are judged, the cheapest check first.

::

    mac1 -> load: mac2 and the prefix's rate -> decrypt -> timestamp -> identity signature

Everything up to the load check costs two hashes; a failed check leaves no state behind.
"""

from __future__ import annotations

from random import Random

from overlay.addresses import Endpoint
from overlay.errors import LimitReached, NotAuthentic
from overlay.link.cookie import CookieJar, LoadMeter, ReceiverKeys
from overlay.link.exchange import Credentials, OpenedInitiation, VerifiedInitiation
from overlay.link.handshake import CookieReply, Initiation
from overlay.link.replay import TimestampTable
from overlay.link.settings import LinkSettings

__all__ = ["Responder"]


class Responder:
    """Turns an initiation into a proven peer's, a cookie reply, or an error.

    Owns the cookie secrets, the load meter and the timestamps of initiators, all bounded.
    """

    def __init__(self, credentials: Credentials, settings: LinkSettings, rng: Random) -> None:
        keys = ReceiverKeys.of(credentials.link_key, credentials.network_hash)
        self._credentials = credentials
        self._keys = keys
        self._cookies = CookieJar(keys, rng)
        self._load = LoadMeter(
            settings.cookie_above_initiations_per_s, settings.max_initiations_per_prefix_per_s
        )
        self._timestamps = TimestampTable(settings.max_known_initiators, settings.max_clock_skew_s)

    def judge(
        self, initiation: Initiation, source: Endpoint, now: float, *, crowded: bool
    ) -> VerifiedInitiation | CookieReply:
        """Check an initiation; ``crowded`` asks for a cookie whatever the rate.

        Raises:
            NotAuthentic: mac1, encryption or identity do not fit.
            Malformed: it decrypts to something else than a payload.
            Replayed: it is not newer than the initiator's last one.
            LimitReached: the source's prefix has had its share of this second.
        """
        if not self._keys.is_valid(initiation):
            raise NotAuthentic("mac1 of an initiation does not fit")
        if self._load.is_overloaded(now) or crowded:
            if not self._cookies.is_valid(initiation, source, now):
                return self._cookies.reply(initiation, source, now)
            if not self._load.admits(source, now):
                raise LimitReached("too many initiations from one prefix")
        opened = OpenedInitiation.open(self._credentials, initiation)
        self._timestamps.check(opened.link_key, opened.payload.timestamp_us, now)
        verified = opened.verify()
        self._timestamps.record(opened.link_key, opened.payload.timestamp_us)
        return verified
