"""Compute the control traffic: datagrams that a node on line sends per second.

An answered call needs a request and an answer, and two more datagrams if the caller has no
cookie. A call without an answer needs one datagram per attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from overlay.dht.crawl import HOLDERS_ASKED
from overlay.dht.settings import DhtSettings
from sims.vectorised.attention import Attention
from sims.vectorised.habits import Habits, crawl_pause_s, refreshes_per_s
from sims.vectorised.lookups import LookupResults

__all__ = ["Conversation", "messages_per_node_s"]

_HOLDERS: Final = 1.1
"""Nodes at which a record is stored, in units of k: the nearest ones and the region."""

_ANSWERED: Final = 2
_CHALLENGED: Final = 2
_OF_A_CRAWL: Final = 8
"""Three requests and three answers. The first pair is repeated, because it fetches a cookie."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Mean numbers of answered and of unanswered queries of a lookup."""

    answered: float
    silent: float

    @classmethod
    def of(cls, found: LookupResults) -> Conversation:
        """Return the means over some lookups."""
        silent = float(found.silent.mean())
        return cls(float(found.queries.mean()) - silent, silent)

    def datagrams(self, settings: DhtSettings, cookie: float) -> float:
        """Return the datagrams of one lookup, sent and received, for a probability of a cookie."""
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
    """Return the datagrams per second of one node, over all of its tasks.

    Args:
        settings: the product's settings.
        habits: rates of lookups and departures.
        attention: rates of pings.
        publishing: rate at which a node stores its descriptor, and the probability that it then has
            a cookie of a near node.
        walks: queries of lookups of random targets, and of the node's own id.
        cookies: probabilities that a node has a cookie of a contact, and of another node.
        crawling: number of nodes that crawl the overlay.
    """
    far, own = walks
    first = habits.first_hand * cookies[0] + (1 - habits.first_hand) * cookies[1]
    lookups = habits.lookups_per_s * (far.datagrams(settings, first) + HOLDERS_ASKED * _ANSWERED)
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
