from dataclasses import replace

import pytest
from node_reports import STATUS as WELL

from overlay.control.service import PathReport
from overlay.node.status_summary import judged

ALONE = replace(WELL, joined=False, contacts=0, mix_nodes=0, exits=0)
OPEN = PathReport(1, "192.0.2.7/32", "open", (), (), None, 1.0, "uniform", 1280)
LOST = replace(
    OPEN,
    number=2,
    state="rebuilding",
    trouble="the last circuit ended: the exit does not answer (hop 2 of 3 is silent)",
    next_try_s=4.9,
)
PEER = ["198.51.100.7:4500"]


@pytest.mark.parametrize(
    ("report", "paths", "bootstrap", "words"),
    [
        (WELL, [], PEER, "This node works: it has joined the overlay (7 contacts"),
        (WELL, [], PEER, "open a path with: overlay path open DESTINATION."),
        (WELL, [OPEN], PEER, "1 exit) and its path is open."),
        (WELL, [OPEN, OPEN], PEER, "and 2 of 2 paths are open."),
        (WELL, [OPEN, LOST], PEER, "and 1 of 2 paths is open."),
        (WELL, [LOST], PEER, "1 exit)."),
        (ALONE, [], [], 'knows no other node; name one with "overlay up --bootstrap'),
        (ALONE, [], PEER, "198.51.100.7:4500 does not answer; check the address, that the other"),
        (ALONE, [], [*PEER, "[2001:db8::1]:4500"], "[2001:db8::1]:4500 do not answer"),
        (replace(ALONE, uptime_s=2.0), [], PEER, "waits for an answer of 198.51.100.7:4500"),
        (replace(ALONE, contacts=1), [], PEER, "a bootstrap node answered"),
        (
            replace(ALONE, drops={"dht_other_network": 3}),
            [],
            PEER,
            '3 packets of another overlay arrived, so compare [network] network_id ("test" here)',
        ),
        (
            replace(ALONE, network_problems=("this host's clock is 2 hours ahead",)),
            [],
            PEER,
            "Network: this host's clock is 2 hours ahead. This node has not joined",
        ),
        (
            replace(ALONE, listen=("0.0.0.0:4500",)),
            [],
            ["[2001:db8::1]:4500"],
            'has only IPv6, and this node listens on no IPv6 address; add "[::]:4500" to [network]',
        ),
        (
            replace(ALONE, listen=("0.0.0.0:4500",)),
            [],
            [*PEER, "[2001:db8::1]:4500"],
            "[2001:db8::1]:4500 do not answer",
        ),
        (
            replace(WELL, counters={"path_file_not_written": 1}),
            [OPEN],
            PEER,
            "its path is open. Note: the paths cannot be written to the state directory",
        ),
        (ALONE, [], [], "it knows no other node; name one with"),
        (
            replace(ALONE, counters={"dht_datagrams_received": 3}),
            [],
            [],
            "no node that it knew answers any more; check this host's network, or name a node",
        ),
        (WELL, [replace(LOST, next_try_s=0.2)], PEER, "a circuit is being built now. "),
        (replace(WELL, mix_nodes=0, exits=0), [], PEER, "none of the nodes that it found offers"),
        (replace(WELL, mix_nodes=0, uptime_s=3.0), [], PEER, "still learning of Mix-nodes"),
        (replace(WELL, exits=0), [], PEER, "No Mix-node that this node knows is an exit"),
        (WELL, [OPEN, LOST], PEER, "does not answer (hop 2 of 3 is silent); the next attempt"),
        (WELL, [OPEN, LOST], PEER, "follows in 5 s. What works: it has joined"),
        (WELL, [replace(LOST, next_try_s=None)], PEER, "a circuit is being built now. "),
        (WELL, [replace(LOST, state="closing")], PEER, "has not released the destination yet"),
        (WELL, [LOST] * 4, PEER, "1 more path is not open; see: overlay path list."),
        (WELL, [LOST] * 5, PEER, "2 more paths are not open; see: overlay path list."),
        (
            replace(WELL, exit_problems=("IPv4: forwarding is off.",)),
            [],
            PEER,
            "No exit: IPv4: forwarding is off. What works",
        ),
        (
            replace(WELL, exits=0, exit_problems=("IPv4: forwarding is off.",)),
            [],
            PEER,
            "No exit: IPv4: forwarding is off. What works",
        ),
        (
            replace(WELL, network_problems=("this host has no public address",)),
            [OPEN],
            PEER,
            "its path is open. Note: this host has no public address.",
        ),
        (replace(WELL, protection=("routes",)), [OPEN], PEER, "not complete: routes. "),
    ],
)
def test_verdict_names_the_state_its_cause_and_the_remedy(report, paths, bootstrap, words):
    assert words in judged(report, paths, bootstrap).verdict


def test_lost_protection_comes_before_everything_else():
    report = replace(ALONE, unprotected=("192.0.2.7/32",), unprotected_reason="nft is missing")
    told = judged(report, [LOST], PEER).verdict
    assert told.startswith(
        "NOT PROTECTED: packets to 192.0.2.7/32 can leave directly, because nft is missing. "
    )
    assert "This node works" not in told


def test_verdict_stays_short_whatever_the_node_has():
    many = tuple(f"192.0.2.{i}/32" for i in range(200))
    report = replace(ALONE, unprotected=many)
    assert len(judged(report, [LOST] * 200, [f"h{i}:1" for i in range(200)]).verdict) < 1200


def test_the_only_exit_of_an_overlay_works_although_it_has_no_path_itself():
    report = judged(replace(WELL, exits=0, roles=("exit", "relay")), [], PEER)
    assert report.works
    assert report.verdict.startswith("This node works")
    assert "Note: this node is the only exit that it knows" in report.verdict


def test_a_node_without_an_open_path_does_not_count_paths_among_what_works():
    told = judged(ALONE, [LOST], PEER).verdict
    assert told.endswith("Nothing can be carried until then.")
