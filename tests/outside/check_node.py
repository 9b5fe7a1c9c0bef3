"""Run by tests/conformance/test_outside_backend.py, where this distribution is installed."""

import ipaddress
from dataclasses import replace

from loopback_overlay import cast, run, running

BOB = ipaddress.ip_network("203.0.113.10/32")


def test_a_node_carries_a_path_with_the_backend_that_its_configuration_names(tmp_path):
    participants = cast(tmp_path, relays=2, exits=1, alice=True)
    for each in participants:
        ipsec = replace(each.configuration.ipsec, backend="outside")
        each.configuration = replace(each.configuration, ipsec=ipsec)

    async def program():
        async with running(participants) as nodes:
            async with nodes[-1].anonymous_path(BOB, hops=3) as path:
                assert path.report().state == "open"
            assert {node.service.status().backend for node in nodes} == {"outside"}

    run(program)
