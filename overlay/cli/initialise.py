"""``overlay init``: create the keys of a node and a commented configuration file."""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from random import SystemRandom

from overlay.addresses import format_address
from overlay.cli.answers import CommandOutput
from overlay.cli.arguments import INIT_OPTIONS
from overlay.cli.places import CONFIGURATION_FILE, own_directory
from overlay.cli.tables import facts
from overlay.config import (
    Configuration,
    commented_configuration,
    load_configuration,
    parse_configuration,
)
from overlay.config.values import endpoint, endpoint_problem
from overlay.errors import ConfigurationError
from overlay.identity import LocalIdentity, identity_cost_bits, meets_cost
from overlay.keyfile import read_identity, write_identity
from overlay.plurals import counted
from overlay.settings import TomlValue

__all__ = ["initialise"]


def initialise(arguments: argparse.Namespace) -> CommandOutput:
    """Write the key file and the configuration. Existing keys are never replaced.

    If the configuration exists without its keys, only the keys are created. With ``--force`` the
    configuration is replaced, and the former file is kept beside the new one.

    Raises:
        ConfigurationError: a configuration exists, the directory cannot be used, the existing
            keys cost less than the network requires, or an argument is wrong.
    """
    path = _configuration_path(arguments)
    chosen = _chosen(arguments)
    former = None
    if path.exists() and not arguments.force:
        configuration = _of_existing(path, chosen)
        _make_directory(configuration.node.key_file.parent)
        text = None
    else:
        _check_endpoints(arguments)
        text = commented_configuration(chosen)
        configuration = parse_configuration(text, path)
        _make_directory(path.parent)
    cost_bits = configuration.dht.identity_cost_bits
    identity, is_new = _identity(configuration.node.key_file, cost_bits)
    if text is not None:
        former = _write_configuration(path, text)
    return _answer(path, configuration, identity, is_new=is_new, former=former)


def _of_existing(path: Path, chosen: Mapping[tuple[str, str], TomlValue]) -> Configuration:
    """Return the existing configuration, whose keys are missing.

    Raises:
        ConfigurationError: the keys exist too, or the arguments would change the file.
    """
    configuration = load_configuration(path)
    if chosen or configuration.node.key_file.exists():
        raise ConfigurationError(
            f"{path} exists; edit it, or replace it with --force (the former file and the keys "
            "are kept)."
        )
    return configuration


def _check_endpoints(arguments: argparse.Namespace) -> None:
    """Check endpoints like those of a file, with errors that name the option and its remedy."""
    for option in ("listen", "advertise", "bootstrap"):
        for text in getattr(arguments, option) or ():
            try:
                parsed = endpoint(text)
            except ValueError as error:
                raise ConfigurationError(f"--{option} {error}.") from error
            if option == "listen":
                continue
            problem = endpoint_problem(
                parsed, private=bool(arguments.private), allow="add --private"
            )
            if problem is not None:
                raise ConfigurationError(f'--{option} has "{parsed}", {problem}.')


def _configuration_path(arguments: argparse.Namespace) -> Path:
    if arguments.config is not None and arguments.dir is not None:
        raise ConfigurationError("--dir and --config exclude each other; give one of them.")
    given: Path | None = arguments.config
    directory: Path = arguments.dir or own_directory()
    return (given or directory / CONFIGURATION_FILE).absolute()


def _chosen(arguments: argparse.Namespace) -> dict[tuple[str, str], TomlValue]:
    """Return the settings that the arguments set, by section and name, not yet checked."""
    given = {
        (section, name): getattr(arguments, flag.removeprefix("--").replace("-", "_"))
        for flag, (section, name, _metavar) in INIT_OPTIONS.items()
    }
    return {setting: value for setting, value in given.items() if value is not None}


def _make_directory(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"the directory {path} cannot be created ({error.strerror}); choose another with --dir."
        ) from error


def _identity(path: Path, cost_bits: int) -> tuple[LocalIdentity, bool]:
    if path.exists():
        identity = read_identity(path)
        if not meets_cost(identity.identity_key, cost_bits):
            raise ConfigurationError(
                f"{path} has an identity with a cost of "
                f"{counted(identity_cost_bits(identity.identity_key), 'bit')}, and this network "
                f"requires {cost_bits}; move the file away, so that a new identity is created."
            )
        return identity, False
    identity = LocalIdentity.generate(SystemRandom(), cost_bits)
    write_identity(path, identity)
    return identity, True


def _write_configuration(path: Path, text: str) -> Path | None:
    """Replace the file atomically, so that a reader sees either the old text or the new text.

    Returns:
        The path of the kept former file, None if there was none.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    former = _free_name(path) if path.exists() else None
    try:
        temporary.write_text(text, encoding="utf-8")
        if former is not None:
            os.link(path, former)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}); choose another directory with --dir."
        ) from error
    return former


def _free_name(path: Path) -> Path:
    numbers = itertools.count(1)
    names = (path.with_name(f"{path.name}.old-{number}") for number in numbers)
    return next(name for name in names if not name.exists())


def _answer(
    path: Path,
    configuration: Configuration,
    identity: LocalIdentity,
    *,
    is_new: bool,
    former: Path | None,
) -> CommandOutput:
    key_file = configuration.node.key_file
    address = format_address(identity.overlay_address)
    asked = configuration.dht.identity_cost_bits
    cost = identity_cost_bits(identity.identity_key)
    pairs = [
        ("configuration", str(path)),
        *([("former file", str(former))] if former is not None else []),
        ("private keys", f"{key_file} ({'new' if is_new else 'kept'})"),
        ("node", identity.node_id.hex()),
        ("overlay address", address),
        # Any key has some bits by chance, so they are shown only if the network requires bits.
        *([("identity cost", f"{counted(cost, 'bit')}, {asked} required")] if asked else []),
    ]
    if not configuration.network.advertised:
        pairs.append(
            (
                "note",
                "other nodes use this node as a relay only if this host has a public address, or "
                "if [network] advertise has an address that a router forwards to this host",
            )
        )
    plain = {
        "configuration": str(path),
        "key_file": str(key_file),
        "new_keys": is_new,
        "node_id": identity.node_id.hex(),
        "overlay_address": address,
        "identity_cost_bits": cost,
        "former": str(former) if former is not None else None,
    }
    return CommandOutput(facts(pairs), plain)
