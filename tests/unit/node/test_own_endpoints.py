"""Where a node is, computed from addresses and routes of its host."""

import ipaddress

from overlay.addresses import Endpoint
from overlay.config import NetworkSettings
from overlay.errors import BackendError
from overlay.node.own_endpoints import NodeEndpoints, OwnEndpoints
from overlay.system.host_events import AddressChanged, FilterChanged, Overrun

FOUR, SIX = ipaddress.ip_address("198.51.101.7"), ipaddress.ip_address("2a00:db8::7")
PRIVATE = ipaddress.ip_address("192.168.7.7")
LOOPBACK = ipaddress.ip_address("127.0.0.1")
WILDCARDS = (Endpoint("0.0.0.0", 4500), Endpoint("::", 4500))
PEER = Endpoint("198.51.102.1", 4500)
FAR4, FAR6 = Endpoint("8.8.8.8", 1), Endpoint("2600::1", 1)


class Host:
    """Own addresses, and routes by IP version, or by peer where they differ."""

    def __init__(self, *addresses, routes=None):
        self.addresses = [LOOPBACK, *addresses]
        self.routes = {each.version: each for each in addresses} if routes is None else routes

    def own_addresses(self):
        return frozenset(each.packed for each in self.addresses)

    def address_towards(self, peer):
        found = self.routes.get(peer, self.routes.get(peer.address.version))
        if found is None:
            raise BackendError("no route")
        return found


def located(host, *, listen=WILDCARDS, **settings) -> NodeEndpoints:
    own = OwnEndpoints(NetworkSettings(listen=listen, **settings), lambda: listen, host)
    own.review()
    return own.now


def test_a_wildcard_publishes_one_endpoint_of_each_version_and_takes_requests_to_any():
    other = ipaddress.ip_address("198.51.101.8")
    here = located(Host(FOUR, other, SIX, routes={4: FOUR, 6: SIX}))
    assert here.published == (Endpoint(str(FOUR), 4500), Endpoint(str(SIX), 4500))
    assert Endpoint(str(other), 4500) in here.accepted
    assert here.versions == {4, 6}
    assert located(Host(SIX)).versions == {6}
    assert located(Host(SIX)).published == (Endpoint(str(SIX), 4500),)


def test_the_route_to_a_known_peer_counts_before_the_default_route():
    host = Host(FOUR, PRIVATE, routes={PEER: FOUR, 4: PRIVATE})
    assert located(host, bootstrap=(PEER,)).published == (Endpoint(str(FOUR), 4500),)
    assert located(host).published == ()
    assert located(host).versions == {4}, "a client behind NAT needs no address to publish"
    private = located(host, allow_private_endpoints=True)
    assert private.published == (Endpoint(str(PRIVATE), 4500),)


def test_a_host_without_a_network_has_no_place_and_no_error():
    here = located(Host())
    assert here == NodeEndpoints(own=here.own, accepted=here.accepted, is_routed=False)
    routed = Host(routes={4: LOOPBACK, 6: ipaddress.ip_address("fe80::1")})
    assert located(routed).versions == frozenset(), "such an address is no way out"


def test_what_is_configured_is_published_as_long_as_the_host_has_that_version():
    outside = (Endpoint("198.51.103.1", 7), Endpoint("2a00:db8::1", 7))
    here = located(Host(PRIVATE), advertise=outside)
    assert here.published == outside[:1]
    assert {*outside, Endpoint(str(PRIVATE), 4500)} <= here.accepted


def test_an_address_to_listen_at_may_come_later():
    listen = (Endpoint(str(FOUR), 4500),)
    early, late = located(Host(), listen=listen), located(Host(FOUR), listen=listen)
    assert (early.published, early.absent) == ((), listen)
    assert (late.published, late.absent, late.versions) == (listen, (), {4})


def test_changes_of_the_host_are_followed_and_told_once():
    host, told = Host(FOUR), []
    own = OwnEndpoints(NetworkSettings(), lambda: WILDCARDS, host)
    own.review()
    own.follow(lambda: [PEER], lambda seen: told.append((own.now.published, seen)))
    new = ipaddress.ip_address("198.51.101.99")
    host.addresses, host.routes = [new], {4: new}
    own.hear([FilterChanged(1)])
    assert own.repair() == ()
    assert told == [], "nothing that endpoints depend on has changed"
    own.hear([AddressChanged(2, new, 24)])
    own.repair()
    own.hear([Overrun()])
    own.repair()
    assert told == [((Endpoint(str(new), 4500),), True)]
    host.addresses = [new, ipaddress.ip_address("100.64.0.7")]
    own.hear([Overrun()])
    own.repair()
    assert told[1:] == [((Endpoint(str(new), 4500),), False)], "others learn of no circuit"
    host.addresses, host.routes = [], {}
    own.hear([Overrun()])
    own.repair()
    assert "waits for one" in own.problems()[0]


def test_an_address_without_a_route_is_told_with_the_commands():
    listen = (Endpoint(str(FOUR), 4500),)
    host = Host(FOUR, routes={})
    own = OwnEndpoints(NetworkSettings(listen=listen), lambda: listen, host)
    own.review()
    assert "ip link set dev DEVICE up" in own.problems()[0]
    host.routes = {4: FOUR}
    own.review()
    assert own.problems() == ()
