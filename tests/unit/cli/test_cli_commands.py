import json
import signal
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from overlay.cli.arguments import INIT_OPTIONS
from overlay.cli.main import main
from overlay.cli.places import default_directory
from overlay.config import load_configuration
from overlay.config.load import section_type
from overlay.errors import BackendError, InternalError
from overlay.identity import identity_cost_bits, meets_cost
from overlay.keyfile import read_identity
from overlay.settings import declared
from overlay.settings.describe import first_sentence


@pytest.fixture
def overlay(capsys):
    def run(*arguments, **options):
        status = main([str(argument) for argument in arguments], **options)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def node(tmp_path, overlay):
    """A directory that "overlay init" made."""
    directory = tmp_path / "node"
    assert overlay("init", "--dir", directory)[0] == 0
    return directory


def refused(result, words):
    """Check that a command failed with one sentence on standard error."""
    status, out, err = result
    assert (status, out) == (1, "")
    assert err.startswith("overlay: ")
    assert err.count("\n") == 1
    assert words in err


def test_init_makes_private_keys_and_a_configuration_that_loads(node):
    assert stat.S_IMODE(node.stat().st_mode) == 0o700
    assert stat.S_IMODE((node / "identity.key").stat().st_mode) == 0o600
    configuration = load_configuration(node / "overlay.toml")
    assert configuration.node.key_file == node / "identity.key"
    assert sorted(path.name for path in node.iterdir()) == ["identity.key", "overlay.toml"]


def test_init_writes_what_it_is_told(tmp_path, overlay):
    status, out, _err = overlay(
        *("init", "--dir", tmp_path / "n", "--json", "--exit", "--private"),
        *("--network-id", "lab", "--listen", "127.0.0.1:1", "--listen", "127.0.0.1:2"),
        *("--advertise", "127.0.0.1:3", "--bootstrap", "127.0.0.1:4"),
    )
    assert status == 0
    made = json.loads(out)
    configuration = load_configuration(Path(made["configuration"]))
    assert configuration.network.network_id == "lab"
    assert [endpoint.port for endpoint in configuration.network.listen] == [1, 2]
    assert configuration.network.advertised == configuration.network.advertise
    assert configuration.network.bootstrap[0].port == 4
    assert configuration.roles.exit
    assert made["node_id"] == read_identity(Path(made["key_file"])).node_id.hex()


def test_init_keeps_an_existing_configuration_unless_forced(node, overlay):
    before = (node / "overlay.toml").read_bytes()
    refused(overlay("init", "--dir", node, "--exit"), "--force")
    assert (node / "overlay.toml").read_bytes() == before


def test_init_never_overwrites_keys(node, overlay):
    keys = (node / "identity.key").read_bytes()
    status, out, _err = overlay("init", "--dir", node, "--force", "--exit", "--json")
    assert (status, json.loads(out)["new_keys"]) == (0, False)
    assert (node / "identity.key").read_bytes() == keys
    assert load_configuration(node / "overlay.toml").roles.exit


def test_init_searches_for_an_identity_of_the_networks_cost(tmp_path, overlay):
    status, out, _err = overlay(
        "init", "--dir", tmp_path / "n", "--identity-cost-bits", 5, "--json"
    )
    assert (status, json.loads(out)["identity_cost_bits"] >= 5) == (0, True)
    assert load_configuration(tmp_path / "n" / "overlay.toml").dht.identity_cost_bits == 5
    identity = read_identity(tmp_path / "n" / "identity.key")
    assert meets_cost(identity.identity_key, 5)


def test_init_tells_when_the_keys_that_are_there_cost_too_little(tmp_path, node, overlay):
    before = (node / "overlay.toml").read_bytes()
    cost = identity_cost_bits(read_identity(node / "identity.key").identity_key)
    result = overlay("init", "--dir", node, "--force", "--identity-cost-bits", 31)
    bits = "1 bit" if cost == 1 else f"{cost} bits"
    refused(result, f"a cost of {bits}, and this network requires 31; move the file away")
    assert (node / "overlay.toml").read_bytes() == before
    result = overlay("init", "--dir", tmp_path / "n", "--identity-cost-bits", 40)
    assert result[0] == 2
    assert "--identity-cost-bits: must lie between 0 and 32, not 40" in result[2]
    assert not (tmp_path / "n").exists()


def test_init_with_a_mistake_makes_nothing(tmp_path, overlay):
    result = overlay("init", "--dir", tmp_path / "n", "--listen", "localhost:4500")
    refused(result, 'the host name "localhost"')
    assert not (tmp_path / "n").exists()


