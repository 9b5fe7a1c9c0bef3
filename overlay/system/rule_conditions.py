"""The conditions of a rule in one order, which nftables and iptables render in their own words."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from overlay.system.packet_filter import Rule, Verdict

__all__ = ["Condition", "Words", "render_conditions"]


class Condition(enum.Enum):
    """What a rule can ask of a packet.

    Conditions with a name of a field of :class:`Rule` have the value of that field. The others
    follow from the verdict.
    """

    IP_VERSION = "ip_version"
    IN_DEVICE = "in_device"
    NOT_IN_DEVICE = "not_in_device"
    OUT_DEVICE = "out_device"
    SOURCE = "source"
    NOT_SOURCE = "not_source"
    DESTINATION = "destination"
    HAS_MARK = "has_mark"
    MARK = "mark"
    REPLY = "reply"
    UNKNOWN = "unknown"
    REDIRECTED = "redirected"
    REPLY_DESTINATION = "reply_destination"
    LOCAL = "local"
    CONNECTION_MARK = "the connection has the mark of the table"
    PROTOCOL = "protocol"
    ICMP_TYPE = "icmp_type"
    PORTS = "ports"
    LONGER_THAN = "longer_than"
    AT_MOST = "at_most"
    LABELLED = "labelled"
    FRAGMENTABLE = "an IPv4 packet without DF that is no fragment"
    UNFRAGMENTABLE = "an IPv4 packet with DF"
    IPSEC_IN = "ipsec_in"
    IPSEC_OUT = "ipsec_out"
    BRIDGED = "a bridge forwards the packet"
    TCP_SYN = "a TCP segment with SYN and without RST"


Words = Mapping[Condition, Callable[[Any, Rule], str]]
"""How a packet filter writes a condition, from its value and the rule."""

_OF_VERDICT: Final = {
    Verdict.RESTORE_MARK: Condition.CONNECTION_MARK,
    Verdict.DONT_FRAGMENT: Condition.FRAGMENTABLE,
    Verdict.IDENTIFICATION: Condition.UNFRAGMENTABLE,
    Verdict.BRIDGED: Condition.BRIDGED,
    Verdict.CLAMP_MSS: Condition.TCP_SYN,
    Verdict.STRIP_TIMESTAMPS: Condition.TCP_SYN,
}
_OF_TABLE: Final = (Condition.HAS_MARK, Condition.CONNECTION_MARK)
"""Their value is the mark of the table."""

_FIELDS: Final = frozenset(Rule.__dataclass_fields__) | {"ip_version"}
_BOTH_VALUES: Final = (Condition.IPSEC_IN, Condition.IPSEC_OUT)
"""False is a condition of its own here; elsewhere it means that there is no condition."""


def render_conditions(rule: Rule, mark: int, words: Words) -> Iterator[str]:
    """Yield the conditions of a rule; those without words are left out.

    Args:
        rule: the rule.
        mark: the mark of its table.
        words: how this packet filter writes conditions.
    """
    for each in Condition:
        value = _value(rule, each)
        absent = value is None or (value is False and each not in _BOTH_VALUES)
        if not absent and each in words:
            yield words[each](mark if each in _OF_TABLE else value, rule)


def _value(rule: Rule, condition: Condition) -> Any:  # noqa: ANN401 - each condition has its type
    if condition.value in _FIELDS:
        return getattr(rule, condition.value)
    return _OF_VERDICT.get(rule.verdict) is condition
