"""The churn script: one play for both worlds."""

import itertools
from statistics import fmean

import pytest

from lab.churn.script import FAST, FULL, ChurnScript, endpoint_of
from lab.underlay import numbered_addresses


@pytest.mark.parametrize("timing", [FAST, FULL], ids=["fast", "full"])
def test_script_is_the_same_for_the_same_seed_and_another_for_another(timing):
    assert ChurnScript(1, timing).switches == ChurnScript(1, timing).switches
    assert ChurnScript(1, timing).switches != ChurnScript(2, timing).switches


def test_cast_has_every_node_once():
    script = ChurnScript(1, FAST)
    cast = [script.bootstrap, *script.exits, *script.clients, *script.relays, script.prober]
    assert cast == list(range(31))


def test_each_relay_starts_and_stops_in_turns_within_the_time():
    script = ChurnScript(3, FULL)
    assert list(script.switches) == sorted(script.switches, key=lambda s: s.time_s)
    for relay in script.relays:
        life = [switch for switch in script.switches if switch.node == relay]
        assert [switch.online for switch in life] == [n % 2 == 0 for n in range(len(life))]
        assert all(0 < switch.time_s < FULL.end_s for switch in life)


def test_sessions_and_absences_have_the_stated_means():
    sessions, absences = [], []
    for seed in range(60):
        script = ChurnScript(seed, FULL)
        for relay in script.relays:
            life = [switch for switch in script.switches if switch.node == relay]
            for one, other in itertools.pairwise(life):
                if one.time_s < FULL.end_s / 3:  # else the end cuts the long ones off
                    (sessions if one.online else absences).append(other.time_s - one.time_s)
    assert fmean(sessions) == pytest.approx(FULL.mean_session_s, rel=0.12)
    assert fmean(absences) == pytest.approx(FULL.mean_absence_s, rel=0.12)


def test_settled_nodes_have_been_there_for_the_stated_time():
    script = ChurnScript(1, FAST)
    for time_s in (10.0, 55.5, 120.0):
        online = {}
        for switch in script.switches:
            if switch.time_s <= time_s:
                online[switch.node] = switch.time_s if switch.online else None
        relays = {n for n, since in online.items() if since is not None and time_s - since >= 5.0}
        assert set(script.settled(time_s)) == relays | set(range(9))


def test_endpoints_are_those_of_the_laboratory():
    for node in (0, 7, 30):
        ipv4, _ = numbered_addresses(node + 1)
        assert endpoint_of(node).host == str(ipv4.ip)
