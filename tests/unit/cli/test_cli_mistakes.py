"""Wrong input of every kind: one sentence that says what is wrong, where, and what to write."""

import socket

import pytest

from overlay.cli.main import main
from overlay.cli.values import joined_values
from overlay.keyfile import read_identity


@pytest.fixture
def said(capsys):
    """Run a command that must fail; return its last line on standard error."""

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) != 0
        return capsys.readouterr().err.splitlines()[-1]

    return run


@pytest.fixture
def node(tmp_path, capsys):
    assert main(["init", "--dir", str(tmp_path / "node")]) == 0
    capsys.readouterr()
    return tmp_path / "node"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--advertise", "10.0.0.1:4500", "a private address; write a public one, or add --private"),
        ("--bootstrap", "192.0.2.1:4500", "a documentation address; .* --private"),
        ("--bootstrap", "[::]:4500", "stands for all addresses of a host"),
        ("--listen", "10.0.0.1", "names no port"),
        ("--advertise", "n.example:4500", "the host name"),
        ("--network-id", "a b", "must be 1 to 32"),
    ],
)
def test_init_names_the_option_that_is_wrong(said, tmp_path, option, value, words):
    sentence = said("init", "--dir", tmp_path / "n", option, value)
    assert words.partition(".*")[0] in sentence
    assert words.rpartition(".*")[2] in sentence
    assert option.removeprefix("--").replace("-", "_") in sentence.replace("-", "_")
    assert not (tmp_path / "n").exists()


def test_up_names_the_file_in_which_private_endpoints_are_allowed(said, node):
    sentence = said("--config", node / "overlay.toml", "up", "--bootstrap", "10.0.0.1:4500")
    assert "--bootstrap has" in sentence
    assert f"allow_private_endpoints = true below [network] in {node}/overlay.toml" in sentence


def test_missing_keys_name_the_command_that_makes_them_and_it_does(said, node, tmp_path, capsys):
    file = node / "overlay.toml"
    elsewhere = tmp_path / "elsewhere"
    file.write_text(f'[node]\nstate_dir = "{elsewhere}"\n')
    sentence = said("up", "--config", file)
    assert sentence.endswith(f"make one with: overlay init --config {file}")
    before = file.read_bytes()
    assert main(["init", "--config", str(file)]) == 0
    assert "identity.key (new)" in capsys.readouterr().out
    assert file.read_bytes() == before
    assert read_identity(elsewhere / "identity.key")
    assert "exists; edit it" in said("init", "--config", file)


def test_init_with_force_keeps_the_former_file(node):
    former = (node / "overlay.toml").read_bytes()
    for number in (1, 2):
        assert main(["init", "--dir", str(node), "--force", "--network-id", f"n{number}"]) == 0
    assert (node / "overlay.toml.old-1").read_bytes() == former
    assert b"n1" in (node / "overlay.toml.old-2").read_bytes()
    assert b"n2" in (node / "overlay.toml").read_bytes()


def test_identity_cost_is_shown_where_one_is_asked(tmp_path, capsys):
    assert main(["init", "--dir", str(tmp_path / "free")]) == 0
    assert "identity cost" not in capsys.readouterr().out
    assert main(["init", "--dir", str(tmp_path / "costly"), "--identity-cost-bits", "1"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "identity cost" in x)
    assert line.endswith("1 required")
    assert ("1 bit," in line) != ("bits," in line)


def test_socket_that_is_none_is_told(said, tmp_path):
    (tmp_path / "plain").write_text("")
    assert "is a directory and no control socket" in said("--socket", tmp_path, "status")
    assert "is a file and no control socket" in said("--socket", tmp_path / "plain", "status")
    assert "no node answers at" in said("--socket", tmp_path / "nothing", "status")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "datagrams"))
        assert "cannot be used" in said("--socket", tmp_path / "datagrams", "status")


DRY_RUN = ["sim", "churn", "--nodes", "50", "--dry-run", "--expect"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["path", "open", "192.0.2.7", "--hops", "three"],
            'a whole number from 1 to 5, not "three"',
        ),
        (["path", "open", "192.0.2.7", "--hops", "0"], "must lie between 1 and 5, not 0"),
        (["path", "open", "192.0.2.7", "--hops", "6"], "must lie between 1 and 5, not 6"),
        (["init", "--identity-cost-bits", "x"], 'a whole number from 0 to 32, not "x"'),
        (["path", "open", "--via", "00" * 20, "00" * 20, "192.0.2.7"], "is a node id"),
        (["path", "open", "--via", "fd6d:6978::1", "fd6d:6978::2", "192.0.2.7"], "with via"),
        (["path", "close", ","], "name a path by its number or destination"),
        (["path", "close", "203.0.113.7:80"], "names a port"),
        (["sim", "churn", "--duration", "2"], 'must say its unit: write "2s" for seconds'),
        (["sim", "churn", "--duration", "-2"], 'must not be negative; write a time such as "90s"'),
        (["sim", "churn", "--warm-up", "2.5"], 'must say its unit: write "2.5s"'),
        (["sim", "churn", "--duration", "-1h"], "must lie between"),
        (["sim", "churn", "--duration", "soon"], 'not "soon"'),
        (["sim", "churn", "--nodes", "1e3"], 'a whole number from 2 to 10000000, not "1e3"'),
        (["sim", "churn", "--loss", "half"], 'a number from 0 to 0.99, not "half"'),
        (["sim", "churn", "--set", "dht.alhpa=3"], "did you mean alpha?"),
        ([*DRY_RUN, "path_success mean >= 0.9"], "no node keeps a path; write --clients 20"),
        ([*DRY_RUN, "recovery_s max <= 60"], "nothing disturbs the overlay"),
        ([*DRY_RUN, "table_sybils_max max <= 3"], "there is no adversary"),
        ([*DRY_RUN, "lookup_hops mean <= 3", "--lookups-per-hour", "0"], "there are no lookups"),
    ],
)
def test_wrong_word_is_told(said, words, sentence):
    assert sentence in said(*words)


def test_only_a_negative_time_is_joined_to_its_option():
    assert joined_values(["--duration", "-1h", "x"]) == ["--duration=-1h", "x"]
    assert joined_values(["close", "-1"]) == ["close", "-1"]
    assert joined_values(["--json", "-1"]) == ["--json", "-1"]
    assert joined_values(["-1h"]) == ["-1h"]
