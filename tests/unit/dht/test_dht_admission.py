"""Endpoints, sources, cookies, rates."""

import pytest

from overlay.addresses import Endpoint, NodeId
from overlay.dht.admission import Cookies, SourceLimiter, host_allowed, source_group
from overlay.sensitive import SecretBytes

NOW = 1_700_000_100.0  # on an epoch's border: 1_700_000_100 = 300 * 5_666_667
ALICE = NodeId(b"a" * 20)
HERE = Endpoint("80.1.2.3", 4500)


@pytest.mark.parametrize("host", ["80.1.2.3", "2a00::1"])
def test_public_endpoints_are_allowed(host):
    assert host_allowed(host, False)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "127.0.0.1", "192.168.1.1", "169.254.0.1", "::1", "fe80::1", "fd00::1",
             "100.64.0.1", "192.0.2.1"]
)  # fmt: skip
def test_private_endpoints_are_allowed_only_by_configuration(host):
    assert not host_allowed(host, False)
    assert host_allowed(host, True)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1",
             "fd6d:6978::1", "fd63:6972::1"]
)  # fmt: skip
def test_multicast_broadcast_unspecified_and_overlay_addresses_are_always_refused(host):
    assert not host_allowed(host, True)


def test_source_is_the_24_or_48_and_private_ones_count_by_endpoint_unless_limited():
    assert source_group(Endpoint("80.1.2.3", 1), limit_private=False) == bytes([80, 1, 2])
    assert source_group(Endpoint("2a00:1:2:3::4", 1), limit_private=False) == bytes.fromhex(
        "2a0000010002"
    )
    one, other = Endpoint("127.0.0.1", 1), Endpoint("127.0.0.1", 2)
    assert source_group(one, limit_private=False) != source_group(other, limit_private=False)
    assert source_group(one, limit_private=True) == source_group(other, limit_private=True)


def test_cookie_lives_five_to_ten_minutes():
    cookies = Cookies(SecretBytes(b"s" * 32))
    cookie = cookies.issue(HERE, ALICE, NOW)
    assert len(cookie) == 16
    assert cookies.valid(cookie, HERE, ALICE, NOW + 599)
    assert not cookies.valid(cookie, HERE, ALICE, NOW + 600)
    late = cookies.issue(HERE, ALICE, NOW + 299)
    assert cookies.valid(late, HERE, ALICE, NOW + 599)
    assert not cookies.valid(late, HERE, ALICE, NOW + 600)


def test_cookie_is_bound_to_address_port_sender_and_secret():
    cookies = Cookies(SecretBytes(b"s" * 32))
    cookie = cookies.issue(HERE, ALICE, NOW)
    assert not cookies.valid(cookie, Endpoint("80.1.2.4", 4500), ALICE, NOW)
    assert not cookies.valid(cookie, Endpoint("80.1.2.3", 4501), ALICE, NOW)
    assert not cookies.valid(cookie, HERE, NodeId(b"b" * 20), NOW)
    assert not Cookies(SecretBytes(b"t" * 32)).valid(cookie, HERE, ALICE, NOW)
    assert not cookies.valid(b"", HERE, ALICE, NOW)


def test_tokens_run_out_and_come_back():
    limiter = SourceLimiter(2.0, 3)
    assert [limiter.allow(b"x", NOW) for _ in range(4)] == [True, True, True, False]
    assert limiter.allow(b"y", NOW)
    assert [limiter.allow(b"x", NOW + 1) for _ in range(3)] == [True, True, False]
    assert [limiter.allow(b"x", NOW + 100) for _ in range(4)] == [True, True, True, False]


def test_clock_that_steps_back_gives_no_tokens():
    limiter = SourceLimiter(2.0, 1)
    assert limiter.allow(b"x", NOW)
    assert not limiter.allow(b"x", NOW - 50)


def test_limiter_removes_only_sources_that_have_all_tokens_again():
    limiter = SourceLimiter(2.0, 10)
    for second in range(100):
        assert limiter.allow(second.to_bytes(3, "big"), NOW + second)
    assert len(limiter) == 6, "those of the last five seconds"
    assert [limiter.allow(b"x", NOW + 100) for _ in range(11)] == [True] * 10 + [False]
    assert [limiter.allow(b"x", NOW + 103) for _ in range(7)] == [True] * 6 + [False]


def test_limiter_remembers_a_bounded_number_of_sources():
    limiter = SourceLimiter(1.0, 1)
    for number in range(5000):
        limiter.allow(number.to_bytes(3, "big"), NOW)
    assert not limiter.allow((4999).to_bytes(3, "big"), NOW)
    assert limiter.allow((0).to_bytes(3, "big"), NOW)  # forgotten
