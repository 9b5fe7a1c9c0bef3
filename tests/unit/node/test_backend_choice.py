"""Which backend a node runs with, and what it says of it."""

from random import Random

import pytest

from overlay.config.load import parse_configuration
from overlay.errors import BackendError, ConfigurationError
from overlay.ipsec.suites import SUITES
from overlay.ipsec.userspace.engine import UserspaceEngine
from overlay.node import backend_choice
from overlay.node.backend_choice import obstacle_of, open_shell
from overlay.node.backends import KernelBackend, UserspaceBackend
from overlay.tfc.none import NoTfc

RNG = Random(1)


class Host:
    """A host whose kernel's IPsec is asked to be cleared at most."""

    cleared = 0

    def clear_kernel_ipsec(self):
        self.cleared += 1


class Network:
    """Sockets that are not used."""

    def send_batch(self, batch):
        raise AssertionError


def configured(tmp_path, text):
    return parse_configuration(text, tmp_path / "overlay.toml")


@pytest.fixture
def without_esp(monkeypatch):
    """A kernel that refuses, whatever the tests run on."""

    class NoKernel(KernelBackend):
        def open_shell(self, setup):
            raise BackendError("installing a security association failed: the kernel has no ESP.")

    found = {"xfrm": NoKernel, "userspace": UserspaceBackend, "none": NoTfc}
    monkeypatch.setattr(backend_choice, "load_plugin", lambda group, name: found[name])


OBSTACLES = {
    "[selection]\nhops = 5": "at most 4 hops",
    '[tfc]\nstrategy = "pad"\n[tfc.pad]\ndummy_rate_pps = 2.0': "no dummy packets",
}


@pytest.mark.parametrize("text", OBSTACLES)
def test_settings_that_no_kernel_fulfils_are_told(tmp_path, text):
    assert OBSTACLES[text] in obstacle_of(configured(tmp_path, text), "xfrm").what


@pytest.mark.parametrize("text", ["", '[tfc]\nstrategy = "pad"', "[selection]\nhops = 4"])
def test_padding_and_four_hops_are_no_obstacle(tmp_path, text):
    assert obstacle_of(configured(tmp_path, text), "xfrm") is None


@pytest.mark.parametrize("text", OBSTACLES)
def test_auto_leaves_them_to_userspace_and_says_why(tmp_path, text):
    shell = open_shell(configured(tmp_path, text), Host(), Network(), RNG, None)
    assert shell.choice.name == "userspace"
    assert OBSTACLES[text] in shell.choice.reason


@pytest.mark.parametrize("text", OBSTACLES)
def test_a_forced_kernel_refuses_them_with_a_remedy(tmp_path, text):
    configuration = configured(tmp_path, f'{text}\n[ipsec]\nbackend = "xfrm"')
    with pytest.raises(ConfigurationError, match=OBSTACLES[text]) as refused:
        open_shell(configuration, Host(), Network(), RNG, None)
    assert 'or [ipsec] backend = "auto"' in str(refused.value)


def test_a_userspace_node_clears_what_a_killed_kernel_node_left(tmp_path):
    host = Host()
    open_shell(configured(tmp_path, '[ipsec]\nbackend = "userspace"'), host, Network(), RNG, None)
    assert host.cleared == 1


def test_auto_falls_back_where_the_kernel_refuses_and_repeats_its_sentence(tmp_path, without_esp):
    shell = open_shell(configured(tmp_path, ""), Host(), Network(), RNG, None)
    assert shell.choice.name == "userspace"
    assert shell.choice.reason.endswith("the kernel has no ESP")


def test_a_forced_kernel_that_refuses_is_an_error(tmp_path, without_esp):
    configuration = configured(tmp_path, '[ipsec]\nbackend = "xfrm"')
    with pytest.raises(BackendError, match="has no ESP"):
        open_shell(configuration, Host(), Network(), RNG, None)


def test_an_engine_that_a_program_brings_is_used_whatever_is_configured(tmp_path):
    engine = UserspaceEngine(rng=RNG)
    configuration = configured(tmp_path, '[ipsec]\nbackend = "xfrm"')
    shell = open_shell(configuration, Host(), Network(), RNG, engine)
    assert shell.backend is engine
    assert SUITES.keys() >= shell.backend.capabilities().suites
