"""Read and write the key file, which has a node's three private keys and only its owner can read.

It is text with one field per line and at most 4,096 bytes. Lines with ``#`` are comments::

    overlay private keys, version 1
    identity 64 lower-case hexadecimal digits: Ed25519 (RFC 8032)
    onion 64 digits: X25519 (RFC 7748), opens onion layers
    link 64 digits: X25519, static key of the link handshake
    check 16 digits: first 8 bytes of SHA-256 over label and the three keys

The check detects a file that was damaged or edited. Otherwise a changed key would be another valid
key, and the node would have another identity without a message. The check is no defence against an
attacker.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity

__all__ = ["read_identity", "write_identity"]

_TITLE: Final = "overlay private keys, version 1"
_TITLE_PATTERN: Final = re.compile(r"overlay private keys, version ([0-9]{1,9})")
_FIELD_PATTERN: Final = re.compile(
    "identity ([0-9a-f]{64})\nonion ([0-9a-f]{64})\nlink ([0-9a-f]{64})\ncheck ([0-9a-f]{16})"
)
_CHECK_LABEL: Final = b"overlay key file v1"
_FIELDS: Final = ("identity", "onion", "link", "check")
_MAX_FILE_BYTES: Final = 4096


def write_identity(path: Path, identity: LocalIdentity) -> None:
    """Write a new key file; after a crash it is complete or absent.

    Raises:
        ConfigurationError: the file exists (it is never overwritten) or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_durably(temporary, _encode(identity))
        try:
            # link(2), unlike rename(2), fails if the name exists.
            os.link(temporary, path)
        finally:
            temporary.unlink()
        _sync_directory(path.parent)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path} exists and keys are never overwritten; move it away first."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}); choose a directory that this user may "
            "write to."
        ) from error


def read_identity(path: Path, *, make: str = "overlay init") -> LocalIdentity:
    """Read a key file; ``make`` is the command that the message names if there is none.

    Raises:
        ConfigurationError: it is missing, not this user's, readable by others, or broken.
    """
    try:
        # O_NONBLOCK, so that the node does not wait for ever if the path is a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise ConfigurationError(f"there is no key file {path}; make one with: {make}") from error
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error.strerror}); run as the user that owns it."
        ) from error
    try:
        _check_access(path, os.fstat(descriptor))
        data = os.read(descriptor, _MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    return _decode(path, data)


def _write_durably(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_access(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"{path} is no regular file; name the key file itself.")
    if status.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{path} belongs to user {status.st_uid} and this is user {os.geteuid()}; run as its "
            f"owner, or change the owner with: chown {os.geteuid()} {path}"
        )
    if status.st_mode & 0o077:
        raise ConfigurationError(
            f"{path} can be read or changed by others; run: chmod 600 {path} (and make new keys "
            "if others had access to this machine)."
        )


def _encode(identity: LocalIdentity) -> str:
    private = (identity.identity_private, identity.onion_private, identity.link_private)
    keys = tuple(key.reveal() for key in private)
    values = (*(key.hex() for key in keys), _check(keys).hex())
    lines = [f"{name} {value}" for name, value in zip(_FIELDS, values, strict=True)]
    return "\n".join(
        [_TITLE, "# These keys are the identity of this node. Keep them secret.", *lines, ""]
    )


def _decode(path: Path, data: bytes) -> LocalIdentity:
    lines = _lines(path, data)
    version = _TITLE_PATTERN.fullmatch(lines[0]) if lines else None
    if version is None:
        raise _broken(path, "it is no key file")
    if version.group(1) != "1":
        raise ConfigurationError(
            f"{path} has format version {version.group(1)} and this program knows version 1; "
            "use the program that wrote it."
        )
    fields = _FIELD_PATTERN.fullmatch("\n".join(lines[1:]))
    if fields is None:
        raise _broken(path, "its keys are damaged")
    *keys, check = (bytes.fromhex(field) for field in fields.groups())
    if check != _check(tuple(keys)):
        raise _broken(path, "its keys do not match its check")
    return LocalIdentity.from_private_bytes(*keys)


def _lines(path: Path, data: bytes) -> list[str]:
    # A copy from Windows has a byte-order mark and CRLF, but the same keys.
    data = data.removeprefix(codecs.BOM_UTF8)
    if len(data) > _MAX_FILE_BYTES or not data.isascii():
        raise _broken(path, "it is no key file")
    lines = data.decode("ascii").replace("\r\n", "\n").split("\n")
    return [line for line in lines if line and not line.startswith("#")]


def _check(keys: tuple[bytes, ...]) -> bytes:
    return hashlib.sha256(_CHECK_LABEL + b"".join(keys)).digest()[:8]


def _broken(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is broken ({why}); restore it from a copy. Without one, move it away and run "
        '"overlay init", which makes another identity.'
    )
