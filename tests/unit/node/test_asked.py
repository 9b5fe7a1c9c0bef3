"""What a program asks is checked at the door: one clear exception, before anything is done."""

import ast
import asyncio
import importlib.resources
import ipaddress
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from overlay import OverlayNode
from overlay.config import Configuration
from overlay.control.service import PeerReport
from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity
from overlay.node.asked import request_of

ROOT = Path(__file__).parents[3]
BOB = ipaddress.ip_network("203.0.113.10/32")
NODE_ID, OVERLAY = b"n" * 20, ipaddress.ip_address("fd6d:6978::7").packed
PEER = PeerReport(NODE_ID.hex(), "fd6d:6978::7", (), ("relay",), (), 1, 1.0, linked=False)


def asked(destination="203.0.113.10", *, hops=None, strategy=None, via=(), both_versions=None):
    return request_of(
        destination, hops=hops, strategy=strategy, via=via, both_versions=both_versions
    )


@pytest.mark.parametrize(
    "destination",
    [
        "203.0.113.10",
        "203.0.113.10/32",
        ipaddress.ip_address("203.0.113.10"),
        BOB,
        [BOB],
        (BOB, "203.0.113.10"),
        {"203.0.113.10"},
    ],
)
def test_destination_is_text_or_a_value_of_ipaddress_or_several(destination):
    assert asked(destination).destinations == (BOB,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"destination": 3405803786}, "a list of them, not 3405803786"),
        ({"destination": None}, "not None"),
        ({"destination": b"203.0"}, "or a list of them, not b'203.0'"),
        ({"destination": [BOB, 7]}, "a destination must be"),
        ({"hops": True}, "hops must be a whole number from 1 to 5, not True .bool."),
        ({"hops": "3"}, "hops must be a whole number from 1 to 5, not '3' .str."),
        ({"hops": 3.0}, "hops must be"),
        ({"strategy": 3}, "strategy must be a name"),
        ({"both_versions": 1}, "both_versions must be True, False or None"),
        ({"via": NODE_ID}, "write .NODE."),
        ({"via": "fd6d:6978::7"}, "write .NODE."),
        ({"via": 7}, "via must be a list of nodes"),
        ({"via": [7]}, "must be what peers"),
    ],
)
def test_wrong_type_is_a_type_error_that_names_the_argument(arguments, words):
    with pytest.raises(TypeError, match=words):
        asked(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"destination": []}, "0 destinations are named"),
        ({"destination": "www.example.org"}, "is a host name"),
        ({"destination": "203.0.113.10:80"}, "names a port"),
        ({"destination": [f"192.0.2.{n}" for n in range(65)]}, "65 destinations"),
        ({"hops": 0}, "from 1 to 5, not 0"),
        ({"hops": 6}, "from 1 to 5, not 6"),
        ({"hops": -1}, "from 1 to 5, not -1"),
        ({"via": ["bob"]}, "via: 'bob' names no node"),
        ({"via": [b"short"]}, "neither a node id"),
        ({"via": [bytes(16)]}, "neither a node id"),
        ({"via": [NODE_ID] * 6}, "a path has at most 5"),
    ],
)
def test_value_that_cannot_be_is_a_configuration_error(arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        asked(**arguments)


def test_via_takes_what_peers_returns_and_every_other_name_of_a_node():
    via = [PEER, NODE_ID, NODE_ID.hex(), OVERLAY, "fd6d:6978::7"]
    assert asked(via=via).via == (NODE_ID, NODE_ID, NODE_ID, OVERLAY, OVERLAY)
    assert asked(via=iter([PEER])).via == (NODE_ID,)


@pytest.fixture
def node():
    return OverlayNode(Configuration(), LocalIdentity.generate(Random(1)), host=object())


def test_node_under_asyncio_says_that_it_runs_under_trio(node):
    async def program():
        async with node:
            pass

    with pytest.raises(RuntimeError, match="runs under trio alone"):
        asyncio.run(program())


def test_node_outside_of_its_context_says_so(node):
    with pytest.raises(RuntimeError, match=r"inside .async with node"):
        node.service  # noqa: B018 - reading it raises


def test_node_of_wrong_parts_says_what_they_must_be():
    identity = LocalIdentity.generate(Random(1))
    with pytest.raises(TypeError, match=r"load_configuration returns, not str"):
        OverlayNode("overlay.toml", identity)
    with pytest.raises(TypeError, match=r"read_identity returns, not PosixPath"):
        OverlayNode(Configuration(), Path("identity.key"))


def test_packages_are_marked_as_typed():
    for package in ("overlay", "sims"):
        assert (importlib.resources.files(package) / "py.typed").is_file()


def test_examples_of_the_page_are_python_that_imports_what_exists():
    page = (ROOT / "docs" / "python-api.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        tree = ast.parse(block)
        imports = [each for each in tree.body if isinstance(each, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), "python-api.md", "exec"), {})


@pytest.mark.slow
def test_example_without_a_node_says_so(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "running_node.py")]
    done = subprocess.run(
        [*command, "--socket", str(tmp_path / "none"), "203.0.113.10", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no node answers" in done.stderr
