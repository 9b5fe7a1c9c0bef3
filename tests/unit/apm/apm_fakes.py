"""A strict backend that records, and one manager driven by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from random import Random

from apm_lab import INNER_V4, INNER_V6, describe, lab_settings

from overlay.addresses import Endpoint, OverlayAddress
from overlay.apm.carrier import SIGNALLING_PORT
from overlay.apm.control import CONTROL_PORT, ControlMessage, encode_control, parse_control
from overlay.apm.datagram import UdpDatagram, build_datagram, parse_datagram
from overlay.apm.inner_addresses import InnerAddressPool
from overlay.apm.settings import ApmSettings
from overlay.apm.signalling import SignallingManager
from overlay.apm.spi import SpiAllocator
from overlay.dht.descriptor import MixDescriptor
from overlay.errors import BackendError
from overlay.identity import LocalIdentity
from overlay.ipsec.interface import (
    BackendCapabilities,
    IpsecConfiguration,
    SaCounters,
    SaIdentity,
    SecurityAssociation,
    Spi,
)
from overlay.link.security import LinkSecurity
from overlay.work_budget import WorkBudget

NOW = 1_700_000_000.0


class FakeBackend:
    """An IpsecBackend that holds configurations, counts use by hand, and forbids nonsense."""

    def __init__(self, log: list[str] | None = None) -> None:
        self.installed: list[IpsecConfiguration] = []
        self.used: dict[SaIdentity, float] = {}
        self.fail = False
        self.log = log if log is not None else []
        self.max_templates = 6

    def capabilities(self) -> BackendCapabilities:
        return BackendCapabilities("fake", frozenset({1, 3}), self.max_templates)

    def install(self, configuration: IpsecConfiguration) -> None:
        self.log.append("install")
        if self.fail:
            raise BackendError("the kernel said no")
        held = {(p.direction, p.selector) for c in self.installed for p in c.policies}
        new = [(p.direction, p.selector) for p in configuration.policies]
        if held & set(new) or len(new) != len(set(new)):
            raise ValueError("a policy with the same selector is installed")
        known = {(sa.identity, sa.inbound) for c in self.installed for sa in c.associations}
        if known & {(sa.identity, sa.inbound) for sa in configuration.associations}:
            raise ValueError("an SA with the same identity is installed")
        self.installed.append(configuration)

    def remove(self, configuration: IpsecConfiguration) -> None:
        """Take the parts away one by one, as the real ones do; absent ones are no error."""
        self.log.append("remove")
        left = []
        for held in self.installed:
            sas = tuple(sa for sa in held.associations if sa not in configuration.associations)
            policies = tuple(each for each in held.policies if each not in configuration.policies)
            if sas or policies:
                left.append(replace(held, associations=sas, policies=policies))
        self.installed[:] = left

    def associations(self) -> list[SecurityAssociation]:
        """All SAs, in the order of their installation."""
        return [sa for held in self.installed for sa in held.associations]

    def query(self, identity: SaIdentity) -> SaCounters | None:
        for configuration in self.installed:
            for sa in configuration.associations:
                if sa.identity == identity:
                    used = self.used.get(identity)
                    return SaCounters(int(used is not None), 0, 0, used or 0.0)
        return None

    def flush(self) -> None:
        raise AssertionError("nobody flushes in the middle")


class RecordingSpis(SpiAllocator):
    def __init__(self, rng: Random, log: list[str]) -> None:
        super().__init__(rng)
        self._log = log

    def allocate(self) -> Spi:
        self._log.append("generate SPI")
        return super().allocate()


class RecordingRandom(Random):
    """Tells when a symmetric key is drawn: the only draw of 32 bytes."""

    def __init__(self, seed: int, log: list[str]) -> None:
        super().__init__(seed)
        self._log = log

    def randbytes(self, n: int) -> bytes:
        if n == 32:
            self._log.append("generate key")
        return super().randbytes(n)


@dataclass
class Actor:
    """One node driven by hand: its manager, its fake backend, and what it says."""

    seed: int
    settings: ApmSettings = field(default_factory=lab_settings)
    exit_role: bool = True
    relay: bool = True
    where: Endpoint | None = None
    inner_v4: IPv4Network = INNER_V4
    make_backend: type[FakeBackend] = FakeBackend
    budget: WorkBudget | None = None
    inner_in_use: Callable[[bytes], bool] = lambda _: False

    def __post_init__(self) -> None:
        self.log: list[str] = []
        self.identity = LocalIdentity.generate(Random(self.seed))
        self.backend = self.make_backend(self.log)
        rng = RecordingRandom(self.seed + 1000, self.log)
        self.spis = RecordingSpis(Random(self.seed + 2000), self.log)
        self.pool = InnerAddressPool(self.inner_v4, INNER_V6, Random(self.seed + 3000))
        self.manager = SignallingManager(
            self.identity,
            self.backend,
            self.spis,
            self.settings,
            rng,
            self.pool if self.exit_role else None,
            self.relay,
            inner_in_use=self.inner_in_use,
            budget=self.budget,
        )

    @property
    def address(self) -> OverlayAddress:
        return self.identity.overlay_address

    @property
    def endpoint(self) -> Endpoint:
        return self.where or Endpoint(f"10.1.0.{self.seed}", 4500)

    @property
    def descriptor(self) -> MixDescriptor:
        return describe(self.identity, self.endpoint)

    def link_to(self, other: Actor, now: float = NOW) -> None:
        security = LinkSecurity(other.seed, self.endpoint.packed, other.endpoint.packed)
        self.manager.link_established(other.address, security, now)

    def sends(self, now: float = NOW) -> list[UdpDatagram]:
        return [parse_datagram(packet) for packet in self.manager.packets_to_send(now)]

    def hears(self, *datagrams: UdpDatagram, now: float = NOW) -> None:
        self.manager.receive([build_datagram(datagram) for datagram in datagrams], now)

    def event_names(self) -> list[str]:
        return [type(event).__name__ for event in self.manager.events()]


def onions(datagrams: list[UdpDatagram]) -> list[UdpDatagram]:
    return [d for d in datagrams if d.destination_port == SIGNALLING_PORT and d.payload[0] == 1]


def acks(datagrams: list[UdpDatagram]) -> list[UdpDatagram]:
    return [d for d in datagrams if d.destination_port == SIGNALLING_PORT and d.payload[0] == 2]


def controls(datagrams: list[UdpDatagram]) -> list[ControlMessage]:
    return [parse_control(d.payload) for d in datagrams if d.destination_port == CONTROL_PORT]


def control(source: bytes, destination: bytes, message: ControlMessage) -> UdpDatagram:
    return UdpDatagram(source, destination, CONTROL_PORT, CONTROL_PORT, encode_control(message))
