"""A distribution outside of this tree brings an IPsec backend: found by name, checked, run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from overlay.config.load import parse_configuration
from overlay.errors import ConfigurationError

TESTS = Path(__file__).parents[1]


def run_with_it(*arguments):
    """Run pytest where the distribution of ``tests/outside`` is on the path, as if installed."""
    paths = (TESTS / "outside", TESTS / "overlay", TESTS.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.search(r"(\d+) passed", done.stdout)[1])


def test_the_conformance_suite_covers_it():
    assert run_with_it("tests/conformance/test_ipsec_backend.py", "-k", "outside") > 20


def test_its_own_tests_import_the_suite_and_run_a_node():
    assert run_with_it("tests/outside/check_node.py") > 20


def test_where_it_is_not_installed_its_name_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="outside"):
        parse_configuration('[ipsec]\nbackend = "outside"', tmp_path / "overlay.toml")
