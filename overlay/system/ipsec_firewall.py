"""Packet filter and kernel settings of a node whose circuits the kernel's IPsec carries.

::

    outside, in the clear ──> to or from an overlay or circuit address ──> drop
    IPsec ──> to an overlay or circuit address here: ESP, control (UDP)    accept, else drop
    IPsec ──> to such an address, and larger than any link surely carries           mark
    forwarded, to or from such an address ──> a policy will encapsulate it, else drop
    anything ──> out, to such an address: one layer of an onion              normalise
    anything ──> out, to or from such an address, in the clear             drop

Security policies already block most of these packets. The filter is a second, independent
mechanism, as for the kill switch. ICMP between neighbours is dropped as well. Its packet sizes
could show an exit how long the path is, and any host could send false errors to a relay.

Every layer that the kernel adds to a packet passes the last hook separately. There its header
fields are normalised. So values that an earlier hop set end here, and no hop can find out which
backend the previous hop uses.

IPv6 has one setting for forwarding on all devices. If it was off before, this filter drops
forwarded packets that neither came out of a tunnel nor go into one.
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
"""Size in bytes that every link carries, even with one more layer and the largest suite."""

_ESP: Final = 50
_UDP: Final = 17


class IpsecFirewall:
    """All changes of the kernel backend besides SAs and policies; a context manager.

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
        """Prepare; nothing is changed yet.

        Args:
            control_ports: UDP ports for control messages at overlay and circuit addresses.
            forwards: whether the node carries circuits of other nodes.
            cuts_links: whether there is a ``LinkDetour`` for packets that are too large for links.
            packet_filter: the packet filter to use; None selects the host's.

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
        """Undo the changes of a killed node, then install filter and settings; all or nothing.

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
        """Restore the settings and remove the filter; may be called repeatedly."""
        self._kept.forget()
        self._wanted = []
        self._notes = ()
        restore_noted(self._filter, _FILTER_NAME)

    def hear(self, events: Collection[HostEvent]) -> None:
        """Ignore events, because :meth:`repair` reads the whole state."""

    def disturbed(self) -> bool:
        """Tell whether another program changed the filter or a setting of the whole host.

        Settings of devices are left to :meth:`repair`, which runs when a device appears.
        """
        return not self._kept.intact() or bool(self._changed_settings(of_devices=False))

    def missing(self) -> tuple[str, ...]:
        """Return the names of the parts that are missing or changed in the kernel.

        Raises:
            BackendError: the state could not be read.
        """
        lost = {_FILTER: not self._kept.intact(), _SETTINGS: bool(self._lost_settings())}
        return tuple(name for name, is_lost in lost.items() if is_lost)

    def repair(self) -> tuple[str, ...]:
        """Restore what another program removed; return the names of the missing parts.

        Raises:
            BackendError: the kernel refused.
        """
        lost = self._lost_settings()
        repaired = (_FILTER,) if self._kept.repair() else ()
        if lost:
            self._change(lost)
        return (*repaired, _SETTINGS) if lost else repaired

    def _change(self, settings: list[KernelSetting]) -> None:
        """Note the current values of settings, then change them; a setting keeps its first note."""
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
        """Return settings that other programs changed, and settings of new devices."""
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
        # The kernel copies the flow label of a program's socket into every onion layer.
        settings = [("net/ipv6/auto_flowlabels", "0")]
        if self._forwards:
            settings += accept_advertisements()
            settings.append((_FORWARDING, "1"))
        return settings


# Large: one list of rules, whose order matters.
def wall_rules(
    control_ports: Iterable[int], *, closed: bool, cuts_links: bool = False
) -> tuple[Rule, ...]:
    """Return the filter rules.

    Args:
        control_ports: UDP ports for control messages.
        closed: whether this host did not forward IPv6 before.
        cuts_links: whether to mark packets that may be too large for a link.
    """
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
