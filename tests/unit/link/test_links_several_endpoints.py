"""A peer with several endpoints: one after the other is tried, and what answered is remembered."""

from dataclasses import replace

from link_lab import NOW, Host, Lab, mirrored

from overlay.addresses import Endpoint
from overlay.link.events import LinkEstablished, LinkFailed

DEAD = Endpoint("2a00:db8::1", 4500)


def test_every_endpoint_is_tried_and_what_answered_comes_first_next_time():
    alice, bob = Host(1), Host(2)
    lab = Lab(alice, bob)
    peer = replace(bob.peer, endpoint=DEAD, others=(Endpoint("8.8.9.9", 1), bob.endpoint))
    alice.links.connect(peer, NOW)
    lab.run(NOW, NOW + 0.6)
    assert mirrored(alice, bob), "within the first pause between two attempts"
    tried = [target for _, source, target in lab.sent if source == alice.endpoint]
    assert tried[:3] == [*peer.endpoints], "one after the other"
    established = [each for each in alice.log if isinstance(each, LinkEstablished)]
    assert {each.endpoint for each in established} == {bob.endpoint}
    alice.links.close(bob.identity.overlay_address, NOW + 1)
    lab.settle(NOW + 1)
    lab.sent.clear()
    alice.links.connect(peer, NOW + 2)
    lab.settle(NOW + 2)
    assert mirrored(alice, bob)
    assert {target for *_, target in lab.sent} == {alice.endpoint, bob.endpoint}


def test_endpoints_that_are_not_allowed_are_left_out():
    alice, bob = Host(1), Host(2)
    lab = Lab(alice, bob)
    private = Endpoint("192.168.0.1", 4500)
    alice.links.connect(replace(bob.peer, endpoint=private, others=(bob.endpoint,)), NOW)
    lab.settle(NOW)
    assert mirrored(alice, bob)
    assert private not in {target for *_, target in lab.sent}


def test_a_peer_that_answers_nowhere_fails_as_one_with_one_endpoint():
    alice, bob = Host(1), Host(2)
    lab = Lab(alice)
    alice.links.connect(replace(bob.peer, others=(DEAD,)), NOW)
    lab.run(NOW, NOW + 11)
    alice.take_events()
    assert [type(each) for each in alice.log] == [LinkFailed]
    assert {target for *_, target in lab.sent} == {bob.endpoint, DEAD}
