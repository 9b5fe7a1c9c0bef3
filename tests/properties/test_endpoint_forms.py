"""The fast ways to look at an address agree with the ipaddress module."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overlay.addresses import Endpoint, packed_host
from overlay.dht.admission import host_allowed
from overlay.errors import Malformed
from overlay.link.bounds import is_allowed_endpoint
from overlay.special_networks import forbidden_network, forbidden_packed

ADDRESSES = st.ip_addresses() | st.integers(0, 2**32 - 1).map(
    lambda number: ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + number.to_bytes(4, "big"))
)
TEXTS = (
    ADDRESSES.map(str)
    | ADDRESSES.map(lambda address: address.exploded.upper())
    | st.from_regex(r"[0-9a-f:.]{1,20}", fullmatch=True)
    | st.text(max_size=20)
)


@pytest.mark.slow
@given(TEXTS)
@example("::1.2.3.4")
@example("::ffff:1.2.3.4")
@example("01.2.3.4")
@example("1.2.3")
@example("1.2.3.4\0")
@example("::")
@example("0:0:1::")
@example("1:0:0:2:0:0:0:3")
@example("1:2:3:4:5:6:0:8")
@example("٣.2.3.4")
def test_an_endpoint_has_the_host_that_ipaddress_writes(text):
    try:
        address = ipaddress.ip_address(text)
        mapped = address.ipv4_mapped if address.version == 6 else None
        expected = None if "%" in text or len(text) > 45 else str(mapped or address)
    except ValueError:
        expected = None
    try:
        found = Endpoint.parse(text, 17).host
    except Malformed:
        found = None
    assert found == expected


@given(ADDRESSES)
def test_networks_are_found_by_packed_addresses(address):
    assert forbidden_packed(address.packed) == forbidden_network(address)
    assert packed_host(str(address)) == address.packed


@given(st.ip_addresses(), st.booleans())
@example(ipaddress.ip_address("0.0.0.0"), True)
@example(ipaddress.ip_address("::"), True)
@example(ipaddress.ip_address("239.1.2.3"), True)
@example(ipaddress.ip_address("240.0.0.1"), True)
@example(ipaddress.ip_address("ff02::1"), True)
def test_endpoints_that_ipaddress_calls_multicast_or_unspecified_are_refused(address, private):
    host = Endpoint.parse(str(address), 1).host
    canonical = ipaddress.ip_address(host)
    if canonical.is_multicast or canonical.is_unspecified:
        assert not host_allowed(host, private)
        assert not is_allowed_endpoint(Endpoint(host, 1), allow_private=private)
    elif not private:
        public = forbidden_network(canonical) is None
        assert host_allowed(host, private) is public
        assert is_allowed_endpoint(Endpoint(host, 1), allow_private=private) is public
