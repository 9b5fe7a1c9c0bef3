"""Both packet filters have words for each condition that a rule can have."""

import dataclasses
import ipaddress

import pytest

from overlay.system.iptables import render_iptables
from overlay.system.nftables import render_nftables
from overlay.system.packet_filter import FilterTable, Hook, Rule, Verdict
from overlay.system.rule_conditions import Condition

NETWORK = ipaddress.ip_network("fd00::/8")
EXAMPLES = {
    "in_device": "in0",
    "not_in_device": "in0",
    "out_device": "out0",
    "source": NETWORK,
    "not_source": NETWORK,
    "destination": NETWORK,
    "has_mark": True,
    "mark": 5,
    "reply": True,
    "unknown": True,
    "redirected": True,
    "reply_destination": NETWORK,
    "local": True,
    "protocol": 17,
    "ports": (1, 2),
    "icmp_type": 3,
    "longer_than": 100,
    "at_most": 200,
    "labelled": True,
    "ipsec_in": False,
    "ipsec_out": False,
}
NO_CONDITIONS = {"hook", "verdict", "version", "over", "counted", "segment"}


def rendered(rule):
    table = FilterTable("test", 9, (rule,))
    return render_nftables(table), render_iptables(table, 6)


def test_each_field_of_a_rule_is_a_condition_or_named_here():
    fields = {field.name for field in dataclasses.fields(Rule)} - NO_CONDITIONS
    assert fields == set(EXAMPLES)
    assert fields <= {condition.value for condition in Condition}


@pytest.mark.parametrize("field", EXAMPLES)
def test_both_filters_write_the_condition(field):
    rule = Rule(hook=Hook.FORWARD, verdict=Verdict.DROP, version=6)
    narrowed = dataclasses.replace(rule, **{field: EXAMPLES[field]})
    for without, with_it in zip(rendered(rule), rendered(narrowed), strict=True):
        assert with_it != without
