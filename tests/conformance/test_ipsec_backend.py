"""One suite for every registered IPsec backend, also for those of other distributions.

If the machine lacks what a backend needs, its tests are skipped with the reason.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from random import Random

import pytest

from lab.namespaces import Namespace, missing_requirements
from overlay.addresses import Endpoint
from overlay.errors import BackendError
from overlay.ipsec.interface import (
    ANY_V4,
    ANY_V6,
    MIN_SPI,
    IpsecBackend,
    IpsecConfiguration,
    PolicyDirection,
    Prefix,
    SaIdentity,
    SecurityAssociation,
    SecurityPolicy,
    Selector,
    Spi,
    Template,
    UdpEncapsulation,
)
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.node.backend_choice import load_backend
from overlay.plugins import plugin_names
from overlay.sensitive import SecretBytes


@contextmanager
def opened(name: str) -> Iterator[IpsecBackend]:
    """Open a registered backend; the kernel's IPsec gets a network namespace of its own."""
    plugin = load_backend(name)
    if not plugin.features.in_kernel:
        with plugin.open_backend(Random(1)) as made:
            yield made
        return
    if reason := kernel_missing(name):
        pytest.skip(reason)
    with Namespace("conformance") as host, ExitStack() as stack:
        yield host.call(lambda: stack.enter_context(plugin.open_backend(Random(1))))


@cache
def kernel_missing(name: str) -> str:
    """Say why this kernel cannot serve, or nothing; asked once."""
    if missing := missing_requirements():
        return " ".join(missing)
    try:
        with Namespace("probe") as host, ExitStack() as stack:
            host.call(lambda: stack.enter_context(load_backend(name).open_backend(Random(1))))
            return ""
    except BackendError as error:
        return str(error)


def runs_here(name: str) -> bool:
    """Tell whether to run: CI runs this suite in a kernel with ESP (test_kernel_xfrm_backend)."""
    in_kernel = load_backend(name).features.in_kernel
    return not (in_kernel and os.environ.get("CI") and kernel_missing(name))


BACKENDS = [name for name in plugin_names("overlay.ipsec") if runs_here(name)]

ALICE, MIX = Endpoint("127.0.0.1", 4500), Endpoint("127.0.0.2", 4500)
V1 = bytes.fromhex("fd6d6978000000000000000000000001")
C0 = bytes.fromhex("fd636972000000000000000000000000")


@pytest.fixture(params=BACKENDS)
def backend(request):
    with opened(request.param) as made:
        yield made


def onion(spi: int = 0x2000, *, inbound: bool = True, suite: int = 3) -> SecurityAssociation:
    return SecurityAssociation(
        spi=Spi(spi),
        reqid=spi,
        source=C0,
        destination=V1,
        suite=suite,
        keymat=SecretBytes(bytes(SUITES[suite].keymat_bytes)),
        inbound=inbound,
    )


def link(spi: int = 0x1000, *, inbound: bool = True) -> SecurityAssociation:
    return replace(
        onion(spi, inbound=inbound),
        source=ALICE.packed,
        destination=MIX.packed,
        encapsulation=UdpEncapsulation(ALICE, MIX),
    )


def policy(*associations: SecurityAssociation, destination: bytes = V1) -> SecurityPolicy:
    templates = tuple(Template(sa.source, sa.destination, sa.reqid) for sa in associations)
    return SecurityPolicy(PolicyDirection.IN, Selector(ANY_V6, Prefix.host(destination)), templates)


CONFIGURATION = IpsecConfiguration((onion(), link()), (policy(onion(), link()),))


def test_capabilities_name_suites_that_exist_and_at_least_three_hops(backend):
    capabilities = backend.capabilities()
    assert capabilities.name
    assert capabilities.suites <= set(SUITES)
    assert 3 in capabilities.suites
    assert capabilities.max_templates >= 4


def test_an_installed_sa_has_counters_at_zero(backend):
    backend.install(CONFIGURATION)
    for association in CONFIGURATION.associations:
        counters = backend.query(association.identity)
        assert counters is not None
        assert (counters.packets, counters.payload_bytes) == (0, 0)


@pytest.mark.parametrize("esn", [False, True])
def test_each_outbound_sa_begins_to_count_at_a_random_number(backend, esn):
    """Layers of one circuit carry the same packets, so equal numbers would tell which they are."""
    made = [each(spi, inbound=False) for each in (onion, link) for spi in range(0x3000, 0x3008)]
    outbound = [replace(sa, esn=esn, spi=Spi(sa.spi + n)) for n, sa in enumerate(made)]
    backend.install(IpsecConfiguration(tuple(outbound), ()))
    counters = [backend.query(sa.identity) for sa in outbound]
    starts = sorted(each.sequence for each in counters)
    assert all(each.packets == 0 for each in counters)
    assert all(after - before > 1000 for before, after in itertools.pairwise(starts))
    assert 2**30 < starts[-1] < 2**31


