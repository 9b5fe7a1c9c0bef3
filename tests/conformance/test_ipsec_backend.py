"""One suite for every registered IPsec backend, also for those of other distributions.

If the machine lacks what a backend needs, its tests are skipped with the reason.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from random import Random

import pytest

from lab.namespaces import Namespace, missing_requirements
from overlay.errors import BackendError
from overlay.ipsec.conformance import CHECKS
from overlay.ipsec.interface import IpsecBackend
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.node.backend_choice import load_backend
from overlay.plugins import plugin_names


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


@pytest.fixture(params=BACKENDS)
def backend(request):
    with opened(request.param) as made:
        yield made


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_registered_backend_conforms(backend, check):
    check(backend)


def test_userspace_takes_3des_for_experiments_alone():
    engine = UserspaceEngine(rng=Random(1), experiment=True)
    assert engine.capabilities().suites == set(SUITES)
