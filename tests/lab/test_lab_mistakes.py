"""Every mistake of a user gets one sentence, a status that is not zero, and no traceback."""

import subprocess
import sys

import pytest

from lab.nodes import NodeProcess, wait_until
from lab.underlay import Underlay

WEB = "203.0.113.10"


@pytest.fixture(scope="module")
def node(laboratory, tmp_path_factory):
    """One node, alone in its overlay."""
    with Underlay() as underlay:
        made = NodeProcess(underlay.add_host("alice"), tmp_path_factory.mktemp("alice") / "node")
        made.start()
        wait_until("the node's start", lambda: made.answers, timeout_s=60)
        yield made
        made.stop()


def sentence(node, *arguments, prefix=()):
    """Run the command line, which must fail, and return what it said."""
    done = node.host.namespace.run(
        [*prefix, sys.executable, "-m", "overlay", *arguments], check=False
    )
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.endswith((".\n", "?\n")), done.stderr
    return done.stderr


def asked(node, *arguments):
    return sentence(node, *arguments, "--config", str(node.configuration))


def test_an_unknown_strategy_is_named_with_the_known_ones(node):
    said = asked(node, "path", "open", WEB, "--strategy", "unifrom")
    assert "'unifrom'" in said
    assert "uniform" in said
    assert "explicit" in said


def test_a_host_name_is_refused_since_resolving_it_would_tell(node):
    assert "address" in asked(node, "path", "open", "www.example.org")


def test_a_destination_without_an_exit_is_explained_by_counts(node):
    said = asked(node, "path", "open", WEB)
    assert "no path" in said.lower()
    assert "0" in said


def test_a_path_that_is_not_there_cannot_be_closed(node):
    assert "7" in asked(node, "path", "close", "7")


def test_a_port_in_use_is_named(node, tmp_path):
    copy = tmp_path / "overlay.toml"
    copy.write_text(f'[node]\nstate_dir = "{tmp_path}"\n' + node.configuration.read_text())
    (tmp_path / "identity.key").write_bytes((node.directory / "identity.key").read_bytes())
    (tmp_path / "identity.key").chmod(0o600)
    said = sentence(node, "up", "--config", str(copy))
    assert "4500" in said
    assert "listen" in said


def test_a_second_node_of_the_same_directory_is_told_that_one_runs(node):
    said = asked(node, "up", "--listen", f"{node.address}:4501")
    assert "runs" in said or "lock" in said or "another" in said


def test_a_broken_configuration_names_file_and_line(node, tmp_path):
    broken = tmp_path / "overlay.toml"
    broken.write_text("[network\n")
    said = sentence(node, "up", "--config", str(broken))
    assert str(broken) in said
    assert "line 1" in said


def test_an_unknown_setting_is_named_with_the_closest(node, tmp_path):
    broken = tmp_path / "overlay.toml"
    broken.write_text('[network]\nlisten_on = ["0.0.0.0:4500"]\n')
    assert "listen" in sentence(node, "up", "--config", str(broken))


def test_a_key_file_that_others_can_read_is_refused(node, tmp_path):
    subprocess.run([sys.executable, "-m", "overlay", "init", "--dir", str(tmp_path)], check=True)
    (tmp_path / "identity.key").chmod(0o644)
    said = sentence(node, "up", "--config", str(tmp_path / "overlay.toml"))
    assert "chmod 600" in said


def test_a_missing_node_is_told_how_to_start_one(node, tmp_path):
    assert "overlay up" in sentence(node, "status", "--socket", str(tmp_path / "nobody.sock"))


def test_an_exit_without_the_right_to_a_tun_device_says_how_to_get_it(laboratory, tmp_path):
    with Underlay() as underlay:
        node = NodeProcess(underlay.add_host("exit"), tmp_path / "exit", exits=True)
        drop = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
        said = sentence(node, "up", "--config", str(node.configuration), prefix=drop)
        assert "CAP_NET_ADMIN" in said
        assert "root" in said
