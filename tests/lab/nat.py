"""A router that translates one host's node to an outside address, and may change its mind."""

import contextlib

from overlay.addresses import InnerAddress
from overlay.system.conntrack import forget_connections

_TABLE = """
table ip lab_nat {{}}
delete table ip lab_nat
table ip lab_nat {{
  chain inwards {{
    type filter hook prerouting priority -300;
    ip daddr {inside} udp dport {port} counter drop
    ip daddr {outside} udp dport {outside_port} notrack ip daddr set {inside} udp dport set {port}
  }}
  chain outwards {{
    type filter hook postrouting priority 300;
    ip saddr {inside} udp sport {port} udp sport set {outside_port} ip saddr set {outside}
  }}
}}
"""


def map_to(host, outside, outside_port, port=4500):
    """Let the host's node appear at an outside address and port from now on, and nowhere else.

    Replaced at once, as a mapping is that a router forgets: what is sent to the former one is lost.
    """
    table = _TABLE.format(
        inside=host.ipv4.ip, outside=outside, outside_port=outside_port, port=port
    )
    host.core.run(["nft", table])


def map_in_kernel(host, outside, outside_port, port=4500):
    """Do the same with iptables, where connection tracking remembers the mapping."""
    rule = (
        f"-s {host.ipv4.ip} -p udp --sport {port} -j SNAT --to-source {outside}:{outside_port}"
    ).split()
    table = ["iptables-legacy", "-t", "nat"]
    host.core.run([*table, "-F", "POSTROUTING"])
    host.core.run([*table, "-A", "POSTROUTING", *rule])
    forget_mappings(host)


def forget_mappings(host):
    """Let the router forget every connection of a host."""
    assert host.core.call(lambda: forget_connections(InnerAddress(host.ipv4.ip.packed))) is not None


@contextlib.contextmanager
def translated(host):
    """Take the translation away afterwards."""
    try:
        yield
    finally:
        host.core.run(["nft", "delete table ip lab_nat"], check=False)
