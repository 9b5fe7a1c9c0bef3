"""Every mistake of a user gets one sentence, a status that is not zero, and no traceback."""

import json
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


def test_a_node_that_knows_no_other_says_that_it_has_not_joined(node):
    said = asked(node, "path", "open", WEB)
    assert "this node has not joined the overlay" in said
    assert "--bootstrap" in said


def test_a_path_through_this_node_itself_is_refused(node):
    own = node.status()["overlay_address"]
    assert "is this node itself" in asked(node, "path", "open", "--via", own, WEB)
    assert "is no node that this one knows" in asked(
        node, "path", "open", "--via", "fd6d:6978::1", WEB
    )
    assert "name nodes of the path with via" in asked(node, "path", "open", "--via", own, own, WEB)


def test_commands_find_a_socket_or_say_what_is_there(node):
    assert "is a directory" in sentence(node, "status", "--socket", str(node.directory))
    assert "is a file" in sentence(node, "status", "--socket", str(node.configuration))


def test_names_of_counters_are_identifiers(node):
    status = node.status()
    assert all(name.isidentifier() for name in (*status["counters"], *status["drops"]))


@pytest.mark.parametrize(
    ("namespaces", "words"),
    [("-Ur", "its network belongs to another one"), ("-Urn", "outside of that namespace")],
)
def test_remedies_know_that_they_run_in_a_user_namespace(laboratory, namespaces, words):
    program = "from overlay.system.failures import privilege_remedy; print(privilege_remedy())"
    done = subprocess.run(
        ["unshare", namespaces, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert words in done.stdout


def test_the_packet_filter_is_found_in_sbin(node):
    command = ["env", "PATH=/usr/bin:/bin", sys.executable, "-m", "overlay", "doctor"]
    options = ["--json", "--wait", "60", "--config"]
    done = node.host.namespace.run([*command, *options, str(node.configuration)], check=False)
    found = {each["subject"]: each["outcome"] for each in json.loads(done.stdout)["findings"]}
    assert found["packet filter"] == "works"


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
