"""Find the ESP suites that this kernel supports by installing an SA of each.

This also makes the kernel load its modules. The trial SAs exist for a millisecond, between
addresses that no host has, and with random keys that are not used again. A suite counts if it works
for links (IPv4, in UDP) and for onion SAs (IPv6).
"""

from __future__ import annotations

import errno
from random import Random
from typing import Final

from overlay.addresses import CIRCUIT_PREFIX, Endpoint
from overlay.ipsec.interface import MIN_SPI, SecurityAssociation, Spi, UdpEncapsulation
from overlay.ipsec.suites import SUITES
from overlay.ipsec.xfrm.entries import MAX_REQID
from overlay.ipsec.xfrm.forms import association_body, sa_id_body
from overlay.ipsec.xfrm.messages import XFRM_MSG_DELSA, XFRM_MSG_NEWSA
from overlay.ipsec.xfrm.netlink import CREATE, NetlinkError, Request, XfrmSocket, refusal_error
from overlay.sensitive import SecretBytes

__all__ = ["try_suite", "usable_suites"]

_LINK_ENDS: Final = (Endpoint("192.0.2.1", 4500), Endpoint("192.0.2.2", 4500))
"""Addresses for documentation (RFC 5737), which no peer has."""

_ONION_ENDS: Final = (CIRCUIT_PREFIX + bytes(11) + b"\1", CIRCUIT_PREFIX + bytes(11) + b"\2")


def usable_suites(netlink: XfrmSocket, rng: Random, *, experiment: bool) -> frozenset[int]:
    """Return the suites that this kernel supports.

    Raises:
        BackendError: it supports none, because of a missing permission or without ESP.
    """
    usable: set[int] = set()
    refusals: list[NetlinkError] = []
    for number, suite in SUITES.items():
        if suite.experiment and not experiment:
            continue
        refusal = next((each for each in try_suite(netlink, rng, number) if each), None)
        if refusal is None:
            usable.add(number)
        else:
            refusals.append(refusal)
    if not usable:
        no_esp = [each for each in refusals if each.number == errno.EPROTONOSUPPORT]
        raise refusal_error("installing a security association", (no_esp or refusals)[0])
    return frozenset(usable)


def try_suite(
    netlink: XfrmSocket, rng: Random, suite: int
) -> tuple[NetlinkError | None, NetlinkError | None]:
    """Install and remove SAs of a suite; return the kernel's errors, None for success.

    The first result is that of a link SA (IPv4, in UDP), the second that of an onion SA (IPv6).
    """
    trials = [_link(rng, suite), _onion(rng, suite)]
    verdicts = netlink.send(
        [Request(XFRM_MSG_NEWSA, association_body(each), CREATE) for each in trials]
    )
    installed = [each for each, verdict in zip(trials, verdicts, strict=True) if verdict is None]
    netlink.send([Request(XFRM_MSG_DELSA, sa_id_body(each.identity)) for each in installed])
    return verdicts[0], verdicts[1]


def _link(rng: Random, suite: int) -> SecurityAssociation:
    source, destination = _LINK_ENDS
    encapsulation = UdpEncapsulation(source, destination)
    return _association(rng, suite, (source.packed, destination.packed), encapsulation)


def _onion(rng: Random, suite: int) -> SecurityAssociation:
    return _association(rng, suite, _ONION_ENDS, None)


def _association(
    rng: Random, suite: int, ends: tuple[bytes, bytes], encapsulation: UdpEncapsulation | None
) -> SecurityAssociation:
    return SecurityAssociation(
        spi=Spi(rng.randrange(MIN_SPI, 2**32)),
        reqid=MAX_REQID,
        source=ends[0],
        destination=ends[1],
        suite=suite,
        keymat=SecretBytes(rng.randbytes(SUITES[suite].keymat_bytes)),
        inbound=False,
        encapsulation=encapsulation,
    )
