"""How much the overlay talks: datagrams that an on-line node sends in a second.

Each answered call costs a request and an answer, and two more if the caller has no cookie; each
call without answer costs its attempts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.dht.settings import DhtSettings
from sims.model.attention import Attention
from sims.model.habits import Habits, crawl_pause_s, refreshes_per_s
from sims.model.lookups import LookupResults

__all__ = ["Conversation", "messages_per_node_s"]

_HOLDERS_ASKED: Final = 3
_HOLDERS: Final = 1.1
"""In units of k: the nearest and the rest of the region."""

_ANSWERED: Final = 2
_CHALLENGED: Final = 2
_OF_A_CRAWL: Final = 8
"""Three requests, three answers, and the first of them twice, as no cookie is at hand."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What walks cost in the mean: queries that were answered, and those that were not."""

    answered: float
    silent: float

    @classmethod
    def of(cls, found: LookupResults) -> Conversation:
        """Return the mean of some lookups."""
        silent = float(found.silent.mean())
        return cls(float(found.queries.mean()) - silent, silent)

    def datagrams(self, settings: DhtSettings, cookie: float) -> float:
        """Return what one walk sends and is sent, if a cookie is at hand so often."""
        answered = self.answered * (_ANSWERED + _CHALLENGED * (1 - cookie))
        return answered + self.silent * settings.rpc_attempts


def messages_per_node_s(
    settings: DhtSettings,
    habits: Habits,
    attention: Attention,
    publishing: tuple[float, float],
    walks: tuple[Conversation, Conversation],
    cookies: tuple[float, float],
    crawling: int,
) -> float:
    """Return the rate over all that nodes do.

    Args:
        settings: of the product.
        habits: how often they look up, and leave.
        attention: how often they ping whom.
        publishing: how often they store their descriptor, and how probably the cookies of their
            neighbours are at hand then.
        walks: to random targets, and to the node's own id.
        cookies: how probably one is at hand for a contact, and for another node.
        crawling: how many nodes crawl the overlay.
    """
    far, own = walks
    first = habits.first_hand * cookies[0] + (1 - habits.first_hand) * cookies[1]
    lookups = habits.lookups_per_s * (far.datagrams(settings, first) + _HOLDERS_ASKED * _ANSWERED)
    refreshes = attention.buckets * refreshes_per_s(settings, habits)
    stores = _HOLDERS * settings.k * _ANSWERED + own.datagrams(settings, publishing[1])
    pings = attention.pings_per_s() * (_ANSWERED + _CHALLENGED * (1 - cookies[0]))
    joins = habits.leaving_per_s * settings.seeds_per_round * (_ANSWERED + _CHALLENGED)
    crawls = crawling * _OF_A_CRAWL / crawl_pause_s(settings, habits.online)
    return (
        lookups
        + refreshes * far.datagrams(settings, first)
        + publishing[0] * stores
        + pings
        + joins
        + crawls
    )
