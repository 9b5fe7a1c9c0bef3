"""The whole configuration as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from overlay.config.blocks import block_settings_type, followed, plugin_settings_type
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
from overlay.special_networks import DOCUMENTATION_NETWORKS

if TYPE_CHECKING:
    from overlay.apm.settings import ApmSettings
    from overlay.dht.settings import DhtSettings
    from overlay.exit_policy import ExitPolicy
    from overlay.link.settings import LinkSettings

__all__ = ["Configuration"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """All settings of a node; every value has been checked.

    ``plugin_tables`` has the settings of the plug-ins that the file mentions, by entry-point
    group and name. :meth:`plugin_settings` returns them, or the defaults of other plug-ins.

    Raises:
        ValueError: two sections contradict each other. The message is for the user.
    """

    node: NodeSettings = field(default_factory=NodeSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    roles: RoleSettings = field(default_factory=RoleSettings)
    exit: ExitSettings = field(default_factory=ExitSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
    paths: PathSettings = field(default_factory=PathSettings)
    tfc: TfcSettings = field(default_factory=TfcSettings)
    forwarding: ForwardingSettings = field(default_factory=ForwardingSettings)
    ipsec: IpsecSettings = field(default_factory=IpsecSettings)
    apm: ApmSettings = field(default_factory=lambda: block_settings_type("apm")())
    dht: DhtSettings = field(default_factory=lambda: block_settings_type("dht")())
    link: LinkSettings = field(default_factory=lambda: block_settings_type("link")())
    plugin_tables: Mapping[tuple[str, str], object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.roles.exit and not self.exit.policy:
            raise ValueError(
                "[exit] policy must hold at least one rule when [roles] exit = true; "
                'write policy = ["accept *:*"] or set exit = false'
            )
        if self.roles.exit:
            self._check_pools()
        pools = (self.exit.inner_ipv4, self.exit.inner_ipv6)
        for destination in self.paths.permanent:
            for pool in pools:
                if pool.version == destination.version and pool.overlaps(destination):
                    raise ValueError(
                        f'[paths] permanent has "{destination}", which overlaps the inner '
                        f"addresses {pool} of [exit]; leave it out"
                    )

    def _check_pools(self) -> None:
        """Check that no peer has an inner address, because its packets would go to circuits."""
        for name in ("inner_ipv4", "inner_ipv6"):
            pool = getattr(self.exit, name)
            for endpoint in (*self.network.bootstrap, *self.network.advertise):
                if endpoint.address.version == pool.version and endpoint.address in pool:
                    raise ValueError(
                        f'[exit] {name} = "{pool}" contains the endpoint "{endpoint}" of '
                        "[network]; write another private prefix that no node is in"
                    )

    def exit_policy(self) -> ExitPolicy | None:
        """Return the exit policy that is signed and enforced; None if this node is no exit.

        Laboratories use documentation addresses in place of the public Internet. So an exit that
        allows private endpoints lets circuits reach documentation addresses.
        """
        if not self.roles.exit:
            return None
        laboratory = self.network.allow_private_endpoints
        return self.exit.exit_policy(DOCUMENTATION_NETWORKS if laboratory else ())

    def plugin_settings(self, group: str, name: str) -> Any | None:  # noqa: ANN401 - the plug-in knows its type
        """Return the settings of a plug-in, or None if it has none.

        The result has the defaults if the file does not mention the plug-in.

        Raises:
            ConfigurationError: no plug-in of that name is installed.
        """
        if (group, name) in self.plugin_tables:
            return self.plugin_tables[group, name]
        settings_type = plugin_settings_type(group, name)
        if settings_type is None:
            return None
        sections = {each.name: getattr(self, each.name) for each in fields(self)}
        return settings_type(**followed(settings_type, sections))