def test_init_in_a_place_that_cannot_be_is_refused(tmp_path, overlay):
    (tmp_path / "file").write_text("")
    refused(overlay("init", "--dir", tmp_path / "file"), "cannot be created")
    refused(overlay("init", "--dir", "a", "--config", "b"), "give one of them")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["path", "open", "example.com"], "write its address"),
        (["path", "open", "192.0.2.7/8"], "write 192.0.0.0/8"),
        (["path", "open", "192.0.2.7", "--via", "bob"], "names no node"),
        (["path", "open", "192.0.2.7", "--via", "a,b,c,d,e,f"], "a path has at most 5"),
        (["path", "open", *(f"192.0.2.{n}" for n in range(65))], "at most 64"),
        (["path", "close", "x"], "'x' is a host name"),
        (["path", "close", "7"], "no node runs, so paths have no numbers"),
        (["status"], "no node answers"),
        (["status", "--config", "/nonexistent/overlay.toml"], "no configuration file"),
        (["up", "--listen", "4500"], "--listen has"),
        (["up", "--bootstrap", "node.example:4500"], "--bootstrap has the host name"),
        (["up", "--bootstrap", "192.168.0.1:4500"], "allow_private_endpoints"),
    ],
)
def test_mistake_of_the_user_is_one_sentence(node, overlay, arguments, words):
    refused(overlay("--config", node / "overlay.toml", *arguments), words)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["path"],
        ["path", "close"],
        ["path", "close", "1", "--all"],
        ["path", "open"],
        ["path", "open", "192.0.2.7", "--hops", "6"],
        ["path", "open", "192.0.2.7", "--hops", "x"],
        ["up", "--log-level", "loud"],
    ],
)
def test_wrong_usage_is_told_with_status_2(overlay, arguments):
    status, out, err = overlay(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: overlay")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["statsu"], "status"),
        (["path", "opne", "203.0.113.10"], "open"),
        (["up", "--log-level", "warn"], "warning"),
        (["sim", "chrun"], "churn"),
    ],
)
def test_a_mistyped_word_of_a_list_gets_a_suggestion(overlay, arguments, meant):
    status, _, err = overlay(*arguments)
    assert status == 2
    assert err.rstrip().endswith(f"; did you mean {meant}?")


def test_help_and_version_are_no_mistakes(overlay):
    assert overlay("--help")[0] == 0
    assert overlay("--version")[1].startswith("overlay 0.")


def test_up_refuses_keys_that_others_can_read(node, overlay):
    (node / "identity.key").chmod(0o644)
    refused(overlay("up", "--config", node / "overlay.toml"), "chmod 600")


def run_up(overlay, node, run_node, *arguments):
    return overlay("up", "--config", node / "overlay.toml", *arguments, run_node=run_node)


def test_up_runs_the_node_with_file_and_arguments_together(tmp_path, overlay):
    directory = tmp_path / "node"
    overlay("init", "--dir", directory, "--private", "--bootstrap", "127.0.0.1:9")
    seen = []

    async def run_node(configuration, identity, *, task_status):
        seen.append((configuration, identity))
        task_status.started()

    arguments = ("--bootstrap", "127.0.0.1:8", "--bootstrap", "127.0.0.1:9", "--listen", "[::]:7")
    status, out, err = run_up(overlay, directory, run_node, *arguments)
    assert (status, err) == (0, "")
    ((configuration, identity),) = seen
    assert [endpoint.port for endpoint in configuration.network.bootstrap] == [9, 8]
    assert [str(endpoint) for endpoint in configuration.network.listen] == ["[::]:7"]
    assert identity.node_id == read_identity(directory / "identity.key").node_id
    assert out.startswith("Node fd6d:6978:")
    assert out.count("\n") == 1


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_node_cleanly_even_before_it_is_up(node, overlay, sent):
    cleaned = []

    async def run_node(configuration, identity, *, task_status):
        try:
            signal.raise_signal(sent)
            await trio.sleep_forever()
        finally:
            cleaned.append(True)

    assert run_up(overlay, node, run_node) == (0, "", "")
    assert cleaned == [True]


def test_a_hang_up_is_no_stop(node, overlay, caplog):
    goes_on = []

    async def run_node(configuration, identity, *, task_status):
        for _ in range(3):
            signal.raise_signal(signal.SIGHUP)
            await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(0.01)
        goes_on.append(True)

    status, out, _err = run_up(overlay, node, run_node)
    assert (status, out, goes_on) == (0, "", [True])


def test_what_stays_blocked_is_said_whatever_the_end(node, overlay):
    async def run_node(configuration, identity, *, task_status):
        task_status.started(lambda: 2)
        raise BackendError("the socket is gone.")

    status, out, err = run_up(overlay, node, run_node)
    assert (status, err) == (1, "overlay: the socket is gone.\n")
    assert out.splitlines()[1].startswith("Stopped. 2 destinations stay blocked until")
    assert '"overlay stop --release"' in out


def test_failure_of_the_operating_system_is_one_sentence(node, overlay):
    async def run_node(configuration, identity, *, task_status):
        async with trio.open_nursery():
            raise BackendError("UDP port 4500 is in use; choose another with [network] listen.")

    refused(run_up(overlay, node, run_node), "port 4500 is in use")


@pytest.mark.parametrize("bug", [InternalError("two owners of one SA."), KeyError("x")])
def test_bug_says_that_it_is_one_and_debug_shows_where(node, overlay, bug):
    async def run_node(configuration, identity, *, task_status):
        raise bug

    refused(run_up(overlay, node, run_node), "this is a bug in overlay")
    assert "Traceback" in run_up(overlay, node, run_node, "--debug")[2]


@pytest.mark.parametrize(
    ("user", "environment", "expected"),
    [
        (0, {"HOME": "/root", "XDG_STATE_HOME": "/x"}, "/var/lib/overlay"),
        (1000, {"HOME": "/home/alice"}, "/home/alice/.local/state/overlay"),
        (1000, {"HOME": "/home/alice", "XDG_STATE_HOME": "/x"}, "/x/overlay"),
        (1000, {"HOME": "/home/alice", "XDG_STATE_HOME": "x"}, "/home/alice/.local/state/overlay"),
    ],
)
def test_node_lives_where_its_user_keeps_state(user, environment, expected):
    assert default_directory(user, environment) == Path(expected)


def test_help_of_init_is_that_of_the_settings(overlay):
    status, out, _err = overlay("init", "--help")
    shown = " ".join(out.split()).lower()
    assert status == 0
    for flag, (section, name, _metavar) in INIT_OPTIONS.items():
        about = first_sentence(declared(section_type(section))[name].meaning).rstrip(".").lower()
        assert flag in shown
        assert about in shown
