"""The anonymous paths that the user requested, and the circuits that serve them.

A path lasts until the user closes it. A circuit is one attempt to serve it. From the request on,
the destination is blocked: its packets leave through a circuit or not at all. If a circuit is lost,
the path is built again over other Mix-nodes.

::

    request ──> OPENING ──opened──> OPEN ──lost──> REBUILDING ──opened──> OPEN
                   │ no path             └───────────┴── close ──> released? ─yes─> (forgotten)
                   └──> the user is told why ───────────────────────┘  └─no─> CLOSING, again
    adopt ────> REBUILDING (left by an earlier process; the next request takes it over)
    disown ───> REBUILDING or OPEN without an owner, because the program that requested it has ended

A destination is released only if the user closes the path, or if no path of a request could be
opened and the user is told so. The end of the node releases nothing (docs/decisions/0037).

If the host refuses a change (``BackendError``), only the path concerned fails, and its destination
stays blocked. The change is tried again.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterable, Sequence

from overlay.addresses import InnerAddress, IpNetwork
from overlay.apm.events import (
    CircuitClosed,
    CircuitEvent,
    CircuitFailed,
    CircuitLost,
    CircuitMoved,
    CircuitOpened,
)
from overlay.errors import BackendError, InternalError, NoSuitablePath, OverlayError, PathError
from overlay.paths.attempts import is_hopeless, wait_before_s
from overlay.paths.ip_versions import blocked_versions
from overlay.paths.mix_choice import MixChoice
from overlay.paths.path_circuits import PathCircuits
from overlay.paths.path_history import circuit_missing, circuit_news, path_opened
from overlay.paths.path_services import CircuitService, KillSwitchService
from overlay.paths.path_table import MAX_PATHS, PathTable
from overlay.paths.prepared_request import PreparedRequest, outcome_of, protected_together
from overlay.paths.protection import Protection
from overlay.paths.requested_path import PathState, PathTerms, RequestedPath, lent_address
from overlay.paths.standby_keeper import StandbyKeeper

__all__ = ["Paths"]

_LASTING_S = 10.0
"""If a circuit is lost sooner, the next attempt waits longer, because any hop can tear each circuit
down at once."""


# Large: each event in the life of a requested path is a method.
class Paths(PathTable):
    """All requested paths, at most ``MAX_PATHS``.

    ``opened_at_first_try`` counts the paths that their first circuit served.
    """

    def __init__(
        self,
        *,
        circuits: CircuitService,
        kill_switch: KillSwitchService,
        choice: MixChoice,
        standbys: StandbyKeeper | None = None,
    ) -> None:
        """Prepare; without ``standbys`` a path has one circuit at a time."""
        super().__init__()
        self._protection = Protection(kill_switch)
        self._choice = choice
        self._standbys = standbys
        self._serving = PathCircuits(circuits, self._protection, standbys)
        self._answered = False
        self.opened_at_first_try = 0

    @property
    def kill_switch_refusals(self) -> int:
        """How many changes the host refused outside of a request."""
        return self._protection.refusals

    @property
    def first_tries(self) -> int:
        """How many paths had a first circuit."""
        return self._serving.first_tries

    @property
    def blocked(self) -> set[int]:
        """IP versions that are blocked as a whole, except for local addresses."""
        wanted = blocked_versions((w.destination, w.both_versions) for w in self.all_terms())
        return wanted | self.left_blocked

    @property
    def left_blocked(self) -> frozenset[int]:
        """IP versions that an earlier process had blocked, though no path here needs it."""
        return self._protection.left_blocked

    # -- requests ----------------------------------------------------------

    def open_paths(
        self, all_terms: Sequence[PathTerms], now: float, *, patient_until: float = -math.inf
    ) -> list[RequestedPath]:
        """Block all destinations, then begin their first circuits (paper, Figure 4).

        An existing path without an owner is taken over. If its terms differ, its circuit is
        replaced while the destination stays blocked. Every other destination gets a new path. If
        this raises an error, there is no new path.

        Args:
            all_terms: paths to different destinations.
            now: Unix seconds.
            patient_until: Unix seconds until which the request waits, with its destinations
                blocked, if the topology table does not allow all of its paths yet.

        Raises:
            ConfigurationError: a destination has a path already, or a strategy is unknown.
            NoSuitablePath: the topology table has no such path; nothing was changed.
            BackendError: the host did not block the destinations.
            LimitReached: this node has the most circuits that its settings allow.
        """
        (outcome,) = self.open_each([all_terms], now, patient_until=patient_until)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def open_each(
        self,
        requests: Sequence[Sequence[PathTerms]],
        now: float,
        *,
        patient_until: float = -math.inf,
    ) -> list[list[RequestedPath] | Exception]:
        """Make the paths of several requests; block all their destinations by one change.

        Returns:
            For each request its paths, or the error that :meth:`open_paths` would raise.
        """
        prepare = functools.partial(
            self._prepare, select=self._choice.select_together, patient_until=patient_until
        )
        prepared = [outcome_of(prepare, each, now) for each in requests]
        blocked = protected_together(prepared, self._protection.protect)
        begin = functools.partial(self._begin, blocked=blocked)
        return [
            each if isinstance(each, Exception) else outcome_of(begin, each, now)
            for each in prepared
        ]

    def adopt_all(
        self,
        all_terms: Iterable[PathTerms],
        now: float,
        *,
        permanent: frozenset[IpNetwork] = frozenset(),
        blocked: Iterable[int] = (),
    ) -> int:
        """Take over paths of an earlier process or of the configuration, and build them again.

        Args:
            all_terms: paths to different destinations.
            now: Unix seconds.
            permanent: those destinations that get a path at every start.
            blocked: IP versions that were blocked, although no known path needs that.

        Returns:
            How many destinations have no path, because there are more than ``MAX_PATHS``. They
            stay blocked.
        """
        left_out: list[PathTerms] = []
        for terms in all_terms:
            if len(self._paths) >= MAX_PATHS:
                left_out.append(terms)
                continue
            path = self._add(terms, now)
            path.state, path.retry_at, path.held = PathState.REBUILDING, now, False
            path.permanent = terms.destination in permanent
            self._settle(path)
        self._protection.keep_blocked(blocked)
        try:
            self._protection.protect([*self.all_terms(), *left_out])
        except BackendError:  # the kill switch remembers them and tries again
            self._protection.refusals += 1
        return len(left_out)

    def disown(self, number: int) -> None:
        """Keep a path without an owner, because only the user may release its destination."""
        path = self._paths.get(number)
        if path is None or path.state is PathState.CLOSING:
            return
        path.held = False
        path.end_patience()
        self._settle(path)
        if path.state is PathState.OPENING:
            path.state = PathState.REBUILDING

    def close(self, which: int | IpNetwork, now: float) -> None:
        """Close the circuit of a path, then release its destination.

        Raises:
            ConfigurationError: there is no such path.
            BackendError: the destination was not released. The path remains in the state CLOSING.
                The node tries again later, or when the path is closed again.
        """
        path = self.get(which)
        self._abandon(path, now)
        self._end(path, now)

    def close_all(self, now: float) -> None:
        """Close every path, with one change of the host's filters.

        Raises:
            BackendError: some destinations were not released; these paths remain in CLOSING.
        """
        with contextlib.suppress(BackendError), self._protection.together():
            for path in self.all():
                self._abandon(path, now)
            # If the host refuses that, each path is tried separately.
            self._protection.release_all(self.all_terms())
            self.revision += bool(self._paths)
            self._paths.clear()
        refusal = None
        for path in self.all():
            try:
                self._end(path, now)
            except BackendError as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal

    def release_left(self) -> None:
        """Release IP versions that an earlier process had blocked and no path needs.

        Raises:
            BackendError: the host refused; they stay blocked.
        """
        self._protection.release_left(self.all_terms())

    def leave_blocked(self, now: float) -> int:
        """Close every circuit and forget every path; the destinations stay blocked.

        Returns:
            How many destinations stay blocked.
        """
        for path in self.all():
            self._abandon(path, now)
        remaining = len(self._paths)
        self._paths.clear()
        return remaining

    def rebuild_all(self, now: float) -> None:
        """Build every path again, because the source's TUN device has vanished."""
        self.give_up(frozenset(self.held()), now)

    def give_up(self, addresses: frozenset[InnerAddress], now: float) -> None:
        """Build paths with one of these inner addresses again, so that they get another one."""
        for path in self.all():
            if not addresses.isdisjoint(path.inner_addresses):
                self._serving.close(path, now)
                self._rebuild_later(path, now)

    def take_answered(self) -> bool:
        """Return whether a request was answered since the last call."""
        answered, self._answered = self._answered, False
        return answered

    # -- events and time ------------------------------------------------------

    def handle_all(self, events: Sequence[CircuitEvent], now: float) -> None:
        """Process events; one change of the filters serves all circuits that have opened."""
        opened = [
            (path.destination, address)
            for event in events
            if isinstance(event, CircuitOpened)
            and (path := self._serving.path_of(event.circuit))
            and (address := path.address_in(event.inner_addresses))
        ]
        with self._protection.carried_ahead(opened):
            for event in events:
                self.handle(event, now)

    def handle(self, event: CircuitEvent, now: float) -> None:
        """Process an event of a circuit."""
        path = self._serving.path_of(event.circuit)
        if path is None:
            if self._standbys is not None:
                self._standbys.handle(event, now)
            return
        circuit_news(path, event)
        match event:
            case CircuitMoved():
                self._moved(path, event, now)
            case CircuitOpened():
                self._opened(path, event, now)
            case CircuitFailed(error=error):
                self._failed(path, error, now)
            case CircuitLost():
                self._choice.ended(path, event)
                self._lost(path, now)
            case CircuitClosed():
                self._lost(path, now)

    def next_deadline(self) -> float:
        """Return when the next attempt is due."""
        due = (min(path.retry_at, path.standby.retry_at) for path in self._paths.values())
        return min(due, default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Make the attempts that are due. Afterwards the next deadline is later than ``now``."""
        for path in self.all():
            if self._standbys is not None:
                self._standbys.handle_deadline(path, now)
            if path.retry_at <= now:
                path.retry_at = math.inf
                if path.state is PathState.CLOSING:
                    self._end_quietly(path, now)
                else:
                    self._retry(path, now)

    # -- one path -------------------------------------------------------------

    def _begin(
        self, prepared: PreparedRequest, now: float, *, blocked: bool = False
    ) -> list[RequestedPath]:
        """Block destinations unless they are ``blocked``; then begin circuits, all or none."""
        made, taken = prepared.made, prepared.taken
        try:
            if not blocked:
                self._protection.protect(prepared.all_terms)
            self._serving.begin_together(made, prepared.mix_paths, now)
        except BaseException:
            for path in taken:
                path.held = False
            self._end_together(made, now)
            raise
        terms_of = {terms.destination: terms for terms in prepared.all_terms}
        for path in taken:
            self._take_over(path, terms_of[path.destination], now)
        path_to = {path.destination: path for path in (*taken, *made)}
        return [path_to[destination] for destination in terms_of]

    def _begin_waiting(self, paths: Sequence[RequestedPath], now: float) -> None:
        """Begin the circuits of a request that waits, if the topology table allows all of them.

        After an error, nothing of the request remains.
        """
        try:
            self._serving.begin_together(paths, self._choice.select_together(paths, now), now)
        except InternalError:
            raise
        except OverlayError as error:
            for path in paths:
                path.waits, path.retry_at, path.error = False, math.inf, error
                self._settle(path)
            self._end_together(paths, now)

    def _end_together(self, paths: Iterable[RequestedPath], now: float) -> None:
        for path in paths:
            if path.number in self._paths:
                self._serving.close(path, now)
                self._end_quietly(path, now)

    def _take_over(self, path: RequestedPath, terms: PathTerms, now: float) -> None:
        """Give a path without an owner to a request; its destination stays blocked meanwhile."""
        before = path.terms
        same = path.accept(terms)
        self.revision += path.terms != before
        if same and path.state is PathState.OPEN:
            self._settle(path)
            return
        path.settled = False
        if not same:
            self._serving.close(path, now)
            path.state, path.avoid, path.fleeting = PathState.REBUILDING, frozenset(), 0
        if path.circuit is None:
            path.retry_at = now

    def _settle(self, path: RequestedPath) -> None:
        path.settled = self._answered = True

    def _retry(self, path: RequestedPath, now: float) -> None:
        if path.waits:
            self._begin_waiting([each for each in path.companions if each.waits], now)
            return
        try:
            self._serving.begin(path, self._choice.select(path, now), now)
        except InternalError:
            raise
        except OverlayError as error:
            self._failed(path, error, now)

    def _opened(self, path: RequestedPath, event: CircuitOpened, now: float) -> None:
        try:
            address = lent_address(event.inner_addresses, path.destination.version)
            self._protection.carry(path.destination, address)
        except (PathError, BackendError) as error:
            self._serving.close(path, now)
            self._failed(path, error, now)
            return
        self.opened_at_first_try += path.state is PathState.OPENING and not path.failures
        path.inner_addresses = tuple(event.inner_addresses)
        path.state, path.opened_at = PathState.OPEN, now
        path.failures, path.avoid, path.error = 0, frozenset(), None
        path.served = True
        self._settle(path)
        path_opened(path)
        if self._standbys is not None:
            self._standbys.path_opened(path, now)

    def _moved(self, path: RequestedPath, event: CircuitMoved, now: float) -> None:
        """Continue over the standby circuit. Exit, inner address and kill switch do not change."""
        self._choice.ended(path, event)
        if self._standbys is not None:
            self._standbys.took_over(path, event, now)
        self._serving.moved(path, event)

    def _failed(self, path: RequestedPath, error: OverlayError, now: float) -> None:
        """Try another circuit later, and report the failure after a few attempts.

        A refusal by this host would repeat with every circuit, so one attempt is enough then. If no
        path of a request ever carried packets, the request ends and nothing of it remains.
        """
        self._choice.blame(path, error)
        self._serving.detach(path)
        if isinstance(error, NoSuitablePath) and now < path.patient_until:
            path.look_again_later(now)
            return
        path.failures += 1
        circuit_missing(path, error)
        has_other = self._choice.has_other(path, now)
        if is_hopeless(error, path.failures, has_other=has_other) and (
            path.state is PathState.OPENING or not path.settled
        ):
            path.error = error
            self._settle(path)
            if path.state is PathState.OPENING and self._end_unserved(path, now):
                return
        self._rebuild_later(path, now)

    def _end_unserved(self, path: RequestedPath, now: float) -> bool:
        """End all paths of a request once each has failed; return whether they ended.

        If one of them carries packets, the others stay blocked, because programs may use the same
        server by both addresses. The user must decide.
        """
        companions = path.companions
        if any(each.served for each in companions):
            path.state = PathState.REBUILDING
            return False
        if any(each.error is None for each in companions):
            return False
        self._end_together(companions, now)
        return True

    def _lost(self, path: RequestedPath, now: float) -> None:
        lasted = path.opened_at is not None and now >= path.opened_at + _LASTING_S
        path.fleeting = 0 if lasted else path.fleeting + 1
        self._serving.detach(path)
        self._rebuild_later(path, now)

    def _rebuild_later(self, path: RequestedPath, now: float) -> None:
        if path.state is PathState.OPEN:
            path.state = PathState.REBUILDING
        path.retry_at = now + wait_before_s(path.failures + path.fleeting)

    def _abandon(self, path: RequestedPath, now: float) -> None:
        """Close the circuit of a path finally, and answer its request."""
        self._serving.close(path, now)
        path.end_patience()
        path.retry_at = math.inf
        path.error = path.error or PathError("the path was closed while it was being opened.")
        self._settle(path)

    def _end(self, path: RequestedPath, now: float) -> None:
        """Release the destination and forget the path; while the host refuses, it is CLOSING."""
        try:
            others = (p.terms for p in self._paths.values() if p is not path)
            self._protection.release(path.terms, others)
        except BackendError as error:
            if path.state is not PathState.CLOSING:
                path.state, path.failures = PathState.CLOSING, 0
            path.failures += 1
            path.retry_at = now + wait_before_s(path.failures)
            raise BackendError(
                f"path {path.number} carries nothing any more, but its destination stays blocked "
                f"for now: {error}"
            ) from error
        self._paths.pop(path.number, None)
        self.revision += 1

    def _end_quietly(self, path: RequestedPath, now: float) -> None:
        try:
            self._end(path, now)
        except BackendError:
            self._protection.refusals += 1
