"""The blocks together, without an operating system: join, open, carry, lose, rebuild, close."""

from ipaddress import ip_network

import pytest
from overlay_world import START, World
from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw

from overlay.addresses import Endpoint
from overlay.dht.events import Joined
from overlay.paths.requested_path import PathState, PathTerms

BOB = "203.0.113.10/32"
HOST = "203.0.113.10"


@pytest.fixture
def world():
    made = World(9)
    made.join_all()
    return made


def inner_packet(path, payload=b"hello bob"):
    source = ".".join(str(byte) for byte in path.carried_address)
    return bytes(
        IP(src=source, dst="203.0.113.10", id=0, flags="DF")
        / UDP(sport=4000, dport=53)
        / Raw(payload)
    )


def test_an_observer_gets_events_of_the_dht_after_the_cores_have_processed_them():
    world, seen = World(3), []
    for node in world.all:
        node.cores.observe_dht(lambda event, now, c=node.cores: seen.append((event, now, c.joined)))
    world.join_all()
    joined = [(now, known) for event, now, known in seen if isinstance(event, Joined)]
    assert len(joined) == 3
    assert all(known and START <= now <= world.now for now, known in joined)


def open_path(world, node, hops=3):
    path = node.request(BOB, hops=hops)
    assert world.run(30, until=lambda: path.settled)
    assert path.state is PathState.OPEN, path.error
    return path


def exit_of(world, path):
    return next(n for n in world.all if n.identity.node_id == path.mix_path.exit.node_id)


@pytest.mark.parametrize("hops", [1, 2, 3, 4, 5])
def test_packets_travel_both_ways_through_paths_of_every_length(world, hops):
    alice = world.all[1]
    path = open_path(world, alice, hops)
    leaving = exit_of(world, path)
    packet = inner_packet(path)
    alice.cores.datapath.from_source_device([packet], world.now)
    assert world.run(5, until=lambda: leaving.exit_device.written)
    assert (
        leaving.exit_device.written == [packet]
        or IP(leaving.exit_device.written[0]).dst == "203.0.113.10"
    )
    answer = bytes(
        IP(src="203.0.113.10", dst=IP(packet).src) / UDP(sport=53, dport=4000) / Raw(b"hello alice")
    )
    leaving.cores.datapath.send([answer], world.now)
    assert world.run(5, until=lambda: alice.source_device.written)
    assert alice.source_device.written == [answer]
    # What the exit begins reaches no service, also while the packet filter is flushed.
    unasked = bytes(
        IP(src="203.0.113.10", dst=IP(packet).src) / UDP(sport=53, dport=22) / Raw(b"?")
    )
    leaving.cores.datapath.send([unasked, answer], world.now)
    assert world.run(5, until=lambda: len(alice.source_device.written) > 1)
    assert alice.source_device.written == [answer, answer]
    assert alice.cores.datapath.counters()["unasked_packets"] == 1


@pytest.mark.slow
def test_no_relay_sees_both_ends(world):
    alice = world.all[1]
    path = open_path(world, alice)
    world.run(5)  # the last of the set-up's own packets have arrived
    begun = len(world.wire)
    alice.cores.datapath.from_source_device([inner_packet(path)], world.now)
    assert world.run(5, until=lambda: exit_of(world, path).exit_device.written)
    ends = [hop.endpoints[0] for hop in path.mix_path.hops]
    esp = [(s, t) for s, t, datagram in world.wire[begun:] if not datagram.startswith(bytes(4))]
    legs = [(alice.endpoint, ends[0]), (ends[0], ends[1]), (ends[1], ends[2])]
    # What else is on the wire belongs to the standby circuit.
    assert [each for each in esp if each in legs] == legs
    assert {alice.endpoint, ends[2]} not in [{source, target} for source, target in esp]
    for _, _, datagram in world.wire[begun:]:
        assert b"hello bob" not in datagram
        assert bytes([203, 0, 113, 10]) not in datagram


@pytest.mark.slow
def test_what_is_not_carried_is_told_to_the_program_as_icmp(world):
    alice = world.all[1]
    path = open_path(world, alice)
    leaving = exit_of(world, path)
    sctp = bytes(IP(src=IP(inner_packet(path)).src, dst=HOST, proto=132) / Raw(bytes(40)))
    alice.cores.datapath.from_source_device([inner_packet(path), sctp], world.now)
    told = [IP(each) for each in alice.source_device.written]
    assert [(each.src, each[ICMP].type, each[ICMP].code) for each in told] == [(HOST, 3, 2)]
    assert alice.cores.datapath.counters()["protocols_refused"] == 1
    assert world.run(5, until=lambda: leaving.exit_device.written)

    alice.source_device.written.clear()
    leaving.local_addresses.add(bytes(map(int, HOST.split("."))))
    alice.cores.datapath.from_source_device([inner_packet(path)], world.now)
    assert world.run(5, until=lambda: alice.source_device.written)
    (answer,) = map(IP, alice.source_device.written)
    assert (answer.src, answer[ICMP].type, answer[ICMP].code) == (HOST, 3, 13)
    assert bytes(answer)[28:].endswith(b"hello bob")
    assert leaving.cores.datapath.counters()["exit_refusals_told"] == 1


