"""The state of the overlay at one moment, which lookups and tables of a sample use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from overlay.dht.round_trips import MAX_MEASURED
from overlay.dht.settings import DhtSettings
from sims.scenario.scenario import Scenario
from sims.vectorised.attention import Attention
from sims.vectorised.habits import Habits
from sims.vectorised.population import Sessions, is_hostile
from sims.vectorised.schedule import Publications, cookies_at_hand
from sims.vectorised.tables import Known, Tables
from sims.vectorised.timing import CallTiming
from sims.vectorised.xor import Flags, Ids

__all__ = ["Moment"]

Floats = npt.NDArray[np.float64]

_HOLDERS_LOOKED_AT: Final = 200
_REMEMBERED_S: Final = 4 * 3600.0
"""No table holds a contact for longer than this after it left."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The state of the overlay now.

    ``live`` has the sorted ids on line, ``honest`` those of them without the adversary. ``since``
    has an entry for each of ``live``, ``hostile`` one for each of ``sessions``. A node stored its
    descriptor with the rate ``publishing_per_s`` since the last sample. In the fraction
    ``cookie_share`` of these cases it still had valid cookies of its near nodes.
    """

    now: float
    live: Ids
    since: Floats
    honest: Ids
    sessions: Sessions
    hostile: Flags
    tables: Tables
    timing: CallTiming
    attention: Attention
    publications: Publications
    publishing_per_s: float
    cookie_share: float

    @classmethod
    def of(
        cls,
        scenario: Scenario,
        settings: DhtSettings,
        sessions: Sessions,
        habits: Habits,
        now: float,
        rng: np.random.Generator,
    ) -> Moment:
        """Return the state that follows from these sessions and rates."""
        is_live = np.isinf(sessions.until)
        live = sessions.chosen(is_live)
        publications = Publications(settings, rng)
        some = rng.choice(live.since, min(_HOLDERS_LOOKED_AT, len(live.since)), replace=False)
        walks = publications.of(some, now)
        gone_s = now - sessions.until[~is_live & (sessions.until > now - _REMEMBERED_S)]
        attention = Attention(settings, habits, now, some, walks, gone_s)
        last_sample = now - scenario.sample_interval_s
        adversary = scenario.adversary
        share = adversary.share if adversary.behaviours else 0.0
        hostile = is_hostile(sessions.ids, share)
        mute = np.where(hostile, adversary.drop_probability, 0.0)
        known = _known(sessions, mute, now, settings.rpc_attempts)
        timing = CallTiming(
            scenario.latency,
            settings,
            (attention.calls_of_contacts_per_s(), attention.calls_of_others_per_s()),
            _measured_s(attention, live, now),
            attention.not_called_since(gone_s),
            rng,
        )
        return cls(
            now=now,
            live=live.ids,
            since=live.since,
            honest=live.ids[~hostile[is_live]],
            sessions=sessions,
            hostile=hostile,
            tables=Tables(known, settings.k, rng, attention),
            timing=timing,
            attention=attention,
            publications=publications,
            publishing_per_s=float((walks > last_sample).sum())
            / len(some)
            / scenario.sample_interval_s,
            cookie_share=cookies_at_hand(walks, last_sample),
        )


def _measured_s(attention: Attention, live: Sessions, now: float) -> float:
    """Return the age of the oldest round trip that a node still remembers, in seconds.

    It is the time since the node came on line, or the time after which a full memory replaces
    the oldest entries.
    """
    age_s = float((now - np.where(np.isneginf(live.since), 0.0, live.since)).mean())
    if len(live.ids) <= MAX_MEASURED:
        return age_s
    calls_per_s = attention.calls_of_others_per_s() * len(live.ids) + attention.pings_per_s()
    return min(age_s, MAX_MEASURED / calls_per_s)


def _known(sessions: Sessions, mute: Floats, now: float, attempts: int) -> Known:
    """Return the nodes that tables may hold, each once, with its last session."""
    recent = np.flatnonzero(sessions.until > now - _REMEMBERED_S)
    recent = recent[np.lexsort((sessions.until[recent], sessions.ids[recent]))]
    newest = np.ones(len(recent), np.bool_)
    newest[:-1] = sessions.ids[recent[1:]] != sessions.ids[recent[:-1]]
    kept = recent[newest]
    last = sessions.chosen(kept)
    gone_s = np.where(np.isinf(last.until), 0.0, np.maximum(now - last.until, 1e-3))
    return Known(last.ids, last.since, gone_s, mute[kept], mute[kept] ** attempts)
