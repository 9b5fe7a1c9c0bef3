"""The anonymous paths that the user asked for, and the circuits that serve them.

A path is a wish that lasts until the user closes it; a circuit is one attempt to serve it.
From the moment of the wish the destination is guarded: its packets may leave through a
circuit or not at all. When a circuit is lost, the path is built anew over other Mix-nodes.

::

    request ──> OPENING ──opened──> OPEN ──lost──> REBUILDING ──opened──> OPEN
                   │ no path             └───────────┴── close ──> guard ended? ─yes─> (forgotten)
                   └──> the user is told why ─────────────────────────┘  └─no─> CLOSING, again
    adopt ────> REBUILDING (left by an earlier process; the next request takes it over)
    disown ───> REBUILDING or OPEN, held by nobody: its asker went away

A guard ends only because the user closed the path, or because no path of a request could ever
be opened and the user is told so. The end of the node ends no guard (docs/decisions/0037).

What the host refuses (``BackendError``) fails the one path that it happened to, and always
towards silence: a destination whose guard cannot be ended stays guarded and is tried again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from overlay.addresses import InnerAddress, IpNetwork
from overlay.apm.events import (
    CircuitClosed,
    CircuitEvent,
    CircuitFailed,
    CircuitLost,
    CircuitMoved,
    CircuitOpened,
)
from overlay.errors import BackendError, InternalError, OverlayError, PathError
from overlay.paths.attempts import is_hopeless, wait_before_s
from overlay.paths.ip_versions import blocked_versions
from overlay.paths.mix_choice import MixChoice
from overlay.paths.path_history import circuit_asked, circuit_missing, circuit_news, path_opened
from overlay.paths.path_services import CircuitService, KillSwitchService
from overlay.paths.path_table import MAX_PATHS, PathTable
from overlay.paths.protection import Protection
from overlay.paths.requested_path import PathState, PathTerms, RequestedPath, lent_address
from overlay.paths.standby_keeper import StandbyKeeper
from overlay.selection.selector import MixPath

__all__ = [
    "MAX_PATHS",
    "CircuitEvent",
    "CircuitService",
    "KillSwitchService",
    "PathState",
    "PathTerms",
    "Paths",
    "RequestedPath",
]

_LASTING_S = 10.0
"""A circuit lost sooner says something about its path: any hop can tear it down at once."""


class Paths(PathTable):
    """Owner of every requested path; bounded by ``MAX_PATHS``.

    ``guard_refusals`` counts what the host refused while nobody waited for an answer,
    ``first_tries`` the paths whose first circuit was begun, ``opened_at_first_try`` those that
    this circuit served.
    """

    def __init__(
        self,
        *,
        circuits: CircuitService,
        guard: KillSwitchService,
        choice: MixChoice,
        standbys: StandbyKeeper | None = None,
    ) -> None:
        """Prepare; without ``standbys`` a path has one circuit at a time."""
        super().__init__()
        self._circuits = circuits
        self._guard = guard
        self._protection = Protection(guard)
        self._choice = choice
        self._standbys = standbys
        self._by_circuit: dict[int, RequestedPath] = {}
        self._answered = False
        self.guard_refusals = 0
        self.first_tries = 0
        self.opened_at_first_try = 0

    @property
    def blocked(self) -> set[int]:
        """IP versions that are blocked as a whole, except for local addresses."""
        wished = blocked_versions((w.destination, w.both_versions) for w in self.wishes())
        return wished | self.left_blocked

    @property
    def left_blocked(self) -> frozenset[int]:
        """IP versions that an earlier process had blocked, though no path here needs it."""
        return self._protection.left_blocked

    # -- what the user asks ----------------------------------------------------------

    def request_all(self, wishes: Sequence[PathTerms], now: float) -> list[RequestedPath]:
        """Guard all destinations, then begin their first circuits (paper, Figure 4).

        A path that nobody holds is taken over. If its wish differs, its circuit is replaced
        behind the guard. Every other destination gets a path of its own, or, if this raises,
        none of them does.

        Args:
            wishes: paths to different destinations.
            now: Unix seconds.

        Raises:
            ConfigurationError: a destination has a path already, or a strategy is unknown.
            NoSuitablePath: the topology table has no such path; the host was not touched.
            BackendError: the host did not guard the destinations.
            LimitReached: this node has as many circuits as it may.
        """
        inherited = {wish.destination: self._free_path(wish.destination) for wish in wishes}
        new = [wish for wish in wishes if inherited[wish.destination] is None]
        made = self._begin(new, wishes, now)
        for wish in wishes:
            path = inherited[wish.destination]
            if path is not None:
                self._take_over(path, wish, now)
        of_request = {path.destination: path for path in (*inherited.values(), *made) if path}
        return [of_request[wish.destination] for wish in wishes]

    def adopt_all(
        self,
        wishes: Iterable[PathTerms],
        now: float,
        *,
        permanent: frozenset[IpNetwork] = frozenset(),
        blocked: Iterable[int] = (),
    ) -> int:
        """Take over what an earlier process guarded or the configuration lists, and rebuild it.

        Args:
            wishes: paths to different destinations.
            now: Unix seconds.
            permanent: which of their destinations return at every start.
            blocked: IP versions that were blocked, though no known path needs it.

        Returns:
            How many destinations have no path, because there are more than ``MAX_PATHS``. They
            stay guarded.
        """
        left_out: list[PathTerms] = []
        for wish in wishes:
            if len(self._paths) >= MAX_PATHS:
                left_out.append(wish)
                continue
            path = self._add(wish, now)
            path.state, path.retry_at, path.held = PathState.REBUILDING, now, False
            path.permanent = wish.destination in permanent
            self._settle(path)
        self._protection.keep_blocked(blocked)
        try:
            self._protection.protect([*self.wishes(), *left_out])
        except BackendError:  # the guard remembers them and tries again
            self.guard_refusals += 1
        return len(left_out)

    def disown(self, number: int) -> None:
        """Keep a path whose asker went away: only a user who closes it may end its guard."""
        path = self._paths.get(number)
        if path is None or path.state is PathState.CLOSING:
            return
        path.held = False
        self._settle(path)
        if path.state is PathState.OPENING:
            path.state = PathState.REBUILDING

    def close(self, which: int | IpNetwork, now: float) -> None:
        """Tear the path's circuit down, then end the guard of its destination.

        Raises:
            ConfigurationError: there is no such path.
            BackendError: the guard did not end. The path remains as CLOSING, and another try
                follows, at the latest when it is closed again.
        """
        path = self.get(which)
        self._part(path, now)
        self._end(path, now)

    def close_all(self, now: float) -> None:
        """Close every path; the host's filters change once for all of them.

        Raises:
            BackendError: the guard of some did not end; these remain as CLOSING.
        """
        with contextlib.suppress(BackendError), self._protection.together():
            for path in self.all():
                self._part(path, now)
            # If that is refused, each path is tried by itself.
            self._protection.release_all(self.wishes())
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
        """Unblock IP versions that an earlier process had blocked and no path needs.

        Raises:
            BackendError: the host refused; they stay blocked.
        """
        self._protection.release_left(self.wishes())

    def leave_blocked(self, now: float) -> int:
        """Drop every circuit and forget every path, because the node stops; guards stay.

        Returns:
            How many destinations stay blocked.
        """
        for path in self.all():
            self._part(path, now)
        remaining = len(self._paths)
        self._paths.clear()
        return remaining

    def rebuild_all(self, now: float) -> None:
        """Build every path anew, because the source's TUN device has gone."""
        self.give_up(frozenset(self.held()), now)

    def give_up(self, addresses: frozenset[InnerAddress], now: float) -> None:
        """Build paths with one of these inner addresses anew, so that they get another one."""
        for path in self.all():
            if not addresses.isdisjoint(path.inner_addresses):
                self._drop_circuit(path, now)
                self._rebuild_later(path, now)

    def take_answered(self) -> bool:
        """Return whether a request was answered since the last call."""
        answered, self._answered = self._answered, False
        return answered

    # -- what happens meanwhile ------------------------------------------------------

    def handle(self, event: CircuitEvent, now: float) -> None:
        """Take note of what became of a circuit."""
        path = self._by_circuit.get(event.circuit)
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
        """Return when the next circuit is to be tried."""
        due = (min(path.retry_at, path.standby.retry_at) for path in self._paths.values())
        return min(due, default=math.inf)

    def handle_deadline(self, now: float) -> None:
        """Try again what is due; afterwards the next deadline lies after ``now``."""
        for path in self.all():
            if self._standbys is not None:
                self._standbys.handle_deadline(path, now)
            if path.retry_at <= now:
                path.retry_at = math.inf
                if path.state is PathState.CLOSING:
                    self._end_quietly(path, now)
                else:
                    self._retry(path, now)

    # -- one path's life -------------------------------------------------------------

    def _begin(
        self, new: list[PathTerms], wishes: Sequence[PathTerms], now: float
    ) -> list[RequestedPath]:
        """Make new paths, all or none; guard what ``wishes`` need before the first circuit."""
        self._check_room(len(new))
        trials = [RequestedPath(0, wish, now) for wish in new]
        mix_paths = [self._choice.select(trial, now) for trial in trials]
        made = [self._add(wish, now) for wish in new]
        try:
            self._protection.protect(wishes)
            for path, mix_path in zip(made, mix_paths, strict=True):
                path.companions = made
                self._connect(path, mix_path, now)
                self.first_tries += 1
        except BaseException:
            for path in made:
                self._drop_circuit(path, now)
                self._end_quietly(path, now)
            raise
        return made

    def _take_over(self, path: RequestedPath, wish: PathTerms, now: float) -> None:
        """Give a path that nobody holds to an asker; its destination stays guarded throughout."""
        before = path.wish
        # A block that is there stays: taking a path over never opens anything.
        path.wish = replace(wish, both_versions=wish.both_versions or before.both_versions)
        self.revision += path.wish != before
        path.held, path.error, path.failures = True, None, 0
        same = (wish.hops, wish.strategy, wish.via) == (before.hops, before.strategy, before.via)
        if same and path.state is PathState.OPEN:
            self._settle(path)
            return
        path.settled = False
        if not same:
            self._drop_circuit(path, now)
            path.state, path.avoid, path.fleeting = PathState.REBUILDING, frozenset(), 0
        if path.circuit is None:
            path.retry_at = now

    def _settle(self, path: RequestedPath) -> None:
        path.settled = self._answered = True

    def _connect(self, path: RequestedPath, mix_path: MixPath, now: float) -> None:
        circuit = self._circuits.anonymous_connection(mix_path, path.destination, now)
        path.circuit, path.mix_path = circuit, mix_path
        self._by_circuit[circuit] = path
        circuit_asked(path)

    def _retry(self, path: RequestedPath, now: float) -> None:
        try:
            self._connect(path, self._choice.select(path, now), now)
        except InternalError:
            raise
        except OverlayError as error:
            self._failed(path, error, now)

    def _opened(self, path: RequestedPath, event: CircuitOpened, now: float) -> None:
        try:
            address = lent_address(event.inner_addresses, path.destination.version)
            self._guard.carry(path.destination, address)
        except (PathError, BackendError) as error:
            self._drop_circuit(path, now)
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
        """Go on over the standby circuit: same exit, same inner address, no step of the guard."""
        self._choice.ended(path, event)
        if self._standbys is not None:
            self._standbys.took_over(path, event, now)
        del self._by_circuit[event.circuit]
        self._by_circuit[event.to] = path

    def _failed(self, path: RequestedPath, error: OverlayError, now: float) -> None:
        """Try another circuit later, and tell who waits after a few attempts.

        What this host refuses, it refuses for every circuit: then one attempt is enough. A
        request of which no path was ever served ends; then nothing of it remains.
        """
        self._choice.blame(path, error)
        self._detach(path)
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

        If one of them carries packets, the others stay guarded: programs may be using the same
        server by both addresses, and the user must decide.
        """
        companions = path.companions
        if any(each.served for each in companions):
            path.state = PathState.REBUILDING
            return False
        if any(each.error is None for each in companions):
            return False
        for each in companions:
            if each.number in self._paths:
                self._drop_circuit(each, now)
                self._end_quietly(each, now)
        return True

    def _lost(self, path: RequestedPath, now: float) -> None:
        lasted = path.opened_at is not None and now >= path.opened_at + _LASTING_S
        path.fleeting = 0 if lasted else path.fleeting + 1
        self._detach(path)
        self._rebuild_later(path, now)

    def _rebuild_later(self, path: RequestedPath, now: float) -> None:
        if path.state is PathState.OPEN:
            path.state = PathState.REBUILDING
        path.retry_at = now + wait_before_s(path.failures + path.fleeting)

    def _part(self, path: RequestedPath, now: float) -> None:
        """Take a path off its circuit for good, and tell who waits for it."""
        self._drop_circuit(path, now)
        path.retry_at = math.inf
        path.error = path.error or PathError("the path was closed while it was being opened.")
        self._settle(path)

    def _drop_circuit(self, path: RequestedPath, now: float) -> None:
        circuit = path.circuit
        self._detach(path)
        if circuit is not None:
            self._circuits.close(circuit, now)

    def _detach(self, path: RequestedPath) -> None:
        """Take the path off its circuit; its destination stays guarded."""
        address = path.carried_address
        if path.circuit is not None:
            self._by_circuit.pop(path.circuit, None)
        path.circuit, path.inner_addresses, path.opened_at = None, (), None
        if self._standbys is not None:
            self._standbys.path_left_its_circuit(path)
        if address is not None:
            try:
                self._guard.uncarry(path.destination, address)
            except BackendError:  # no circuit takes what still goes into the device
                self.guard_refusals += 1

    def _end(self, path: RequestedPath, now: float) -> None:
        """End the guard and forget the path; as long as the host refuses, it is CLOSING."""
        try:
            others = (p.wish for p in self._paths.values() if p is not path)
            self._protection.release(path.wish, others)
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
            self.guard_refusals += 1
