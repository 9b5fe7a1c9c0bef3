"""A packet, and the verdict of a table of rules on it."""

import ipaddress
from dataclasses import dataclass
from fnmatch import fnmatch

from hypothesis import strategies as st

from overlay.exit_policy import ExitPolicy, ExitRule
from overlay.system.exit_networks import ExitNetworks, exit_rules
from overlay.system.ipsec_firewall import wall_rules
from overlay.system.kill_switch import ipsec_kill_switch_filter
from overlay.system.packet_filter import Verdict
from overlay.system.rtnetlink import Route, RouteKind

MARK = 0x6D69


POOL4, POOL6 = ipaddress.ip_network("100.64.0.0/10"), ipaddress.ip_network("fd99::/64")


INNER = {4: "100.64.0.2", 6: "fd99::2"}


OVERLAY, CIRCUIT = "fd6d:6978::1", "fd63:6972::1"


OUTSIDE = "2a00:db8::7"
FINAL = {Verdict.ACCEPT, Verdict.DROP, Verdict.REFUSE}
NORMALISED = {
    4: [
        Verdict.HOP_LIMIT,
        Verdict.TRAFFIC_CLASS,
        Verdict.DONT_FRAGMENT,
        Verdict.IDENTIFICATION,
    ],
    6: [Verdict.HOP_LIMIT, Verdict.TRAFFIC_CLASS, Verdict.FLOW_LABEL],
}


@dataclass
class Packet:
    source: str
    destination: str
    in_device: str = "eth0"
    out_device: str = "eth0"
    protocol: int = 6
    port: int | None = 443
    ipsec_in: bool = False
    ipsec_out: bool = False
    reply: bool = False
    unknown: bool = False
    redirected: bool = False
    labelled: bool = False
    mark: int = 0
    length: int = 60
    local: bool = False
    icmp_type: int | None = None
    reply_destination: str | None = None


def verdict(rules, hook, packet):
    """Return the first final verdict, and what was done to the packet before."""
    done = []
    for rule in rules:
        if rule.hook is hook and matches(rule, packet):
            if rule.verdict in FINAL:
                return rule.verdict, done
            done.append(rule.verdict)
    return Verdict.ACCEPT, done


def matches(rule, packet):
    source, destination = map(ipaddress.ip_address, (packet.source, packet.destination))
    has_port = packet.protocol in (6, 17) and packet.port is not None
    return all(
        (
            rule.ip_version in (None, source.version),
            rule.source is None or source in rule.source,
            rule.destination is None or destination in rule.destination,
            rule.in_device in (None, packet.in_device),
            rule.out_device is None or fnmatch(packet.out_device, rule.out_device),
            rule.protocol in (None, packet.protocol),
            rule.ports is None or (has_port and rule.ports[0] <= packet.port <= rule.ports[1]),
            rule.ipsec_in in (None, packet.ipsec_in),
            rule.ipsec_out in (None, packet.ipsec_out),
            packet.reply or not rule.reply,
            packet.unknown or not rule.unknown,
            packet.redirected or not rule.redirected,
            packet.labelled or not rule.labelled,
            rule.at_most is None or packet.length <= rule.at_most,
            packet.mark == MARK or not rule.has_mark,
            rule.mark in (None, packet.mark),
            rule.longer_than is None or packet.length > rule.longer_than,
            packet.local or not rule.local,
            rule.icmp_type in (None, packet.icmp_type),
            rule.reply_destination is None
            or str(rule.reply_destination.network_address) == packet.reply_destination,
        )
    )


NETWORKS = [
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/0",
        "::/0",
        "203.0.114.0/24",
        "203.0.114.7/32",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "169.254.0.0/16",
        "169.254.169.254/32",
    )
]


rules = st.builds(
    ExitRule,
    st.booleans(),
    st.sampled_from(NETWORKS),
    st.sampled_from([0, 80]),
    st.sampled_from([443, 65535]),
)


def plan(policy):
    return ExitNetworks("anonsec0", (POOL4, POOL6), 1038, ("eth0",), policy, ("eth1",))


EVERYTHING = ExitPolicy(
    tuple(ExitRule(accept=True, network=network) for network in NETWORKS[:2]),
    (ipaddress.ip_network("fd00::/8"),),
)


EXIT = exit_rules(plan(EVERYTHING))
WALL = wall_rules((6978, 6979), closed=True)
CUTTING_WALL = wall_rules((6978, 6979), closed=True, cuts_links=True)


WIDE, NARROW = ipaddress.ip_network("198.51.0.0/16"), ipaddress.ip_network("198.51.101.0/24")


KILL_SWITCH = ipsec_kill_switch_filter(
    "guard-1",
    MARK,
    [
        Route(WIDE, RouteKind.UNREACHABLE, 1, 9),
        Route(
            WIDE, RouteKind.UNICAST, 1, 1, "anonsec0", ipaddress.ip_address(INNER[4]), 1038
        ),
        Route(NARROW, RouteKind.UNREACHABLE, 1, 9),
    ],
).rules  # fmt: skip


CUT_KILL_SWITCH = ipsec_kill_switch_filter(
    "guard-1",
    MARK,
    [
        Route(WIDE, RouteKind.UNREACHABLE, 1, 9),
        Route(
            WIDE, RouteKind.UNICAST, 1, 1, "anonfrag0", ipaddress.ip_address(INNER[4]), 1038, True
        ),
    ],
).rules  # fmt: skip
