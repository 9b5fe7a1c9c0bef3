"""Run by tests/conformance/test_outside_backend.py, where this distribution is installed."""

import ipaddress
from dataclasses import replace
from random import Random

import pytest
from loopback_overlay import cast, run, running
from outside_backend import OutsideBackend, OutsideEngine

from overlay.errors import BackendError, ConfigurationError
from overlay.ipsec.conformance import CHECKS

BOB = ipaddress.ip_network("203.0.113.10/32")


def test_a_node_carries_a_path_with_the_backend_that_its_configuration_names(tmp_path):
    participants = cast(tmp_path, relays=2, exits=1, alice=True)
    for each in participants:
        ipsec = replace(each.configuration.ipsec, backend="outside")
        each.configuration = replace(each.configuration, ipsec=ipsec)

    async def program():
        async with running(participants) as nodes:
            async with nodes[-1].anonymous_path(BOB, hops=3) as path:
                assert path.report().state == "open"
            assert {node.service.status().backend for node in nodes} == {"outside"}

    run(program)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_it_passes_the_suite_that_it_imports(check):
    with OutsideBackend().open_backend(Random(1)) as made:
        check(made)


def test_the_suite_finds_a_backend_that_breaks_the_contract():
    class Forgetful(OutsideEngine):
        def remove(self, configuration):
            pass

    with pytest.raises(AssertionError, match="is not installed here"):
        CHECKS["installs again what it removed"](Forgetful(rng=Random(1)))


def test_more_hops_than_it_declares_are_refused_before_it_is_opened(tmp_path):
    (alone,) = cast(tmp_path, relays=1)
    ipsec = replace(alone.configuration.ipsec, backend="outside")
    selection = replace(alone.configuration.selection, hops=4)
    alone.configuration = replace(alone.configuration, ipsec=ipsec, selection=selection)

    async def program():
        with pytest.raises(ConfigurationError, match="at most 3 hops"):
            async with alone.node():
                pass

    run(program)


def test_a_suite_that_it_lacks_is_told_before_the_node_runs(tmp_path, monkeypatch):
    (alone,) = cast(tmp_path, relays=1)
    ipsec = replace(alone.configuration.ipsec, backend="outside")
    alone.configuration = replace(alone.configuration, ipsec=ipsec)
    whole = OutsideEngine.capabilities
    monkeypatch.setattr(
        OutsideEngine, "capabilities", lambda engine: replace(whole(engine), suites=frozenset())
    )

    async def program():
        with pytest.raises(BackendError, match='the IPsec backend "outside" has no '):
            async with alone.node():
                pass

    run(program)
