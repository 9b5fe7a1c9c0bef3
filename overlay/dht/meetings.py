"""How two nodes behind one NAT learn each other's local endpoints.

Both publish the same outside address. If the NAT does not return packets to that address, they
cannot reach each other there. Other nodes, the *meeting places*, help them::

    both ──MEET(other)──> places       the places see both at one address
    both <──MET(present)── places      at least two places of different prefixes say so
    both ──MEET(other, sealed)──> places ──MET(present, sealed)──> both

A node leaves its local endpoints only after two places have said that the other one asks from
the same address. They are sealed to the other node and signed, so no place learns or changes
them. The meeting places are the nodes nearest to a hash of the address, so both choose the same
(docs/decisions/0055).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import nsmallest
from random import Random
from typing import Final

from overlay.addresses import NODE_ID_BYTES, Endpoint, NodeId
from overlay.dht.admission import prefix_of
from overlay.dht.calls import Calls, VerifiedReply
from overlay.dht.help_messages import Meet, Met
from overlay.dht.messages import Contact
from overlay.dht.routing import distance

__all__ = ["MAX_NEIGHBOURS", "Meetings", "Neighbour", "places_of"]

MAX_NEIGHBOURS: Final = 8
"""Nodes of one outside address that a node looks for; descriptors that name it are free."""

_LOOKED_AT: Final = 64
"""Nearest nodes, among which three have different prefixes as a rule."""

_PLACES: Final = 3
_WITNESSES: Final = 2
"""Places of different prefixes that must see both nodes at one address."""

_SOON_S: Final = 3.0
_SOON_ROUNDS: Final = 8
_PAUSE_S: Final = 240.0
"""After the first rounds: more than twice within the time that places remember."""

_LABEL: Final = b"overlay meeting place v1"


def places_of(network_id: str, address: bytes, nodes: Sequence[Contact]) -> list[Contact]:
    """Return the places where nodes of one packed outside address meet, at most three.

    They are the nodes nearest to a hash of the address, of different /24 or /48 prefixes.
    """
    digest = hashlib.sha256(_LABEL + network_id.encode() + b"\0" + address).digest()
    goal = digest[:NODE_ID_BYTES]
    own = prefix_of(Endpoint.from_packed(address, 1))
    chosen: dict[bytes, Contact] = {}
    for node in nsmallest(_LOOKED_AT, nodes, key=lambda each: distance(each.node_id, goal)):
        prefix = prefix_of(node.endpoint)
        if prefix != own:
            chosen.setdefault(prefix, node)
        if len(chosen) == _PLACES:
            break
    return list(chosen.values())


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A node that publishes an outside address of this one, and the places to meet it."""

    node_id: NodeId
    places: tuple[Contact, ...]


@dataclass(slots=True)
class _Search:
    """State of a neighbour's rounds: answers of places, and whether to leave endpoints for it."""

    neighbour: Neighbour
    due: float
    soon: int = _SOON_ROUNDS
    trusted: bool = False
    known: bool = False
    waiting: int = 0
    witnesses: set[bytes] = field(default_factory=set)
    left: list[bytes] = field(default_factory=list)


class Meetings:
    """Meets the neighbours that :meth:`follow` names; idle without any.

    Args:
        calls: carries requests.
        rng: draws the times of rounds.
    """

    def __init__(self, calls: Calls, rng: Random) -> None:
        self._calls = calls
        self._rng = rng
        self._searches: dict[NodeId, _Search] = {}
        self._seal: Callable[[NodeId, float], bytes] = lambda *_: b""
        self._found: Callable[[NodeId, Sequence[bytes], float], bool] = lambda *_: False

    def serve(
        self,
        seal: Callable[[NodeId, float], bytes],
        found: Callable[[NodeId, Sequence[bytes], float], bool],
    ) -> None:
        """Set what to leave for a neighbour, and what gets everything that it left.

        ``found`` gets nothing if the neighbour is not there any more. It returns whether anything
        of what it got is good.
        """
        self._seal, self._found = seal, found

    def follow(self, neighbours: Sequence[Neighbour], now: float) -> None:
        """Set the neighbours to meet, at most 8, and keep the state of those met before."""
        searches = self._searches
        self._searches = {}
        for each in neighbours[:MAX_NEIGHBOURS]:
            search = searches.pop(each.node_id, None) or _Search(each, now + _SOON_S)
            search.neighbour = each
            self._searches[each.node_id] = search
        for gone in searches:
            self._found(gone, (), now)

    def again(self, now: float) -> None:
        """Meet all neighbours again soon, because what this node leaves for them has changed."""
        for search in self._searches.values():
            search.soon = _SOON_ROUNDS
            if search.waiting == 0:
                search.due = min(search.due, now + _SOON_S)

    def next_deadline(self) -> float:
        """Return when :meth:`handle_deadline` is due."""
        return min((search.due for search in self._searches.values()), default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Ask the meeting places about each neighbour whose round is due."""
        for search in self._searches.values():
            if search.due <= now:
                self._ask(search, now)

    def _ask(self, search: _Search, now: float) -> None:
        target, places = search.neighbour.node_id, search.neighbour.places
        if len(places) < _WITNESSES:
            self._pause(search, now)
            return
        sealed = self._seal(target, now) if search.trusted else b""
        search.due, search.waiting = math.inf, len(places)
        search.witnesses, search.left = set(), []
        for place in places:
            answered = partial(self._answered, search)
            self._calls.start(Meet(target, sealed), place.endpoint, place.node_id, now, answered)

    def _answered(self, search: _Search, answer: VerifiedReply | None, now: float) -> None:
        search.waiting -= 1
        if answer is not None and isinstance(answer.reply, Met) and answer.reply.present:
            search.witnesses.add(prefix_of(answer.contact.endpoint))
            search.left += [answer.reply.sealed] if answer.reply.sealed else []
        if search.waiting == 0 and self._searches.get(search.neighbour.node_id) is search:
            self._conclude(search, now)

    def _conclude(self, search: _Search, now: float) -> None:
        was_trusted = search.trusted
        search.trusted = len(search.witnesses) >= _WITNESSES
        left = search.left if search.trusted else ()
        was_known, search.known = search.known, self._found(search.neighbour.node_id, left, now)
        if search.known and was_trusted:
            search.soon = 0  # both nodes have left and received endpoints
        elif was_known or (search.trusted and not was_trusted):
            search.soon = _SOON_ROUNDS
        self._pause(search, now)

    def _pause(self, search: _Search, now: float) -> None:
        soon, search.soon = search.soon > 0, max(0, search.soon - 1)
        search.due = now + (_SOON_S if soon else _PAUSE_S) * self._rng.uniform(0.8, 1.2)
