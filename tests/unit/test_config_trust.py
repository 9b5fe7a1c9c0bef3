"""A configuration file that another user may change is not obeyed."""

import grp
import os
import pwd
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from overlay.config import load_configuration
from overlay.control.client import ControlClient
from overlay.errors import ConfigurationError
from overlay.trust import insist_on_peer

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


def database(monkeypatch, *, user="anna", group="anna", members=(), others=()):
    """Let this process be user 4321 of group 4321, and tell it of these users."""
    monkeypatch.setattr(os, "geteuid", lambda: OTHER_USER)
    own = SimpleNamespace(pw_name=user, pw_gid=OTHER_USER)
    rest = [SimpleNamespace(pw_name=each, pw_gid=OTHER_USER) for each in others]
    monkeypatch.setattr(pwd, "getpwuid", {OTHER_USER: own}.__getitem__)
    monkeypatch.setattr(pwd, "getpwall", lambda: [own, *rest])
    entry = SimpleNamespace(gr_name=group, gr_mem=list(members))
    monkeypatch.setattr(grp, "getgrgid", {OTHER_USER: entry}.__getitem__)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(
    ("described", "trusted"),
    [
        ({}, True),
        ({"members": ["anna"]}, True),
        ({"members": ["anna", "bert"]}, False),
        ({"others": ["bert"]}, False),
        ({"group": "users"}, False),
    ],
)
def test_the_group_may_write_if_it_is_this_users_alone(file, monkeypatch, described, trusted):
    os.chown(file, OTHER_USER, OTHER_USER)
    file.chmod(0o664)
    database(monkeypatch, **described)
    if trusted:
        load_configuration(file)
    else:
        assert f"chmod go-w {file}" in refusal(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_group_that_no_database_knows_counts_as_shared(file, monkeypatch):
    os.chown(file, OTHER_USER, OTHER_USER + 1)
    file.chmod(0o664)
    database(monkeypatch)
    assert f"chmod go-w {file}" in refusal(file)


def test_a_group_of_root_may_not_write(file):
    if os.geteuid() == 0:
        file.chmod(0o664)
        assert f"chmod go-w {file}" in refusal(file)


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


def test_every_directory_on_the_way_of_linked_directories_counts(file, tmp_path):
    """Also one that is neither in the name nor in the real path of the file."""
    between = tmp_path / "between"
    between.mkdir(mode=0o700)
    (between / "hop").symlink_to(file.parent)
    (tmp_path / "etc").symlink_to("between/hop")
    named = tmp_path / "etc" / ".." / "node" / "overlay.toml"
    load_configuration(named)
    between.chmod(0o777)
    assert f"the directory {between} may be written" in refusal(named)


def test_a_file_handed_over_by_number_has_no_way(file):
    with file.open() as opened:
        load_configuration(Path(f"/proc/self/fd/{opened.fileno()}"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
class TestAsRoot:
    @pytest.mark.parametrize("linked", ["file", "directory"])
    def test_a_link_of_another_user_in_a_sticky_directory_is_refused(self, file, tmp_path, linked):
        sticky = tmp_path / "sticky"
        sticky.mkdir()
        sticky.chmod(0o1777)
        link = sticky / "link"
        link.symlink_to(file if linked == "file" else file.parent)
        named = link if linked == "file" else link / file.name
        load_configuration(named)
        os.lchown(link, OTHER_USER, 0)
        assert f"the symbolic link {link} belongs to user {OTHER_USER}" in refusal(named)

    def test_a_socket_that_another_user_has_put_in_the_nodes_place_is_refused(self):
        """Its answers could say that a path is open."""
        directory = Path(tempfile.mkdtemp(dir="/tmp"))
        path = directory / "run" / "control.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                directory.chmod(0o1777)
                os.seteuid(OTHER_USER)
                path.parent.mkdir(mode=0o700)
                listener.bind(str(path))
                listener.listen()
                os.seteuid(0)
                with pytest.raises(ConfigurationError, match=f"belongs to user {OTHER_USER}"):
                    ControlClient(path)
            finally:
                os.seteuid(0)
                shutil.rmtree(directory)

    def test_root_asks_a_node_of_another_user_where_no_further_user_writes(self, monkeypatch):
        steps = {Path("/"): 0, Path("/var"): 0, Path("/var/lib"): 0, Path("/var/lib/o"): OTHER_USER}
        modes = dict.fromkeys(steps, 0o755)

        def status_of(step):
            return SimpleNamespace(st_mode=stat.S_IFDIR | modes[step], st_uid=steps[step])

        monkeypatch.setattr(Path, "lstat", status_of)
        insist_on_peer(Path("/var/lib/o/control.sock"), OTHER_USER)
        modes[Path("/var/lib")] = 0o1777
        with pytest.raises(ConfigurationError, match="no other user may write"):
            insist_on_peer(Path("/var/lib/o/control.sock"), OTHER_USER)

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
