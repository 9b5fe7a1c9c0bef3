"""``make lint`` names what is too large, unless a reason stands above it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONG_FILE = "x = 1\n" * 501
LONG_FUNCTION = "def f():\n" + "    x = 1\n" * 60
WIDE_CLASS = "class C:\n" + "".join(f"    def m{n}(self):\n        pass\n" for n in range(13))


def check(directory, text):
    (directory / "module.py").write_text(text)
    command = [sys.executable, ROOT / "scripts" / "sizes.py", directory]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (LONG_FILE, "501 lines"),
        (LONG_FUNCTION, "function f has 61 lines"),
        (WIDE_CLASS, "class C has 13 public methods"),
    ],
    ids=["file", "function", "class"],
)
def test_each_limit_needs_a_reason(tmp_path, text, finding):
    done = check(tmp_path, text)
    assert done.returncode == 1
    assert finding in done.stdout
    assert check(tmp_path, f"# Large: a test.\n{text}").returncode == 0


def test_at_the_limits_nothing_is_said(tmp_path):
    text = "x = 1\n" * 400 + LONG_FUNCTION.removesuffix("    x = 1\n")
    assert check(tmp_path, text).returncode == 0
    private = "    def _m(self):\n        pass\n"
    assert check(tmp_path, WIDE_CLASS.rpartition("    def ")[0] + private).returncode == 0


def test_a_reason_that_is_not_needed_is_named(tmp_path):
    done = check(tmp_path, "# Large: a test.\ndef f():\n    x = 1\n")
    assert done.returncode == 1
    assert "f is not too large" in done.stdout
