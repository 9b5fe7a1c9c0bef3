import ipaddress

import pytest

from overlay.destinations import parse_destination
from overlay.errors import Malformed

NO_DESTINATIONS = {
    "": "is empty",
    "  ": "is empty",
    " 192.0.2.7": "spaces",
    "192.0.2.7:80": r"names a port, .* write 192\.0\.2\.7\.",
    "[2001:db8::1]:80": r"names a port, .* write 2001:db8::1\.",
    "[2001:db8::1]": r"is in brackets; write 2001:db8::1\.",
    "http://192.0.2.7/": "is a URL",
    "https://example.com": "is a URL",
    "192.0.2.7/24": r"write 192\.0\.2\.0/24, or only the address",
    "192.0.2.7/255.255.255.0": r"write 192\.0\.2\.0/24, or only the address",
    "192.0.2.7/33": "IPv4 prefixes have 0 to 32 bits",
    "192.0.2.7/-1": "IPv4 prefixes have 0 to 32 bits",
    "192.0.2.7/": "has no length after the slash",
    "2001:db8::/129": "IPv6 prefixes have 0 to 128 bits",
    "192.0.2": "is not a whole IPv4 address",
    "256.0.0.1": "is not a whole IPv4 address",
    "010.0.0.1": "begins with 0",
    "192.0.2.*": "is a range",
    "192.0.2.1-192.0.2.9": "is a range",
    "192.0.2.1,192.0.2.2": "several destinations",
    "example.com": "is a host name",
    "example.com:443": "is a host name",
    "user@example.com": "is a host name",
    "localhost": "is a host name",
    "fe80::1%eth0": "has a zone",
    "::ffff:192.0.2.7": r"write 192\.0\.2\.7",
    "2001:db8:::1": "is not an IP address or prefix",
    "fd6d:6978::7": "is a node of the overlay",
    "00" * 20: "is a node id",
    "?" * 5000: "is not an IP address or prefix",
}


@pytest.mark.parametrize("text", NO_DESTINATIONS)
def test_what_is_no_destination_is_told_by_its_kind(text):
    with pytest.raises(Malformed, match=NO_DESTINATIONS[text]) as caught:
        parse_destination(text)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert len(sentence) < 250


def test_destination_is_an_address_or_a_prefix():
    assert parse_destination("192.0.2.7") == ipaddress.ip_network("192.0.2.7/32")
    assert parse_destination("2001:db8::/32") == ipaddress.ip_network("2001:db8::/32")
