import os
import stat
from random import Random

import pytest

from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity
from overlay.keyfile import read_identity, write_identity


@pytest.fixture
def identity():
    return LocalIdentity.generate(Random(7))


@pytest.fixture
def path(tmp_path, identity):
    written = tmp_path / "identity.key"
    write_identity(written, identity)
    return written


def test_identity_is_read_back_as_it_was_written(path, identity):
    read = read_identity(path)
    assert read.identity_private == identity.identity_private
    assert read.onion_private == identity.onion_private
    assert read.link_private == identity.link_private
    assert read.node_id == identity.node_id


def test_key_file_is_its_owners_alone_whatever_the_umask(tmp_path, identity):
    before = os.umask(0)
    try:
        write_identity(tmp_path / "k", identity)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600


def test_existing_keys_are_never_overwritten_and_nothing_else_remains(path, identity):
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="never overwritten"):
        write_identity(path, LocalIdentity.generate(Random(8)))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_symbolic_link_in_the_place_of_keys_is_not_followed(tmp_path, identity):
    (tmp_path / "k").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="never overwritten"):
        write_identity(tmp_path / "k", identity)
    assert not (tmp_path / "elsewhere").exists()


def test_directory_that_cannot_be_written_is_named(tmp_path, identity):
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_identity(tmp_path / "absent" / "k", identity)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o777])
def test_keys_open_to_others_are_refused_with_the_command_to_type(path, mode):
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"chmod 600 {path}"):
        read_identity(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_keys_of_another_user_are_refused(path):
    os.chown(path, 65534, 65534)
    with pytest.raises(ConfigurationError, match="belongs to user 65534"):
        read_identity(path)


def test_missing_keys_lead_to_init(tmp_path):
    with pytest.raises(ConfigurationError, match=r"make one with: overlay init$"):
        read_identity(tmp_path / "identity.key")


def test_key_file_that_went_through_windows_holds_the_same_keys(path):
    identity = read_identity(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_identity(path).node_id == identity.node_id


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigurationError, match="no regular file"):
        read_identity(tmp_path / "fifo")
    with pytest.raises(ConfigurationError, match="no regular file"):
        read_identity(tmp_path)


def broken(path, data, why):
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=why) as caught:
        read_identity(path)
    assert "\n" not in str(caught.value)
    return caught.value


def test_truncated_key_file_is_broken_at_every_length(path):
    whole = path.read_bytes()
    for length in range(len(whole) - 1):  # the last byte is the newline
        error = broken(path, whole[:length], "is broken")
        assert error.__cause__ is None  # a traceback must not quote keys


def test_extended_key_file_is_broken(path):
    whole = path.read_bytes()
    broken(path, whole + b"link 00\n", "its keys are damaged")
    broken(path, whole + b"#" * 4096, "it is no key file")


@pytest.mark.slow
def test_key_file_with_any_bit_of_its_keys_flipped_is_refused(path):
    whole = path.read_bytes()
    start = whole.index(b"\nidentity") + 1
    for position in range(start, len(whole) - 1):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(ConfigurationError, match="is broken"):
                read_identity(path)


def test_key_file_of_a_later_version_names_it(path):
    data = path.read_bytes().replace(b"version 1", b"version 2")
    broken(path, data, "has format version 2")


def test_broken_key_file_does_not_show_its_keys(path, identity):
    data = path.read_bytes()[:-9] + b"0" * 8 + b"\n"
    error = broken(path, data, "do not match its check")
    assert identity.identity_private.reveal().hex()[:8] not in str(error)
