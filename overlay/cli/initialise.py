"""``overlay init``: an identity and a commented configuration file."""

from __future__ import annotations

import argparse
import os
import secrets
from pathlib import Path
from random import SystemRandom

from overlay.addresses import format_address
from overlay.cli.answers import Answer
from overlay.cli.places import CONFIGURATION_FILE, own_directory
from overlay.cli.tables import facts
from overlay.config import Configuration, commented_configuration, parse_configuration
from overlay.config.setting import TomlValue
from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity, identity_cost_bits, meets_cost
from overlay.keyfile import read_identity, write_identity

__all__ = ["initialise"]


def initialise(arguments: argparse.Namespace) -> Answer:
    """Write key file and configuration; existing keys stay, whatever was asked.

    Raises:
        ConfigurationError: a configuration exists, the directory is not usable, the keys
            that are there cost less than the network asks, or an argument holds a mistake.
    """
    path = _configuration_path(arguments)
    if path.exists() and not arguments.force:
        raise ConfigurationError(
            f"{path} exists; edit it, or write it anew with --force (the keys are kept)."
        )
    text = commented_configuration(_chosen(arguments))
    configuration = parse_configuration(text, path)
    _make_directory(path.parent)
    identity, is_new = _identity(configuration.node.key_file, configuration.dht.identity_cost_bits)
    _write_configuration(path, text)
    return _answer(path, configuration, identity, is_new=is_new)


def _configuration_path(arguments: argparse.Namespace) -> Path:
    if arguments.config is not None and arguments.dir is not None:
        raise ConfigurationError("--dir and --config both say where to write; give one of them.")
    given: Path | None = arguments.config
    directory: Path = arguments.dir or own_directory()
    return (given or directory / CONFIGURATION_FILE).absolute()


def _chosen(arguments: argparse.Namespace) -> dict[tuple[str, str], TomlValue]:
    """Return what the arguments set, by section and setting; it is checked as a file's text is."""
    settings: dict[tuple[str, str], TomlValue | None] = {
        ("network", "network_id"): arguments.network_id,
        ("network", "listen"): arguments.listen,
        ("network", "advertise"): arguments.advertise,
        ("network", "bootstrap"): arguments.bootstrap,
        ("network", "allow_private_endpoints"): arguments.private or None,
        ("roles", "exit"): arguments.exit or None,
        ("dht", "identity_cost_bits"): arguments.identity_cost_bits,
    }
    return {setting: value for setting, value in settings.items() if value is not None}


def _make_directory(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the directory {path} cannot be made ({error.strerror}); choose another with --dir."
        ) from error


def _identity(path: Path, cost_bits: int) -> tuple[LocalIdentity, bool]:
    if path.exists():
        identity = read_identity(path)
        if not meets_cost(identity.identity_key, cost_bits):
            raise ConfigurationError(
                f"{path} holds an identity that costs "
                f"{identity_cost_bits(identity.identity_key)} bits and this network asks for "
                f"{cost_bits}; move the file away, so that another is searched for."
            )
        return identity, False
    identity = LocalIdentity.generate(SystemRandom(), cost_bits)
    write_identity(path, identity)
    return identity, True


def _write_configuration(path: Path, text: str) -> None:
    """Replace the file at once: a reader sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}); choose another place with --dir."
        ) from error


def _answer(
    path: Path, configuration: Configuration, identity: LocalIdentity, *, is_new: bool
) -> Answer:
    key_file = configuration.node.key_file
    address = format_address(identity.overlay_address)
    pairs = [
        ("configuration", str(path)),
        ("private keys", f"{key_file} ({'new' if is_new else 'kept'})"),
        ("node", identity.node_id.hex()),
        ("overlay address", address),
        ("identity cost", f"{identity_cost_bits(identity.identity_key)} bits"),
    ]
    if not configuration.network.advertised:
        pairs.append(
            ("note", "others cannot use this node as a relay until [network] advertise names it")
        )
    plain = {
        "configuration": str(path),
        "key_file": str(key_file),
        "new_keys": is_new,
        "node_id": identity.node_id.hex(),
        "overlay_address": address,
        "identity_cost_bits": identity_cost_bits(identity.identity_key),
    }
    return Answer(facts(pairs), plain)
