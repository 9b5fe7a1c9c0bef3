import os

import pytest

from overlay.errors import BackendError
from overlay.system import packet_filter, programs
from overlay.system.failures import privilege_remedy
from overlay.system.programs import find_program


@pytest.fixture
def sbin(tmp_path, monkeypatch):
    """A directory of system programs that PATH leaves out."""
    (tmp_path / "filter-tool").write_text('#!/bin/sh\necho "$1 ran"\n')
    (tmp_path / "filter-tool").chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(programs, "SYSTEM_DIRECTORIES", (str(tmp_path),))
    return tmp_path


def test_program_in_sbin_is_found_and_run_without_the_path(sbin):
    assert find_program("filter-tool") == str(sbin / "filter-tool")
    assert packet_filter.run_filter_tool(["filter-tool", "it"]).stdout == "it ran\n"
    assert find_program("no-such-program") is None
    with pytest.raises(BackendError, match="no-such-program is not installed"):
        packet_filter.run_filter_tool(["no-such-program"])


def test_path_goes_before_sbin(sbin, tmp_path, monkeypatch):
    first = tmp_path / "first"
    first.mkdir()
    (first / "filter-tool").write_text("#!/bin/sh\n")
    (first / "filter-tool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{first}{os.pathsep}/bin")
    assert find_program("filter-tool") == str(first / "filter-tool")


def test_missing_right_has_a_remedy_outside_of_namespaces(monkeypatch):
    assert "unshare -Urn" in privilege_remedy() or "user namespace" in privilege_remedy()