def test_a_receiver_expects_any_number(backend):
    backend.install(CONFIGURATION)
    assert [backend.query(sa.identity).sequence for sa in CONFIGURATION.associations] == [0, 0]


def test_an_unknown_sa_has_no_counters(backend):
    backend.install(CONFIGURATION)
    assert backend.query(SaIdentity(Spi(0x2001), V1)) is None
    assert backend.query(SaIdentity(Spi(0x2000), C0)) is None


def test_removal_takes_what_was_installed_and_can_be_installed_again(backend):
    backend.install(CONFIGURATION)
    backend.remove(CONFIGURATION)
    assert backend.query(onion().identity) is None
    backend.install(CONFIGURATION)
    assert backend.query(onion().identity) is not None


def test_removing_what_is_absent_is_harmless(backend):
    backend.remove(CONFIGURATION)
    backend.install(CONFIGURATION)
    other = IpsecConfiguration((onion(0x2222),), (policy(link(), destination=C0),))
    backend.remove(other)
    backend.remove(replace(CONFIGURATION, associations=()))
    backend.remove(replace(CONFIGURATION, associations=()))
    assert backend.query(onion().identity) is not None


def test_removing_one_configuration_leaves_the_others(backend):
    other = IpsecConfiguration((onion(0x2222),), (policy(link(), destination=C0),))
    backend.install(CONFIGURATION)
    backend.install(other)
    backend.remove(CONFIGURATION)
    assert backend.query(onion(0x2222).identity) is not None
    with pytest.raises(ValueError, match="same"):
        backend.install(IpsecConfiguration((), other.policies))


def test_flush_removes_everything(backend):
    backend.install(CONFIGURATION)
    backend.flush()
    assert backend.query(onion().identity) is None
    backend.install(CONFIGURATION)


def test_the_same_sa_or_policy_is_refused_twice(backend):
    backend.install(CONFIGURATION)
    for again in (
        IpsecConfiguration((onion(),), ()),
        IpsecConfiguration((), CONFIGURATION.policies),
        IpsecConfiguration((onion(0x3333), onion(0x3333)), ()),
    ):
        with pytest.raises(ValueError, match="same"):
            backend.install(again)


INVALID = {
    "suite unknown": IpsecConfiguration((replace(onion(), suite=200),), ()),
    "suite for experiments": IpsecConfiguration((onion(suite=11),), ()),
    "key size": IpsecConfiguration((replace(onion(), keymat=SecretBytes(bytes(35))),), ()),
    "reserved SPI": IpsecConfiguration((replace(onion(), spi=Spi(MIN_SPI - 1)),), ()),
    "SPI too large": IpsecConfiguration((replace(onion(), spi=Spi(2**32)),), ()),
    "mixed families": IpsecConfiguration((replace(onion(), source=bytes(4)),), ()),
    "no window": IpsecConfiguration((replace(onion(), replay_window=0),), ()),
    "no templates": IpsecConfiguration((), (policy(),)),
    "too many templates": IpsecConfiguration((), (policy(*[onion()] * 7),)),
    "selector of two families": IpsecConfiguration(
        (), (replace(policy(onion()), selector=Selector(ANY_V4, ANY_V6)),)
    ),
    "prefix too long": IpsecConfiguration(
        (), (replace(policy(onion()), selector=Selector(ANY_V6, Prefix(V1, 129))),)
    ),
    "protocol": IpsecConfiguration(
        (), (replace(policy(onion()), selector=Selector(ANY_V6, ANY_V6, 256)),)
    ),
    "address": IpsecConfiguration((), (), (bytes(5),)),
}


@pytest.mark.parametrize("invalid", INVALID.values(), ids=INVALID)
def test_what_does_not_fit_is_refused_and_nothing_of_it_remains(backend, invalid):
    good = onion(0x4444)
    with pytest.raises(ValueError, match=r"[A-Z].*\."):
        backend.install(
            IpsecConfiguration(
                (good, *invalid.associations),
                (policy(good, destination=C0), *invalid.policies),
                invalid.local_addresses,
            )
        )
    assert backend.query(good.identity) is None
    backend.install(IpsecConfiguration((good,), (policy(good, destination=C0),)))


def test_both_directions_of_one_spi_and_address_are_two_sas(backend):
    if backend.capabilities().in_kernel:
        pytest.skip("the kernel has one table for both directions")
    backend.install(IpsecConfiguration((onion(inbound=True), onion(inbound=False)), ()))


def test_userspace_takes_3des_for_experiments_alone():
    engine = UserspaceEngine(rng=Random(1), experiment=True)
    assert engine.capabilities().suites == set(SUITES)
    engine.install(IpsecConfiguration((onion(suite=11),), ()))
