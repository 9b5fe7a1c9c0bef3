"""The packet filter and the settings of a host whose kernel carries circuits.

::

    outside, in the clear ──> to or from an overlay or circuit address ──> drop
    IPsec ──> to an overlay or circuit address here: ESP, control (UDP)    accept, else drop
    IPsec ──> to such an address, and larger than any link surely carries           mark
    forwarded, to or from such an address ──> a policy will encapsulate it, else drop
    anything ──> out, to such an address: one layer of an onion              normalise
    anything ──> out, to or from such an address, in the clear             drop

Security policies alone would do most of it; two walls are better than one, as for the guard of
destinations. ICMP between neighbours is dropped as well: it could tell an exit how long the
path is (by packet sizes), and a relay what a stranger wants it to believe.

Every layer that the kernel wraps around a packet passes the last hook by itself, so what a
predecessor wrote into a header ends here, and no hop can tell by one which backend the hop before
it runs.

IPv6 knows one switch for forwarding on all devices. If it was off, this filter keeps what is
neither out of nor into a tunnel where it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, Self

from overlay.addresses import OVERLAY_NETWORKS
from overlay.system.filter_choice import chosen_filter
from overlay.system.host_events import HostEvent
from overlay.system.kept_table import KeptTable
from overlay.system.kernel_settings import KernelSetting, change_setting, read_setting
from overlay.system.kill_switch import NODE_MARK
from overlay.system.normalisation import normalising_rules
from overlay.system.noted_settings import noted, restore_noted
from overlay.system.packet_filter import FilterTable, Hook, PacketFilter, Rule, Verdict
from overlay.system.router_advertisements import accept_advertisements

__all__ = ["IpsecFirewall", "wall_rules"]

_FILTER_NAME: Final = "ipsec"
_FILTER: Final = "packet filter of IPsec"
_SETTINGS: Final = "kernel settings"
_FORWARDING: Final = "net/ipv6/conf/all/forwarding"
_SURELY_CARRIED: Final = 1280
"""Bytes that fit a link, also with a layer around them, and with the largest suite."""

_ESP: Final = 50
_UDP: Final = 17


class IpsecFirewall:
    """What a node's kernel backend changes beside SAs and policies; a context manager.

    Its owner must own the kernel's IPsec in this network namespace (``XfrmBackend`` does).
    """

    def __init__(
        self,
        control_ports: Iterable[int],
        *,
        forwards: bool,
        cuts_links: bool = False,
        packet_filter: PacketFilter | None = None,
    ) -> None:
        """Describe it; nothing is changed yet.

        Args:
            control_ports: UDP ports that overlay and circuit addresses answer at.
            forwards: whether the circuits of others pass.
            cuts_links: whether there is a ``LinkDetour`` for packets that fit no link.
            packet_filter: the host's if None.

        Raises:
            BackendError: no packet filter works here.
        """
        self._ports = tuple(control_ports)
        self._forwards = forwards
        self._cuts_links = cuts_links
        self._filter = chosen_filter(packet_filter)
        self._kept = KeptTable(self._filter)
        self._wanted: list[KernelSetting] = []
        self._rules: tuple[Rule, ...] = ()
        self._notes: tuple[str, ...] = ()

    def install(self) -> None:
        """Undo what a killed node left, then stand; all or nothing.

        Raises:
            BackendError: the kernel refused.
        """
        restore_noted(self._filter, _FILTER_NAME)
        settings = self._settings()
        closed = self._forwards and read_setting(_FORWARDING) == "0"
        self._rules = wall_rules(self._ports, closed=closed, cuts_links=self._cuts_links)
        try:
            self._change(settings)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Restore the settings and remove the filter; harmless if repeated."""
        self._kept.forget()
        self._wanted = []
        self._notes = ()
        restore_noted(self._filter, _FILTER_NAME)

    def hear(self, events: Collection[HostEvent]) -> None:
        """Take note of nothing: :meth:`repair` looks at everything."""

    def disturbed(self) -> bool:
        """Tell whether the filter or a setting of the whole host is not as it was made.

        Settings of devices are left to :meth:`repair`, which runs when a device appears.
        """
        return not self._kept.intact() or bool(self._changed_settings(of_devices=False))

    def missing(self) -> tuple[str, ...]:
        """Return the names of what the kernel does not hold.

        Raises:
            BackendError: the kernel did not tell.
        """
        lost = {_FILTER: not self._kept.intact(), _SETTINGS: bool(self._lost_settings())}
        return tuple(name for name, is_lost in lost.items() if is_lost)

    def repair(self) -> tuple[str, ...]:
        """Put back what another program removed; return the names of what was missing.

        Raises:
            BackendError: the kernel refused.
        """
        lost = self._lost_settings()
        repaired = (_FILTER,) if self._kept.repair() else ()
        if lost:
            self._change(lost)
        return (*repaired, _SETTINGS) if lost else repaired

    def _change(self, settings: list[KernelSetting]) -> None:
        """Change settings after their values of now are noted; a first note stays."""
        known = {note.partition("=")[0] for note in self._notes}
        new = noted(each for each in settings if each[0] not in known)
        if new or not self._kept.installed:
            notes = (*self._notes, *new)
            self._kept.install(FilterTable(_FILTER_NAME, NODE_MARK, self._rules, notes))
            self._notes = notes
        self._wanted = list((dict(self._wanted) | dict(settings)).items())
        for name, value in settings:
            change_setting(name, value)

    def _lost_settings(self) -> list[KernelSetting]:
        """Return the settings that others changed, and those of devices that appeared."""
        if not self._kept.installed:
            return []
        lost = self._changed_settings(of_devices=True)
        known = dict(lost)
        appeared = accept_advertisements() if self._forwards else []
        return [*lost, *(each for each in appeared if each[0] not in known)]

    def _changed_settings(self, *, of_devices: bool) -> list[KernelSetting]:
        found = (
            (name, value, read_setting(name))
            for name, value in self._wanted
            if of_devices or name == _FORWARDING or "/conf/" not in name
        )
        return [(name, value) for name, value, now in found if now not in (None, value)]

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _settings(self) -> list[KernelSetting]:
        # A flow label that programs' sockets choose would be copied into every onion layer.
        settings = [("net/ipv6/auto_flowlabels", "0")]
        if self._forwards:
            settings += accept_advertisements()
            settings.append((_FORWARDING, "1"))
        return settings


