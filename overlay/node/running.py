"""A node that runs: its cores, and the tasks that drive them with sockets, devices and time.

::

    nursery ─┬─ readers of the UDP ports  batch -> NodeCores (overlay.node.shells.reception)
             ├─ tasks of the backend      TUN devices, or control sockets and kernel events
             └─ timers                    sleep to the next deadline, or until woken

No task waits between reading the state of a core and acting on it, so a batch is processed as a
whole. Code that changes a core from outside calls :meth:`RunningNode.settle`, which also wakes the
timers.

Invalid bytes of a peer are counted inside the cores. If the host refuses something, the path, link
or task concerned fails. Other failures are bugs, or the loss of a socket or of the exit's device.
Then the task's supervisor records the failure and the node ends. All destinations stay blocked.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from random import Random

import trio

from overlay.addresses import Endpoint, InnerAddress
from overlay.clock import Clock
from overlay.config import Configuration
from overlay.dht.descriptor import RESIGN_INTERVAL_S, Role, is_public
from overlay.dht.messages import Contact
from overlay.dht.topology_store import TopologyStore
from overlay.errors import BackendError, ConfigurationError, InternalError, OverlayError
from overlay.identity import LocalIdentity
from overlay.logs import EventLog, Word
from overlay.node.assembly import Surroundings, wire_cores
from overlay.node.backend_choice import open_shell
from overlay.node.endpoint_announcer import EndpointAnnouncer
from overlay.node.exit_destinations import refused_addresses
from overlay.node.exit_role import families_of
from overlay.node.exposure import exposed_versions
from overlay.node.inherited import block_first, inherited, permanent_terms, remembered
from overlay.node.inner_use import InnerUse, LentAddresses
from overlay.node.last_signed import LastSigned
from overlay.node.nat_neighbours import NatNeighbours
from overlay.node.node_cores import NodeCores
from overlay.node.own_endpoints import OwnEndpoints
from overlay.node.path_answers import PathAnswers
from overlay.node.path_file import PathFile
from overlay.node.publication import Publication
from overlay.node.sending_report import SendingReport
from overlay.node.shells.clock_steps import ClockReport, follow_steps
from overlay.node.shells.enforcement import Enforcement
from overlay.node.shells.exit_watch import ExitWatch
from overlay.node.shells.operating_system import OperatingSystem
from overlay.node.shells.packet_transport import Arrived, PacketEngine
from overlay.node.shells.reception import PortReaders
from overlay.node.shells.sockets import Sockets
from overlay.paths.requested_path import PathTerms
from overlay.plugin_failures import blamed_plugin
from overlay.trust import insist_on_way

__all__ = ["RunningNode"]

_SAVE_INTERVAL_S = 30.0
_CLOCK_INTERVAL_S = 5.0
_MEET_INTERVAL_S = 5.0
_SENDING_INTERVAL_S = 2.0
_CLOSE_GRACE_S = 0.3
"""How long a stopping node keeps its sockets open, so that its goodbyes leave."""

_log = EventLog(__name__)


class RunningNode:
    """The sockets, devices, files and cores of a node.

    ``failed`` tells whether a task failed. ``left_blocked`` is the number of destinations that
    stayed blocked when the node stopped, None before. ``paths_not_remembered`` counts consecutive
    failures to write the file of paths. ``clock_was_set`` is set if the host's time was set, so
    that this node must start again.
    """

    # Large: the order of the steps matters, so they stand together.
    def __init__(
        self,
        configuration: Configuration,
        identity: LocalIdentity,
        host: OperatingSystem,
        engine: PacketEngine | None,
        rng: Random,
        stack: ExitStack,
    ) -> None:
        """Open what the node needs of the operating system; ``stack`` closes it.

        ``engine`` is a userspace engine that is used whatever the configuration says, or None.

        Raises:
            ConfigurationError: the configuration does not fit this host.
            BackendError: the operating system refused.
        """
        self.configuration = configuration
        self.identity = identity
        self.host = host
        self.clock = Clock.system()
        self.started_at = self.clock.now()
        self.failed = False
        self._stopping = False
        self._leftovers_known = False
        self.left_blocked: int | None = None
        self.paths_not_remembered = 0
        self._files_set_aside = 0
        self._hints: list[Contact] = []
        self.clock_was_set = trio.Event()
        self._last_signed = LastSigned(configuration.node.last_signed_file, self.started_at)
        self._path_file = PathFile.of(configuration)
        try:
            self._remembered = remembered(self._path_file, configuration)
        except BackendError:
            block_first(host, permanent_terms(configuration))
            raise
        unchanged = not self._remembered and self._path_file.is_current
        self._saved_revision = 0 if unchanged else -1
        self._refused_revision = -1
        # Before sockets and devices, so that nothing leaves in the clear if a later step fails.
        protected = block_first(host, self._remembered)
        self._wake = trio.Event()
        self._next_deadline = math.inf
        try:
            insist_on_way(configuration.node.paths_file)  # another user could empty it
            self._open(stack, engine, rng)
            self.cores = self._build_cores(rng)
            self.answers = PathAnswers(self.cores.paths)
            self.publication = Publication(
                configuration,
                identity,
                self.cores.dht,
                suites=self.shell.backend.capabilities().suites,
                published=lambda: self.endpoints.now.published,
                exit_role=self.shell.exit_role,
                next_sequence=self._last_signed.next_sequence,
            )
            self.cores.observe_dht(self.publication.observe)
            network_id = configuration.network.network_id
            self.neighbours = NatNeighbours(identity, network_id, self.cores, self.endpoints)
            self.clock_watch = ClockReport(self.cores.dht.clock_offset)
            self.sending = SendingReport(self.sockets.counters)
        except BaseException:
            if self._remembered and protected:
                _log.warning("kill_switch.kept", destinations=len(self._remembered))
            raise

    @property
    def roles(self) -> frozenset[Role]:
        """The roles that this node offers now: none if other nodes do not reach it."""
        return self.publication.roles

    def _open(self, stack: ExitStack, engine: PacketEngine | None, rng: Random) -> None:
        configuration, network = self.configuration, self.configuration.network
        self.sockets = stack.enter_context(Sockets(network.listen, network.network_id, rng))
        self.endpoints = OwnEndpoints(network, self.sockets.bound, self.host)
        self._store = stack.enter_context(
            TopologyStore(configuration.node.state_dir / "topology.sqlite", network.network_id)
        )
        self.shell = open_shell(configuration, self.host, self.sockets, rng, engine)
        self._inner_use = InnerUse(self.host, self._known_endpoints)
        lent = LentAddresses(self._inner_use, lambda: self.cores.paths.held(), self._give_up)
        parts = (*self.shell.enforced, self.endpoints, lent)
        self.enforcement = Enforcement(parts, self._checked)
        stack.callback(self.shell.close)

    def _build_cores(self, rng: Random) -> NodeCores:
        shell = self.shell
        surroundings = Surroundings(
            network=self.sockets,
            kill_switch=shell.kill_switch,
            local_address=self.sockets.local_endpoint,
            local_addresses=shell.own_addresses,
            forget_inner_addresses=shell.forget,
            marks=self.sockets.marks,
            inner_in_use=self._inner_use.is_used,
            probes_sizes=True,
            probed_packet_bytes=shell.probed_packet_bytes,
            initiations=self._last_signed.initiations,
            send_apart=self.sockets.send_apart,
        )
        return wire_cores(
            self.configuration,
            self.identity,
            surroundings,
            backend=shell.backend,
            datapath=shell.path,
            endpoints=(),
            rng=rng,
        )

    # -- life ------------------------------------------------------------------------

    def start(self, nursery: trio.Nursery) -> None:
        """Restore earlier paths, start the tasks and join the overlay.

        Raises:
            ConfigurationError: this node's own descriptor cannot be published.
            BackendError: remembered state cannot be read.
        """
        self._nursery = nursery
        reception = PortReaders(self.cores, self.clock.now, self._wake_timers, self.sockets.steer)
        for port in self.sockets.ports:
            self.spawn(reception.read_esp, port.esp)
            if port.split is not None:
                self.spawn(reception.read_expected, port.split.expected)
                self.spawn(reception.read_returning, port.split.returning)
                self.spawn(reception.read_strangers, port.split.strangers)
        self.spawn(reception.read_strays)
        self.spawn(follow_steps, self.clock, self.clock_was_set.set)
        self.shell.start(self)
        self.spawn(self.enforcement.run)
        # After the shell's start, which reads the device that restored paths open.
        self._take_over(self.clock.now())
        self.spawn(self._run_timers)
        now = self.clock.now()
        self._learn(now)
        advertise = self.configuration.network.advertise
        self._location = EndpointAnnouncer(
            self.endpoints, self.sockets, self.cores, self._hints, advertise
        )
        self._location.find(self._moved, now)
        self._begin_exit(now)
        self._greet(now)
        self.publication.publish(now)
        self.publication.test(now)
        self._schedule_tasks(now)
        self.settle(now)

    async def stop(self) -> None:
        """Leave the overlay and close every circuit.

        Destinations stay blocked until a node here restores their paths, or the user closes
        them (docs/decisions/0037).
        """
        now, cores = self.clock.now(), self.cores
        self._stopping = True
        cores.periodic_tasks.cancel_all()
        self._refused_revision = -1
        self.remember_paths()
        self.note_blocked()
        cores.paths.leave_blocked(now)
        cores.circuits.close_all(now)
        if not (self.clock_was_set.is_set() or self.clock_watch.problem(now)):
            # LEAVE removes all descriptors up to now. If the clock was ahead, it would also remove
            # those that the node signs next.
            cores.dht.leave(now)
        cores.settle(now)
        with trio.move_on_after(_CLOSE_GRACE_S):
            await self._run_timers()
        now = self.clock.now()
        cores.links.close_all(now)
        cores.settle(now)
        try:
            self._save(now)
        except (BackendError, ConfigurationError):  # only a cache, which the next start fills again
            _log.warning("topology.not_saved")

    def note_blocked(self) -> None:
        """Log how many destinations the node leaves blocked, however it ends."""
        self.left_blocked = self.blocked_count()
        if self.left_blocked:
            _log.warning("kill_switch.kept", destinations=self.left_blocked)
        if self.unprotected_count():
            _log.error("kill_switch.not_protected", destinations=self.unprotected_count())

    def blocked_count(self) -> int:
        """Return how many destinations and IP versions are blocked or carried."""
        paths = self.cores.paths
        return len(paths.all()) + len(paths.left_blocked) - self.unprotected_count()

    def unprotected_count(self) -> int:
        """Return how many destinations and IP versions must be blocked and are not."""
        prefixes = self.shell.kill_switch.unprotected().prefixes
        paths = self.cores.paths
        lacking = sum(path.destination in prefixes for path in paths.all())
        return lacking + len(exposed_versions(prefixes) & paths.left_blocked)

    def settle(self, now: float) -> None:
        """Process the consequences of a change from outside the cores."""
        self._take_over_late(now)
        self.remember_paths()
        self.cores.settle(now)
        self._wake_timers()

    def _learn(self, now: float) -> None:
        """Read the topology and the hints that earlier runs stored."""
        self._report_set_aside()
        for descriptor in self._store.load(now).descriptors:
            self.cores.table.add(descriptor, now)
        self._hints = [
            Contact.of(each.identity_key, each.endpoint) for each in self._store.bootstrap_hints()
        ]

    def _moved(self, seen: bool) -> None:
        """Process a change of this host's addresses or routes: sign, publish and renew links.

        Nothing is sent if other nodes cannot see the change.
        """
        if self._stopping:
            return
        now = self.clock.now()
        self._location.tell(now, moved=seen)
        if seen:
            try:
                self.publication.publish(now)
            except ConfigurationError as error:
                _log.warning("descriptor.not_signed", cause=Word(type(error).__name__))
            self.publication.test(now)
        self.settle(now)

    def _greet(self, now: float) -> None:
        """Contact remembered nodes and the configured bootstrap peers."""
        cores = self.cores
        cores.dht.seed(cores.table.view(now), now)
        cores.dht.remember(self._hints, now)
        peers = self.configuration.network.bootstrap
        private = self.configuration.network.allow_private_endpoints
        cores.dht.bootstrap([peer for peer in peers if private or is_public(peer)], now)

    def _schedule_tasks(self, now: float) -> None:
        tasks = self.cores.periodic_tasks
        resign_at = now + RESIGN_INTERVAL_S
        tasks.every(RESIGN_INTERVAL_S, "publish", self.publication.publish, first=resign_at)
        tasks.every(_MEET_INTERVAL_S, "meet", self.neighbours.review, first=now + 1)
        tasks.every(_CLOCK_INTERVAL_S, "clock", self.clock_watch.check, first=now + 1)
        tasks.every(_SENDING_INTERVAL_S, "sending", self.sending.check, first=now + 1)
        tasks.every(_SAVE_INTERVAL_S, "save", self._save, first=now + _SAVE_INTERVAL_S / 10)

    def _take_over(self, now: float) -> None:
        """Restore paths of earlier processes and permanent ones; all are blocked already."""
        self._adopt(self._remembered, self._remembered, now)

    def _take_over_late(self, now: float) -> None:
        """Adopt what the kernel blocks, as soon as this process owns the kill switch."""
        if not self._leftovers_known and self.shell.kill_switch.is_open and not self._stopping:
            self._adopt(self.cores.paths.all_terms(), (), now)

    @property
    def damaged_entries(self) -> int:
        """Number of entries of the file of paths that could not be used at the start."""
        return self._path_file.damaged

    def _adopt(self, known: Sequence[PathTerms], wanted: Sequence[PathTerms], now: float) -> None:
        """Adopt ``wanted`` paths, and what the kernel blocks beside the ``known`` ones."""
        configuration, paths = self.configuration, self.cores.paths
        leftovers = self.shell.kill_switch.leftovers()
        self._leftovers_known = self.shell.kill_switch.is_open
        left = inherited(known, leftovers, configuration)
        new = [terms for terms in left.all_terms if terms in wanted or terms not in known]
        permanent = frozenset(configuration.paths.permanent)
        without = paths.adopt_all(new, now, permanent=permanent, blocked=left.blocked)
        if new or left.blocked:
            _log.info("paths.restored", paths=len(new) - without)
        if without:
            _log.warning("paths.too_many", blocked_without_path=without)
        self.remember_paths()

    def _checked(self) -> None:
        """Process the consequences of a check of the kill switch."""
        if not self._leftovers_known and self.shell.kill_switch.is_open:
            self.settle(self.clock.now())

    def remember_paths(self) -> None:
        """Write the paths to the disk if they have changed; a failed write is repeated later."""
        paths = self.cores.paths
        if self.left_blocked is not None:
            return  # a stopping node has no paths any more, but the file must keep them
        if paths.revision in (self._saved_revision, self._refused_revision):
            return
        try:
            self._path_file.save(paths.all_terms())
        except BackendError:
            if not self.paths_not_remembered:
                _log.warning("paths.not_remembered")
            self.paths_not_remembered += 1
            self._refused_revision = paths.revision
            return
        self._saved_revision, self.paths_not_remembered = paths.revision, 0

    # -- tasks -----------------------------------------------------------------------

    def now(self) -> float:
        """Return the time on the node's clock."""
        return self.clock.now()

    def take(self, arrived: Arrived) -> None:
        """Pass packets to the cores that did not come from the UDP port."""
        if self.cores.arrived(arrived, self.clock.now()):
            self._wake_timers()

    def spawn(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run a task as long as the node runs; its failure ends the node."""
        self._nursery.start_soon(self._supervise, task, *arguments)

    async def _supervise(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run a task for as long as the node runs; its failure ends the node.

        Raises:
            InternalError: the task failed because of a bug.
            PluginError: the task failed in a line of a plug-in.
            OverlayError: the task failed for another reason.
        """
        try:
            await task(*arguments)
        except OverlayError as error:
            self.failed = True
            _log.error("node.failed", cause=error)
            raise
        except Exception as error:
            self.failed = True
            blamed = blamed_plugin(error)
            if blamed is not None:
                _log.error("node.plugin_failed", cause=error)
                raise blamed from error
            _log.error("node.bug", cause=error)
            raise InternalError(f"a task of the node failed ({type(error).__name__})") from error

    async def _run_timers(self) -> None:
        while True:
            self._next_deadline = self.cores.next_deadline()
            with trio.move_on_at(self.clock.to_trio(self._next_deadline)):
                await self._wake.wait()
            self.cores.handle_deadline(self.clock.now())
            self.answers.announce()
            self.remember_paths()

    def _wake_timers(self) -> None:
        self.answers.announce()
        # Not for every batch, because then each datagram of any sender would run all timers.
        if self.cores.next_deadline() < self._next_deadline:
            self._wake.set()
            self._wake = trio.Event()

    def _known_endpoints(self) -> Iterator[Endpoint]:
        """Yield the endpoints of other nodes and of this one."""
        yield from (*self.configuration.network.bootstrap, *self.endpoints.now.accepted)
        for mix in self.cores.table:
            yield from mix.endpoints

    def _give_up(self, taken: frozenset[InnerAddress]) -> None:
        """Build paths again whose inner addresses are now used by something else."""
        now = self.clock.now()
        self.cores.paths.give_up(taken, now)
        self.settle(now)

    # -- periodic tasks ------------------------------------------------------------

    def _begin_exit(self, now: float) -> None:
        """Test the exit role before a descriptor is signed, and after each change of the host.

        Raises:
            ConfigurationError: a pool of inner addresses is in use on this host.
        """
        role = self.shell.exit_role
        if role is None:
            return
        watch = ExitWatch(
            role,
            self._refuse_own,
            lent=lambda: self.cores.circuits.lend(families_of(role.lent)),
            changed=self._exit_changed,
        )
        watch.begin()
        self.cores.circuits.offer_exit(families_of(role.offered), now)
        self.spawn(watch.run)

    def _exit_changed(self) -> None:
        """Offer only the IP versions that work at the exit; circuits over others end."""
        if self._stopping:
            return
        now = self.clock.now()
        role = self.shell.exit_role
        if role is not None:
            self.cores.circuits.offer_exit(families_of(role.offered), now)
            self.cores.circuits.lend(families_of(role.lent))
        self.publication.publish(now)
        self.settle(now)

    def _refuse_own(self) -> None:
        """Refuse this host's public addresses and routers as destinations of circuits."""
        endpoints = (*self.endpoints.now.published, *self.configuration.network.advertise)
        self.shell.refuse_destinations(refused_addresses(endpoints, self.host.gateways()))

    def _save(self, now: float) -> None:
        self._refused_revision = -1
        self.remember_paths()
        table = self.cores.table
        self._store.save(table, now, never_heard=table.never_heard())
        self._report_set_aside()

    def _report_set_aside(self) -> None:
        while self._files_set_aside < len(self._store.set_aside):
            self._files_set_aside += 1
            _log.warning("topology.damaged_file_set_aside")
