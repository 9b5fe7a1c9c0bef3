"""Which parts of a network stay closed when an operator opens others."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from overlay.system.own_links import without


def networks(*prefixes):
    return [ipaddress.ip_network(each) for each in prefixes]


def test_what_is_opened_by_name_is_left_out():
    (link,) = networks("192.168.0.0/16")
    assert list(without(link, [])) == [link]
    assert list(without(link, networks("192.168.0.0/15", "fd00::/8"))) == []
    assert list(without(link, networks("10.0.0.0/8"))) == [link]
    closed = list(without(link, networks("192.168.128.0/17", "192.168.0.0/18")))
    assert closed == networks("192.168.64.0/18")


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=4),
    st.integers(0, 255),
)
def test_each_address_is_closed_unless_it_is_opened(opened, last):
    (link,) = networks("198.51.100.0/24")
    names = [ipaddress.ip_network((f"198.51.100.{n}", bits), strict=False) for n, bits in opened]
    address = ipaddress.ip_address(f"198.51.100.{last}")
    closed = any(address in part for part in without(link, names))
    assert closed is not any(address in name for name in names)