def wall_rules(
    control_ports: Iterable[int], *, closed: bool, cuts_links: bool = False
) -> tuple[Rule, ...]:
    """Return the filter; ``closed`` if this host forwarded no IPv6 for anybody before."""
    rules = [
        Rule(hook=hook, verdict=Verdict.ACCEPT, in_device="lo")
        for hook in (Hook.PREROUTING, Hook.INPUT)
    ]
    rules.append(Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, out_device="lo"))
    for network in OVERLAY_NETWORKS:
        onion = Rule(hook=Hook.POSTROUTING, verdict=Verdict.ACCEPT, destination=network)
        rules += normalising_rules(onion)
        rules += [
            Rule(hook=Hook.PREROUTING, verdict=Verdict.DROP, destination=network, ipsec_in=False),
            Rule(hook=Hook.PREROUTING, verdict=Verdict.DROP, source=network, ipsec_in=False),
            Rule(hook=Hook.INPUT, verdict=Verdict.ACCEPT, destination=network, protocol=_ESP),
        ]
        if cuts_links:
            rules.append(
                Rule(
                    hook=Hook.PREROUTING,
                    verdict=Verdict.LARGE,
                    destination=network,
                    longer_than=_SURELY_CARRIED,
                    ipsec_in=True,
                )
            )
        rules += [
            Rule(
                hook=Hook.INPUT,
                verdict=Verdict.ACCEPT,
                destination=network,
                protocol=_UDP,
                ports=(port, port),
            )
            for port in control_ports
        ]
        rules.append(Rule(hook=Hook.INPUT, verdict=Verdict.DROP, destination=network))
        for hook in (Hook.FORWARD, Hook.POSTROUTING):
            rules += [
                Rule(hook=hook, verdict=Verdict.DROP, destination=network, ipsec_out=False),
                Rule(hook=hook, verdict=Verdict.DROP, source=network, ipsec_out=False),
            ]
    rules += [
        Rule(
            hook=Hook.INPUT,
            verdict=Verdict.DROP,
            version=6,
            protocol=_UDP,
            ports=(port, port),
            ipsec_in=False,
        )
        for port in control_ports
    ]
    if closed:
        rules.append(
            Rule(
                hook=Hook.FORWARD, verdict=Verdict.DROP, version=6, ipsec_in=False, ipsec_out=False
            )
        )
    return tuple(rules)
