"""The rules of a lookup, written without its shortcuts: the judge of ``overlay.dht.lookup``.

Each choice looks through all candidates of a path from the nearest on. A request is a list of
path, contact and state; a candidate is its endpoints, as contacts, and its distance in hops.
"""

from collections import Counter
from itertools import cycle

from overlay.dht.admission import source_group
from overlay.dht.lookup import Query
from overlay.dht.messages import Contact, Contacts, FindNode
from overlay.dht.routing import distance

MOST_CLAIMS = 3
MEMORY = 8
"""Candidates that a path remembers besides those that were asked, in units of k."""


class PlainPath:
    """One of the disjoint paths."""

    def __init__(self):
        self.candidates, self.hops, self.subnets, self.asking = {}, {}, Counter(), 0


class PlainLookup:
    """Has the methods of ``Lookup`` that a run needs."""

    def __init__(self, target, own_id, start, settings, now):
        self.target, self.own_id, self.settings = target, own_id, settings
        self.paths = [PlainPath() for _ in range(settings.disjoint_paths)]
        self.asks, self.latest, self.answers = {}, {}, {}
        self.deadline = now + settings.lookup_time_s
        for index, contact in enumerate(start):
            self._add(self.paths[index % len(self.paths)], contact, 0)

    def _far(self, node_id):
        return distance(node_id, self.target)

    def _add(self, path, contact, hops):
        known = path.candidates.get(contact.node_id)
        if known is not None:
            if contact not in known and len(known) < MOST_CLAIMS and hops:
                known.append(contact)
            return
        if contact.node_id == self.own_id:
            return
        path.candidates[contact.node_id], path.hops[contact.node_id] = [contact], hops
        if len(path.candidates) > MEMORY * self.settings.k + len(self.latest):
            unasked = [each for each in path.candidates if each not in self.latest]
            if unasked:
                del path.candidates[max(unasked, key=self._far)]

    def _in_state(self, *states):
        return sum(state in states for _, state in self.asks.values())

    def _has_room(self):
        return len(self.asks) < self.settings.lookup_max_queries

    def _subnet(self, contact: Contact):
        private = self.settings.limit_private_prefixes
        return source_group(contact.endpoint, limit_private=private)

    def _next_of(self, path):
        living = 0
        for node_id in sorted(path.candidates, key=self._far):
            if living == self.settings.k:
                return None
            contact = self.latest.get(node_id)
            if contact is not None and self.asks[contact][1] in ("asked", "answered"):
                living += 1
                continue
            for claim in path.candidates[node_id]:
                full = path.subnets[self._subnet(claim)] >= self.settings.table_prefix_limit
                if claim not in self.asks and not full:
                    return claim
        return None

    def queries(self, now):
        chosen, found = [], now < self.deadline
        while found:
            found = False
            for path in sorted(self.paths, key=lambda each: each.asking):
                if self._in_state("asked") >= self.settings.alpha or not self._has_room():
                    return chosen
                contact = self._next_of(path)
                if contact is not None:
                    self.asks[contact] = (path, "asked")
                    self.latest[contact.node_id] = contact
                    path.subnets[self._subnet(contact)] += 1
                    path.asking += 1
                    chosen.append(Query(contact, FindNode(self.target)))
                    found = True
        return chosen

    def _settle(self, contact, state):
        path, before = self.asks[contact]
        path.asking -= before == "asked"
        self.asks[contact] = (path, state)
        return path

    def slow(self, query):
        if self.asks[query.contact][1] == "asked":
            self._settle(query.contact, "slow")

    def failed(self, query):
        self._settle(query.contact, "failed")

    def answered(self, query, reply, now):
        node_id = query.contact.node_id
        path = self._settle(query.contact, "answered")
        self.latest[node_id] = self.answers[node_id] = query.contact
        hops = path.hops[node_id] + 1
        if isinstance(reply, Contacts) and hops <= self.settings.lookup_max_hops:
            idle = [other for other in self.paths if not other.candidates]
            named = reply.contacts[: self.settings.k]
            for taker, contact in zip(cycle([path, *idle]), named, strict=False):
                self._add(taker, contact, hops)

    def finished(self, now):
        if now >= self.deadline:
            return True
        if self._in_state("asked"):
            return False
        if self._has_room() and any(self._next_of(path) is not None for path in self.paths):
            return False
        return not self._in_state("slow") or len(self.answers) >= self.settings.k

    def closest(self):
        nearest = sorted(self.answers, key=self._far)[: self.settings.k]
        return [self.answers[node_id] for node_id in nearest]
