"""Read the TOML configuration into one frozen value of checked settings.

::

    overlay.toml ──tomllib──> tables ──each setting's parser──> sections ──> Configuration
                                 └── unknown, wrong type, out of range ──> ConfigurationError
"""

from overlay.config.configuration import Configuration
from overlay.config.load import load_configuration, parse_configuration
from overlay.config.render import commented_configuration
from overlay.config.sections import (
    ExitSettings,
    ForwardingSettings,
    IpsecSettings,
    NetworkSettings,
    NodeSettings,
    PathSettings,
    RoleSettings,
    SelectionSettings,
    TfcSettings,
)

__all__ = [
    "Configuration",
    "ExitSettings",
    "ForwardingSettings",
    "IpsecSettings",
    "NetworkSettings",
    "NodeSettings",
    "PathSettings",
    "RoleSettings",
    "SelectionSettings",
    "TfcSettings",
    "commented_configuration",
    "load_configuration",
    "parse_configuration",
]
