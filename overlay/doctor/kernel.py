"""Check the kernel's IPsec: ESP, algorithms of each suite, ESP in UDP, and what xfrm also needs."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from random import Random, SystemRandom
from typing import Final

from overlay.doctor.findings import Finding, Outcome, Purpose, Setup, tried
from overlay.errors import BackendError
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.algorithms import algorithm_names
from overlay.ipsec.xfrm.encapsulation import decapsulate_esp
from overlay.ipsec.xfrm.netlink import NetlinkError, XfrmSocket, refusal_error
from overlay.ipsec.xfrm.probe import try_suite
from overlay.node.backend_choice import obstacle_of
from overlay.system.filter_choice import find_packet_filter
from overlay.system.flow_labels import try_clearing_flow_labels
from overlay.system.fragmenting_device import try_fragmenting
from overlay.system.packet_filter import PacketFilter

__all__ = ["esp_suites", "flow_labels", "kernel_settings", "large_packets", "udp_encapsulation"]

Verdicts = tuple[NetlinkError | None, NetlinkError | None]
Trial = Callable[[int], Verdicts]

_KERNEL: Final = (Purpose.KERNEL,)
_NO_USE: Final = (Purpose.ADVICE,)


def kernel_settings(setup: Setup) -> list[Finding]:
    """Check with the node's own function whether the kernel supports the configuration."""
    obstacle = obstacle_of(setup.configuration, "xfrm")
    if obstacle is None:
        said = "the kernel supports the configuration"
        return [Finding("settings (kernel)", Outcome.WORKS, said, _KERNEL)]
    said = f"{obstacle.what}; {obstacle.remedy}."
    return [Finding("settings (kernel)", Outcome.LACKS, said, _KERNEL)]


def esp_suites(
    setup: Setup, try_each: Callable[[], dict[int, Verdicts]] | None = None
) -> list[Finding]:
    """Install and remove an SA of each suite, over IPv4 and over IPv6."""
    try:
        verdicts = (try_each or _try_all)()
    except BackendError as error:
        return [Finding("kernel ESP", Outcome.LACKS, str(error), _KERNEL)]
    general = _general_refusal(list(verdicts.values()))
    if general is not None:
        said = str(refusal_error("installing a security association", general))
        return [Finding("kernel ESP", Outcome.LACKS, said, _KERNEL)]
    wanted = {setup.configuration.ipsec.link_suite, setup.configuration.ipsec.esp_suite}
    return [
        Finding("kernel ESP", Outcome.WORKS, "SAs were installed and removed", _KERNEL),
        *(_suite(number, verdicts[number], wanted) for number in verdicts),
    ]


def _general_refusal(verdicts: Sequence[Verdicts]) -> NetlinkError | None:
    """Return the error that explains why no suite works, None if at least one suite works.

    EPROTONOSUPPORT is preferred, because it means that the kernel has no ESP at all.
    """
    refusals = [next((each for each in pair if each), None) for pair in verdicts]
    told = [each for each in refusals if each is not None]
    if len(told) < len(refusals):
        return None
    no_esp = [each for each in told if each.number == errno.EPROTONOSUPPORT]
    return next(iter(no_esp or told), None)


def _suite(number: int, verdicts: Verdicts, wanted: set[int]) -> Finding:
    suite = SUITES[number]
    subject = f"kernel {suite.name}"
    needed_for = _KERNEL if number in wanted else _NO_USE
    names = ", ".join(algorithm_names(suite))
    refusal = next((each for each in verdicts if each), None)
    if refusal is None:
        return Finding(subject, Outcome.WORKS, names, needed_for)
    family = "IPv4" if verdicts[0] else "IPv6"
    sentence = str(
        refusal_error(f"installing a security association over {family} with {names}", refusal)
    )
    return Finding(subject, Outcome.LACKS, sentence, needed_for)


def _try_all(rng: Random | None = None) -> dict[int, Verdicts]:
    with XfrmSocket() as netlink:
        return {number: try_suite(netlink, rng or SystemRandom(), number) for number in SUITES}


def udp_encapsulation(
    setup: Setup, decapsulate: Callable[[socket.socket], None] = decapsulate_esp
) -> list[Finding]:
    """Set the option for ESP in UDP on a new UDP socket of each IP version."""
    listening = {":" in endpoint.host for endpoint in setup.configuration.network.listen}
    return [
        _encapsulation(family, is_ipv6 in listening, decapsulate)
        for is_ipv6, family in ((False, socket.AF_INET), (True, socket.AF_INET6))
    ]


def _encapsulation(
    family: socket.AddressFamily, used: bool, decapsulate: Callable[[socket.socket], None]
) -> Finding:
    name = "IPv4" if family == socket.AF_INET else "IPv6"

    def attempt() -> str:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as fresh:
                decapsulate(fresh)
        except OSError as error:
            raise BackendError(
                f"opening a UDP socket over {name} failed ({error.strerror}): "
                "use a kernel with that IP version, or listen only on the other one."
            ) from error
        return "the kernel decapsulates ESP from UDP"

    return tried(f"ESP in UDP over {name}", _KERNEL if used else _NO_USE, attempt)


def flow_labels(
    _setup: Setup,
    find: Callable[[], PacketFilter] = find_packet_filter,
    attempt: Callable[[], None] = try_clearing_flow_labels,
) -> list[Finding]:
    """Clear IPv6 flow labels as the kernel backend does; it does not run without this."""

    def clear() -> str:
        if find().clears_flow_labels:
            return "the packet filter clears them"
        attempt()
        return "traffic control clears them, because iptables cannot"

    return [tried("IPv6 flow labels", _KERNEL, clear)]


def large_packets(_setup: Setup, attempt: Callable[[], None] = try_fragmenting) -> list[Finding]:
    """Create and remove the device that fragments large packets; the node runs without it."""

    def cut() -> str:
        attempt()
        return "over IPv4 they are fragmented before the kernel encrypts them"

    return [tried("packets larger than the inner MTU", _NO_USE, cut)]
