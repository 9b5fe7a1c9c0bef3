"""What of a host's changes concerns its exit."""

import ipaddress

import pytest

from overlay.node.shells.exit_watch import concerns_exit
from overlay.system.host_events import (
    AddressChanged,
    FilterChanged,
    IpsecChanged,
    LinkChanged,
    Overrun,
    RouteChanged,
    RuleChanged,
)

NAMES = {1: "eth0", 2: "anonsec0", 3: "exit0"}
INNER = ipaddress.ip_address("100.64.0.7")


@pytest.mark.parametrize(
    ("event", "concerns"),
    [
        (FilterChanged(7), True),
        (Overrun(), True),
        (RuleChanged(4, 52, 100), True),
        (LinkChanged(1, "eth0", up=False, running=False), True),
        (LinkChanged(2, "anon0", up=True, running=True), False),
        (LinkChanged(3, "exit0", up=True, running=True, gone=True), True),
        (AddressChanged(1, INNER, 24), True),
        (AddressChanged(2, INNER, 32), False),
        (RouteChanged(4, 254, 1, is_default=True, gone=True), True),
        (RouteChanged(4, 52, 1, is_default=False), True),
        (RouteChanged(4, 254, 3, is_default=False), False),
        (RouteChanged(4, 255, 1, is_default=False), False),
        (RouteChanged(4, 254, 9, is_default=True), True),
        (IpsecChanged(policies=True, flushed=False), False),
    ],
)
def test_circuits_own_changes_are_no_reason_to_review_the_exit(event, concerns):
    assert concerns_exit([event], lambda index: NAMES.get(index, "")) is concerns


def test_one_change_is_enough():
    circuit = IpsecChanged(policies=True, flushed=False)
    assert concerns_exit([circuit, Overrun()])
    assert not concerns_exit([circuit])
