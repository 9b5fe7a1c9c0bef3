"""Checks that every IPsec backend passes: configurations in, counters out.

A backend outside this tree runs the same checks in its own tests::

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_my_backend_conforms(check):
        backend = MyBackend(rng=random.SystemRandom())
        check(backend)
        backend.flush()

Each check needs a backend that has nothing installed. It raises :class:`AssertionError` with a
sentence if the backend breaks the contract of :class:`overlay.ipsec.interface.IpsecBackend`.
The module needs no test framework. See ``docs/decisions/0061``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

from overlay.addresses import Endpoint
from overlay.ipsec.interface import (
    ANY_V4,
    ANY_V6,
    MIN_SPI,
    IpsecBackend,
    IpsecConfiguration,
    PolicyDirection,
    Prefix,
    SaCounters,
    SaIdentity,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Spi,
    Template,
    UdpEncapsulation,
)
from overlay.ipsec.suites import SUITES
from overlay.sensitive import SecretBytes

__all__ = ["CHECKS", "Check"]

Check = Callable[[IpsecBackend], None]

_ALICE, _MIX = Endpoint("127.0.0.1", 4500), Endpoint("127.0.0.2", 4500)
_V1: Final = bytes.fromhex("fd6d6978000000000000000000000001")
_C0: Final = bytes.fromhex("fd636972000000000000000000000000")

_MANDATORY_SUITE: Final = 3
"""AES-128-GCM-16, the default of links and circuits, which every backend has."""

_EXPERIMENT_SUITE: Final = 11
"""3DES, which a backend accepts only if a program asks for experiments."""


def _onion(spi: int = 0x2000, *, inbound: bool = True, suite: int = 3) -> SecurityAssociation:
    return SecurityAssociation(
        spi=Spi(spi),
        reqid=spi,
        source=_C0,
        destination=_V1,
        suite=suite,
        keymat=SecretBytes(bytes(SUITES[suite].keymat_bytes)),
        inbound=inbound,
    )


def _link(spi: int = 0x1000, *, inbound: bool = True) -> SecurityAssociation:
    return replace(
        _onion(spi, inbound=inbound),
        source=_ALICE.packed,
        destination=_MIX.packed,
        encapsulation=UdpEncapsulation(_ALICE, _MIX),
    )


def _policy(*associations: SecurityAssociation, destination: bytes = _V1) -> SecurityPolicy:
    templates = tuple(Template(sa.source, sa.destination, sa.reqid) for sa in associations)
    return SecurityPolicy(PolicyDirection.IN, Selector(ANY_V6, Prefix.host(destination)), templates)


_CONFIGURATION: Final = IpsecConfiguration((_onion(), _link()), (_policy(_onion(), _link()),))
_OTHER: Final = IpsecConfiguration((_onion(0x2222),), (_policy(_link(), destination=_C0),))


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)


def _require_refusal(
    backend: IpsecBackend, configuration: IpsecConfiguration, *, word: str = ""
) -> None:
    """Require a ``ValueError`` whose text is a sentence and contains ``word``."""
    try:
        backend.install(configuration)
    except ValueError as error:
        text = str(error)
        _require(text[:1].isupper() and text.endswith("."), f"The error is no sentence: {text!r}.")
        _require(word in text, f"The error does not contain {word!r}: {text!r}.")
        return
    raise AssertionError("The backend installed a configuration that it must refuse.")


def _counters(backend: IpsecBackend, association: SecurityAssociation) -> SaCounters:
    counters = backend.query(association.identity)
    if counters is None:
        raise AssertionError(f"SA {association.spi:#x} is installed, but query() returned None.")
    return counters


def _require_absent(backend: IpsecBackend, identity: SaIdentity) -> None:
    _require(backend.query(identity) is None, f"SA {identity.spi:#x} is not installed here.")


def _check_capabilities(backend: IpsecBackend) -> None:
    able = backend.capabilities()
    _require(bool(able.name), "A backend needs a name.")
    _require(able.suites <= set(SUITES), "The backend declares suites that do not exist.")
    _require(_MANDATORY_SUITE in able.suites, "The backend lacks the default suite.")
    _require(able.max_templates >= 4, "The backend must carry circuits of three hops.")


def _check_counters_at_zero(backend: IpsecBackend) -> None:
    backend.install(_CONFIGURATION)
    for association in _CONFIGURATION.associations:
        counters = _counters(backend, association)
        _require(
            (counters.packets, counters.payload_bytes) == (0, 0),
            "A new SA has counted no packet and no byte.",
        )


def _check_random_start(backend: IpsecBackend, *, esn: bool) -> None:
    """Layers of one circuit carry the same packets, so that equal numbers would link them."""
    made = [each(spi, inbound=False) for each in (_onion, _link) for spi in range(0x3000, 0x3008)]
    outbound = [replace(sa, esn=esn, spi=Spi(sa.spi + n)) for n, sa in enumerate(made)]
    backend.install(IpsecConfiguration(tuple(outbound), ()))
    counters = [_counters(backend, sa) for sa in outbound]
    _require(all(each.packets == 0 for each in counters), "A new SA has counted no packet.")
    starts = sorted(each.sequence for each in counters)
    _require(
        all(after - before > 1000 for before, after in itertools.pairwise(starts)),
        "Outbound SAs must start at random sequence numbers that are far apart.",
    )
    _require(2**30 < starts[-1] < 2**31, "Sequence numbers must start below 2^31, and at random.")


def _check_receiver_start(backend: IpsecBackend) -> None:
    backend.install(_CONFIGURATION)
    for association in _CONFIGURATION.associations:
        highest = _counters(backend, association).sequence
        _require(highest == 0, "An inbound SA must accept any first sequence number.")


def _check_unknown(backend: IpsecBackend) -> None:
    backend.install(_CONFIGURATION)
    _require_absent(backend, SaIdentity(Spi(0x2001), _V1))
    _require_absent(backend, SaIdentity(Spi(0x2000), _C0))


def _check_removal(backend: IpsecBackend) -> None:
    backend.install(_CONFIGURATION)
    backend.remove(_CONFIGURATION)
    _require_absent(backend, _onion().identity)
    backend.install(_CONFIGURATION)
    _counters(backend, _onion())


def _check_removal_of_absent(backend: IpsecBackend) -> None:
    backend.remove(_CONFIGURATION)
    backend.install(_CONFIGURATION)
    backend.remove(_OTHER)
    backend.remove(replace(_CONFIGURATION, associations=()))
    backend.remove(replace(_CONFIGURATION, associations=()))
    _counters(backend, _onion())


def _check_removal_of_one(backend: IpsecBackend) -> None:
    backend.install(_CONFIGURATION)
    backend.install(_OTHER)
    backend.remove(_CONFIGURATION)
    _counters(backend, _onion(0x2222))
    _require_refusal(backend, IpsecConfiguration((), _OTHER.policies), word="same")


def _check_flush(backend: IpsecBackend) -> None:
    backend.install(_CONFIGURATION)
    backend.flush()
    _require_absent(backend, _onion().identity)
    backend.install(_CONFIGURATION)


def _check_same_twice(backend: IpsecBackend) -> None:
    backend.install(_CONFIGURATION)
    for again in (
        IpsecConfiguration((_onion(),), ()),
        IpsecConfiguration((), _CONFIGURATION.policies),
        IpsecConfiguration((_onion(0x3333), _onion(0x3333)), ()),
    ):
        _require_refusal(backend, again, word="same")


def _check_both_directions(backend: IpsecBackend) -> None:
    both = IpsecConfiguration((_onion(inbound=True), _onion(inbound=False)), ())
    if backend.capabilities().separates_directions:
        backend.install(both)
    else:
        _require_refusal(backend, both, word="same")


_INVALID: Final = {
    "suite unknown": IpsecConfiguration((replace(_onion(), suite=200),), ()),
    "suite for experiments": IpsecConfiguration((_onion(suite=_EXPERIMENT_SUITE),), ()),
    "key size": IpsecConfiguration((replace(_onion(), keymat=SecretBytes(bytes(35))),), ()),
    "reserved SPI": IpsecConfiguration((replace(_onion(), spi=Spi(MIN_SPI - 1)),), ()),
    "SPI too large": IpsecConfiguration((replace(_onion(), spi=Spi(2**32)),), ()),
    "mixed families": IpsecConfiguration((replace(_onion(), source=bytes(4)),), ()),
    "no window": IpsecConfiguration((replace(_onion(), replay_window=0),), ()),
    "no templates": IpsecConfiguration((), (_policy(),)),
    "too many templates": IpsecConfiguration((), (_policy(*[_onion()] * 7),)),
    "selector of two families": IpsecConfiguration(
        (), (replace(_policy(_onion()), selector=Selector(ANY_V4, ANY_V6)),)
    ),
    "prefix too long": IpsecConfiguration(
        (), (replace(_policy(_onion()), selector=Selector(ANY_V6, Prefix(_V1, 129))),)
    ),
    "protocol": IpsecConfiguration(
        (), (replace(_policy(_onion()), selector=Selector(ANY_V6, ANY_V6, 256)),)
    ),
    "address": IpsecConfiguration((), (), (bytes(5),)),
}


def _check_invalid(backend: IpsecBackend, invalid: IpsecConfiguration) -> None:
    """Require that a refused configuration leaves nothing, not even its valid parts."""
    good = _onion(0x4444)
    policies = (_policy(good, destination=_C0), *invalid.policies)
    _require_refusal(
        backend,
        IpsecConfiguration((good, *invalid.associations), policies, invalid.local_addresses),
    )
    _require_absent(backend, good.identity)
    backend.install(IpsecConfiguration((good,), (_policy(good, destination=_C0),)))


CHECKS: Final = MappingProxyType[str, Check](
    {
        "declares suites and hops": _check_capabilities,
        "counts from zero": _check_counters_at_zero,
        "starts to number at random": partial(_check_random_start, esn=False),
        "starts to number at random with ESN": partial(_check_random_start, esn=True),
        "accepts any first number": _check_receiver_start,
        "does not know other SAs": _check_unknown,
        "installs again what it removed": _check_removal,
        "removes what is absent": _check_removal_of_absent,
        "removes one configuration alone": _check_removal_of_one,
        "flushes everything": _check_flush,
        "refuses the same twice": _check_same_twice,
        "treats both directions as declared": _check_both_directions,
        **{
            f"refuses: {name}": partial(_check_invalid, invalid=invalid)
            for name, invalid in _INVALID.items()
        },
    }
)
"""The checks by their names."""
