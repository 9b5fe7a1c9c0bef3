"""A configuration file that another user may change is not obeyed."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from overlay.config import load_configuration
from overlay.errors import ConfigurationError

OTHER_USER = 4321


@pytest.fixture
def file(tmp_path):
    directory = tmp_path / "node"
    directory.mkdir(mode=0o700)
    path = directory / "overlay.toml"
    path.write_text("")
    path.chmod(0o600)
    return path


def refusal(path):
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(path)
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640])
def test_a_file_that_this_user_alone_may_write_is_read(file, mode):
    file.chmod(mode)
    load_configuration(file)


def test_a_file_that_the_group_may_write_is_read_by_an_ordinary_user_of_that_group(file):
    file.chmod(0o664)
    if os.geteuid() == 0:
        assert f"chmod go-w {file}" in refusal(file)
    else:
        load_configuration(file)


@pytest.mark.parametrize("mode", [0o602, 0o606, 0o666, 0o777])
def test_a_file_that_everyone_may_write_is_refused_with_the_remedy(file, mode):
    file.chmod(mode)
    assert f"chmod go-w {file}" in refusal(file)


def test_a_directory_that_everyone_may_write_is_refused(file):
    file.parent.chmod(0o777)
    assert f"the directory {file.parent} may be written" in refusal(file)


def test_a_directory_further_up_is_refused_too(file):
    file.parent.parent.chmod(0o777)
    assert f"the directory {file.parent.parent} may be written" in refusal(file)


def test_a_sticky_directory_is_accepted_because_only_owners_replace_files_there(file):
    file.parent.chmod(0o1777)
    load_configuration(file)


def test_the_directory_of_a_links_target_counts(file, tmp_path):
    link = tmp_path / "link.toml"
    link.symlink_to(file)
    load_configuration(link)
    file.parent.chmod(0o777)
    assert f"the directory {file.parent} may be written" in refusal(link)


def test_the_directory_of_the_link_counts_as_well(file, tmp_path):
    places = tmp_path / "open", tmp_path / "closed"
    for each in places:
        each.mkdir(mode=0o700)
    last = places[0] / "last.toml"
    last.symlink_to(file)
    first = places[1] / "first.toml"
    first.symlink_to(last)
    load_configuration(first)
    places[0].chmod(0o777)
    assert f"the directory {places[0]} may be written" in refusal(first)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
class TestAsRoot:
    def test_a_file_of_another_user_is_refused(self, file):
        os.chown(file, OTHER_USER, 0)
        said = refusal(file)
        assert f"belongs to user {OTHER_USER}" in said
        assert f"chown 0 {file}" in said

    def test_a_file_in_a_directory_of_another_user_is_refused(self, file):
        os.chown(file.parent, OTHER_USER, 0)
        said = refusal(file)
        assert f"belongs to user {OTHER_USER}" in said
        assert "chown" not in said, "a directory may be another user's home"

    def test_a_file_that_another_group_may_write_is_refused(self, file):
        os.chown(file, 0, OTHER_USER)
        file.chmod(0o660)
        assert f"chmod go-w {file}" in refusal(file)

    def test_a_file_of_root_is_read_by_other_users(self):
        path = Path(tempfile.mkdtemp(dir="/tmp")) / "overlay.toml"
        try:
            path.parent.chmod(0o755)
            path.write_text("")
            path.chmod(0o644)
            os.seteuid(OTHER_USER)
            load_configuration(path)
        finally:
            os.seteuid(0)
            shutil.rmtree(path.parent)
