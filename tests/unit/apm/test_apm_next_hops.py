"""Sources make a relay open some links, and leave places for its own paths."""

from __future__ import annotations

from dataclasses import replace

import pytest
from apm_fakes import NOW, Actor, controls, lab_settings
from apm_onions import relay_layer, send

from overlay.addresses import Endpoint
from overlay.apm.control import Refuse, RefuseReason
from overlay.apm.next_hops import NextHops
from overlay.apm.settings import ApmSettings
from overlay.link.settings import LinkSettings

FEW = replace(lab_settings(), max_next_hops=4)


def test_all_that_others_can_open_leaves_places_for_own_paths():
    links, circuits = LinkSettings(), ApmSettings()
    others = links.max_accepted_links + links.max_unproved_half_open + circuits.max_next_hops
    assert others + circuits.max_source_circuits <= links.max_links


def refusals(relay: Actor) -> list[RefuseReason]:
    return [m.reason for m in controls(relay.sends()) if isinstance(m, Refuse)]


@pytest.mark.parametrize("linked", [False, True])
def test_a_link_that_exists_anyway_tells_nothing_where_next_hops_are_used_up(linked):
    """Else its neighbours could ask for the links of a source's own paths."""
    relay = Actor(2, settings=FEW)
    hosts = [f"{n}.1.1.1" for n in (50, 60, 70, 80, 90, 100)]
    sources = [Actor(n, where=Endpoint(host, 4500)) for n, host in enumerate(hosts, 10)]
    targets = [Actor(n) for n in range(30, 36)]
    for source in sources:
        relay.link_to(source)
        source.link_to(relay)
    if linked:
        relay.link_to(targets[4])
    for source, target in zip(sources[:4], targets, strict=False):
        send(source, relay, relay_layer(source, relay, target.address))
    assert refusals(relay) == []
    send(sources[4], relay, relay_layer(sources[4], relay, targets[4].address))
    assert refusals(relay) == [RefuseReason.LIMIT]
    send(sources[5], relay, relay_layer(sources[5], relay, targets[0].address))
    assert refusals(relay) == [], "a next hop that others have reached takes no place more"


def address(number: int):
    return Actor(number).address


def test_places_are_free_again_some_time_after_the_last_circuit():
    used = {address(1)}
    hops = NextHops(1, lambda neighbour: (), lambda: used)
    assert hops.admits(address(1), address(9), NOW)
    hops.add(address(1), address(9))
    assert not hops.admits(address(2), address(9), NOW + 1000)
    used.clear()
    assert not hops.admits(address(2), address(9), NOW + 1010), "its link is still there"
    assert not hops.admits(address(2), address(9), NOW + 1060)
    assert hops.admits(address(2), address(9), NOW + 1100)
    assert len(hops) == 0
