"""Addresses at which a cloud serves its hosts without a password.

Such a service answers a request of a host with that host's secrets: its configuration, keys of its
account, tokens. An exit on such a host would send requests of its circuits there. Some of these
addresses look like public ones, so IANA's registries do not name them. A wide prefix in
``[exit] allow_forbidden`` does not permit them either, because an operator who permits a private
network does not expect them to be in it.

Compiled from the providers' documentation, as of :data:`SERVICES_DATE`.
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

from overlay.addresses import IpNetwork

__all__ = ["CLOUD_SERVICES", "SERVICES_DATE", "CloudService"]

SERVICES_DATE: Final = "2026-11-30"


class CloudService(NamedTuple):
    """A prefix, with the provider and the services there."""

    prefix: str
    provider: str

    @property
    def network(self) -> IpNetwork:
        """The prefix as a network."""
        return ipaddress.ip_network(self.prefix)


CLOUD_SERVICES: Final = (
    # -- in prefixes that look public --
    CloudService("168.63.129.16/32", "Azure: agent, health probes, DNS, DHCP"),
    CloudService("161.26.0.0/16", "IBM Cloud: DNS, time, mirrors"),
    CloudService("166.8.0.0/14", "IBM Cloud: service endpoints"),
    CloudService("199.36.153.4/30", "Google Cloud: restricted.googleapis.com"),
    CloudService("199.36.153.8/30", "Google Cloud: private.googleapis.com"),
    CloudService("2600:2d00:2:1000::/64", "Google Cloud: restricted.googleapis.com"),
    CloudService("2600:2d00:2:2000::/64", "Google Cloud: private.googleapis.com"),
    # -- in special networks, which a policy may permit --
    CloudService("169.254.169.254/32", "AWS, Azure, Google, Oracle, OpenStack: metadata"),
    CloudService("169.254.169.253/32", "AWS: DNS"),
    CloudService("169.254.169.123/32", "AWS: time"),
    CloudService("169.254.170.2/32", "AWS: credentials of containers"),
    CloudService("169.254.170.23/32", "AWS: credentials of pods"),
    CloudService("169.254.42.42/32", "Scaleway: metadata"),
    CloudService("169.254.0.23/32", "Tencent Cloud: metadata"),
    CloudService("100.100.100.200/32", "Alibaba Cloud: metadata"),
    CloudService("100.100.2.136/32", "Alibaba Cloud: DNS"),
    CloudService("100.100.2.138/32", "Alibaba Cloud: DNS"),
    CloudService("192.0.0.192/32", "Oracle Cloud: metadata"),
    CloudService("fd00:ec2::/32", "AWS: metadata, DNS, time, credentials of pods"),
    CloudService("fd20:ce::254/128", "Google Cloud: metadata"),
    CloudService("fd00:c1::a9fe:a9fe/128", "Oracle Cloud: metadata"),
    CloudService("fd00:42::42/128", "Scaleway: metadata"),
    CloudService("fe80::a9fe:a9fe/128", "OpenStack: metadata"),
)