@pytest.mark.slow
def test_closing_leaves_nothing_of_the_circuit_anywhere(world):
    alice = world.all[1]
    path = open_path(world, alice)
    first_hop = path.mix_path.hops[0].overlay_address
    heard = alice.cores.neighbours.heard_at(first_hop)
    assert heard is not None
    assert world.now - 5 < heard <= world.now
    assert alice.cores.neighbours.heard_at(alice.identity.overlay_address) is None
    leaving = exit_of(world, path)
    alice.close(path)
    world.run(20)
    for node in world.all:
        report = node.cores.circuits.relay_report()
        assert (report.relayed, report.exits, report.waiting) == (0, 0, 0)
        assert node.cores.circuits.circuits() == []
    assert not alice.kill_switch.protected
    assert leaving.forgotten
    world.run(120)  # links that no circuit uses are closed as well
    assert [len(node.cores.neighbours) for node in world.all] == [0] * len(world.all)


@pytest.mark.slow
def test_a_relay_that_dies_is_replaced_and_the_destination_stays_protected(world):
    alice = world.all[1]
    path = open_path(world, alice)
    dead = next(n for n in world.all if n.identity.node_id == path.mix_path.hops[1].node_id)
    before = path.circuit
    world.crash(dead)
    assert world.run(300, until=lambda: path.circuit != before)
    assert alice.kill_switch.protected
    assert world.run(300, until=lambda: path.state is PathState.OPEN)
    packet = inner_packet(path)
    alice.cores.datapath.from_source_device([packet], world.now)
    assert world.run(5, until=lambda: exit_of(world, path).exit_device.written)


@pytest.mark.slow
def test_a_link_full_of_garbage_leaves_circuits_running(world):
    alice, mallory = world.all[1], world.all[0]
    path = open_path(world, alice)
    rng = mallory.rng
    targets = [alice.endpoint, *(hop.endpoints[0] for hop in path.mix_path.hops)]
    seen = [datagram for _, _, datagram in world.wire[-200:]]
    for _ in range(300):
        for target in targets:
            for junk in (
                rng.randbytes(rng.randrange(1, 1400)),
                bytes(4) + rng.randbytes(rng.randrange(1, 300)),
                bytes(4) + bytes([rng.randrange(1, 3)]) + rng.randbytes(200),
                _damaged(rng, rng.choice(seen)),
            ):
                world.network.carry(junk, mallory.endpoint, target)
    world.run(2)
    packet = inner_packet(path)
    leaving = exit_of(world, path)
    leaving.exit_device.written.clear()
    alice.cores.datapath.from_source_device([packet], world.now)
    assert world.run(5, until=lambda: leaving.exit_device.written)
    assert path.state is PathState.OPEN


def _damaged(rng, datagram):
    damaged = bytearray(datagram)
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


@pytest.mark.slow
def test_no_datagram_is_sent_for_the_choice_of_a_path(world):
    """A lookup made for a circuit would tell the DHT about it."""
    alice = world.all[1]
    world.run(5)
    begun = len(world.wire)
    open_path(world, alice)
    asked = {
        to
        for source, to, datagram in world.wire[begun:]
        if source == alice.endpoint and not datagram.startswith(bytes(4) + b"\x01")
    }
    assert len(asked) == 1


@pytest.mark.slow
def test_a_first_hop_that_restarted_without_a_word_is_reached_again_at_once(world):
    alice = world.all[1]
    path = open_path(world, alice)
    first = path.mix_path.hops[0].endpoints[0]
    alice.close(path)
    world.run(5)
    world.restart(world.network.host_at(first))
    chosen = [hop.node_id for hop in path.mix_path.hops]
    terms = PathTerms(ip_network(BOB), 3, "explicit", tuple(chosen))
    [again] = alice.cores.paths.open_paths([terms], world.now)
    alice.cores.settle(world.now)
    assert world.run(8, until=lambda: again.settled)
    assert again.state is PathState.OPEN, again.error


def test_a_relay_that_moved_is_found_by_a_source_that_needs_it(world):
    """The source did not hear of it, as in an overlay where it stores no record of that relay."""
    alice = world.all[1]
    world.run(1200)  # until crawls have their full interval
    path = open_path(world, alice)
    chosen = tuple(hop.node_id for hop in path.mix_path.hops)
    alice.close(path)
    world.run(120)
    first = next(node for node in world.all if node.identity.node_id == chosen[0])
    world.crash(alice)
    world.move(first, Endpoint("11.99.0.1", 4500))
    world.run(20)
    world.revive(alice)
    terms = PathTerms(ip_network(BOB), 3, "explicit", chosen)
    [again] = alice.cores.paths.open_paths([terms], world.now)
    alice.cores.settle(world.now)
    assert world.run(30, until=lambda: again.state is PathState.OPEN), again.error


def test_a_circuit_goes_on_where_only_its_source_can_reach_the_moved_relay(world):
    """The source's NAT admits no packet from an endpoint to which the source has not sent."""
    alice = world.all[1]
    path = open_path(world, alice)
    inner = path.carried_address
    leaving, first = exit_of(world, path), world.network.host_at(path.mix_path.hops[0].endpoints[0])
    alice.admits = {each.endpoint for each in world.all}
    world.move(first, Endpoint("11.99.0.1", 4500))
    world.run(0.7)  # until other nodes store the new descriptor
    alice.cores.dht.crawl(world.now)
    alice.cores.settle(world.now)
    assert world.run(1, until=lambda: first.endpoint in alice.admits)
    world.run(0.5)
    packet = inner_packet(path)
    alice.cores.datapath.from_source_device([packet], world.now)
    assert world.run(1, until=lambda: leaving.exit_device.written)
    answer = bytes(IP(src=HOST, dst=IP(packet).src) / UDP(sport=53, dport=4000) / Raw(b"here"))
    leaving.cores.datapath.send([answer], world.now)
    assert world.run(1, until=lambda: alice.source_device.written)
    world.run(60)
    assert (path.state, path.carried_address) == (PathState.OPEN, inner), "it was not rebuilt"
