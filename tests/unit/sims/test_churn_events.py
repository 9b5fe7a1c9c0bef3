from collections import Counter
from random import Random

import pytest

from sims.world.churn import (
    PRESETS,
    Equilibrium,
    FlashCrowd,
    MassFailure,
    MassJoin,
    SessionModel,
    churn_events,
)
from sims.world.churn.lifetimes import Exponential, Fixed


def online_at(events, time_s):
    state = {}
    for event in events:
        if event.time_s <= time_s:
            state[event.node] = event.online
    return {node for node, online in state.items() if online}


def events_of(name, nodes=300, seed=1, hours=12.0, **more):
    return list(churn_events(PRESETS[name], nodes, Random(seed), duration_s=hours * 3600, **more))


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"bamboo", "oversim-verify"}))
def test_events_are_in_order_and_alternate_for_each_node(name):
    events = events_of(name)
    assert events == sorted(events, key=lambda event: event.time_s)
    last = {}
    for event in events:
        assert event.online is not last.get(event.node, False)
        last[event.node] = event.online


def test_same_random_gives_same_events_and_another_gives_others():
    assert events_of("kad2007") == events_of("kad2007")
    assert events_of("kad2007") != events_of("kad2007", seed=2)


def test_equilibrium_holds_the_availability_from_the_first_moment_on():
    events = events_of("kad2007", nodes=6000, hours=24)
    for hour in (0, 1, 5, 24):
        share = len(online_at(events, hour * 3600)) / 6000
        assert share == pytest.approx(PRESETS["kad2007"].availability(), abs=0.016)


def test_a_model_without_absences_keeps_its_number_by_new_nodes():
    events = events_of("ipfs2022", nodes=200, hours=24)
    for hour in (0, 7, 24):
        assert len(online_at(events, hour * 3600)) == 200
    assert max(event.node for event in events) > 400
    ends = Counter(event.node for event in events)
    assert max(ends.values()) == 2  # comes once, leaves once


def test_relay_mix_loses_one_percent_an_hour_and_a_third_stays():
    events = events_of("relay-mix", nodes=4000, hours=30)
    leaves = sum(not event.online for event in events)
    assert leaves / 4000 / 30 == pytest.approx(0.01, rel=0.1)
    stayed = len(online_at(events, 30 * 3600) & set(range(4000))) / 4000
    assert stayed == pytest.approx(PRESETS["relay-mix"].residual_survival(30 * 3600), abs=0.02)


def test_mass_join_starts_empty_and_fills_within_its_time():
    events = events_of("p2psim", nodes=100, start=MassJoin(at_s=100, over_s=10))
    firsts = {}
    for event in events:
        firsts.setdefault(event.node, event)
    assert len(firsts) == 100
    assert all(event.online and 100 <= event.time_s <= 110 for event in firsts.values())


def test_mass_join_at_zero_has_new_sessions():
    model = SessionModel("fixed", Fixed(50.0), None)
    events = churn_events(model, 20, Random(1), duration_s=60, start=MassJoin(0.0, 0.0))
    ends = [event.time_s for event in events if not event.online and event.node < 20]
    assert ends == [50.0] * 20
    residual = churn_events(model, 20, Random(1), duration_s=60, start=Equilibrium())
    assert len({event.time_s for event in residual if not event.online}) > 10


def test_mass_failure_takes_its_share_of_those_on_line_for_good():
    failure = MassFailure(at_s=3600.0, share=0.3)
    events = events_of("p2psim", nodes=1000, shocks=[failure], hours=6)
    before = online_at([event for event in events if event.time_s < 3600.0], 3600.0)
    gone = [event.node for event in events if event.time_s == 3600.0]
    assert len(gone) == round(0.3 * len(before))
    assert set(gone) <= before
    assert not [e for e in events if e.node in set(gone) and e.time_s > 3600.0]


def test_mass_failure_without_returns_leaves_a_smaller_overlay():
    model = SessionModel("rare", Exponential(1e9), None)
    events = list(
        churn_events(model, 100, Random(1), duration_s=7200, shocks=[MassFailure(3600.0, 0.5)])
    )
    assert len(online_at(events, 7200)) == 50


def test_flash_crowd_comes_once_and_leaves():
    crowd = FlashCrowd(at_s=600.0, nodes=50, over_s=30.0)
    events = events_of("oversim", nodes=10, hours=200, shocks=[crowd])
    strangers = [event for event in events if 10 <= event.node < 60]
    assert Counter(event.node for event in strangers) == dict.fromkeys(range(10, 60), 2)
    assert all(600 <= event.time_s <= 630 for event in strangers if event.online)


def test_no_event_lies_beyond_the_end():
    assert max(event.time_s for event in events_of("bamboo", nodes=50, hours=0.5)) <= 1800


@pytest.mark.parametrize(
    "build",
    [
        lambda: MassFailure(1.0, 0.0),
        lambda: MassFailure(1.0, 1.1),
        lambda: MassJoin(-1.0),
        lambda: MassJoin(0.0, float("inf")),
        lambda: FlashCrowd(1.0, 0),
        lambda: churn_events(PRESETS["kad2007"], 0, Random(1)),
    ],
)
def test_impossible_arrivals_are_refused(build):
    with pytest.raises(ValueError, match=r"."):
        build()
