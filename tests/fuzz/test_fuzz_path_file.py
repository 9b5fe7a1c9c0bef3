import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.addresses import NodeId
from overlay.errors import Malformed
from overlay.hop_limit import MAX_HOPS
from overlay.node.path_file import MAX_FILE_BYTES, decode_paths, encode_paths
from overlay.paths.requested_path import PathTerms

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=70))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=8), inner)),
    max_leaves=8,
)
WHOLE = {
    "destination": "192.0.2.7/32",
    "hops": 3,
    "strategy": "uniform",
    "via": ["ab" * 20],
    "both_versions": False,
}
destinations = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(ipaddress.ip_network)
all_terms = st.builds(
    PathTerms,
    destinations,
    st.integers(1, MAX_HOPS),
    st.text(min_size=1, max_size=64),
    st.lists(st.binary(min_size=20, max_size=20).map(NodeId), max_size=MAX_HOPS).map(tuple),
    st.booleans(),
)


def read(data):
    """Return what a file's content gives, None if it is damaged and names no destination."""
    try:
        found, unusable = decode_paths(data)
    except Malformed:
        return None
    assert all(isinstance(terms, PathTerms) for terms in found)
    assert len({terms.destination for terms in found}) == len(found)
    return found, unusable


@pytest.mark.slow
@given(st.lists(all_terms, max_size=20, unique_by=lambda terms: terms.destination))
def test_what_is_written_is_read_back(written):
    assert read(encode_paths(written)) == (written, 0)


@pytest.mark.slow
@given(st.one_of(st.binary(max_size=400), values.map(json.dumps).map(str.encode)))
def test_any_content_is_read_or_damaged(data):
    read(data)


@pytest.mark.slow
@given(st.sampled_from(sorted(WHOLE.keys() - {"destination"})), values, st.booleans())
def test_a_destination_is_read_whatever_else_its_entry_has(name, value, absent):
    """An entry of another version has other fields; its destination must be blocked as well."""
    entry = WHOLE | {name: value, "later": value}
    if absent:
        del entry[name]
    whole = WHOLE | {"destination": "2001:db8::/32"}
    found, damaged = read(json.dumps({"version": 1, "paths": [entry, whole]}).encode())
    assert [str(terms.destination) for terms in found] == [WHOLE["destination"], "2001:db8::/32"]
    assert damaged == 1


@given(values)
def test_an_entry_without_a_destination_costs_itself_alone(value):
    whole = WHOLE | {"destination": "2001:db8::/32"}
    entries = [WHOLE | {"destination": value}, whole]
    found, _ = read(json.dumps({"version": 1, "paths": entries}).encode())
    assert ipaddress.ip_network("2001:db8::/32") in {terms.destination for terms in found}


def test_a_file_of_another_version_is_read():
    found, damaged = read(json.dumps({"version": 2, "paths": [WHOLE], "more": {}}).encode())
    assert (str(found[0].destination), damaged) == (WHOLE["destination"], 1)


@pytest.mark.slow
@given(st.lists(all_terms, min_size=1, max_size=4, unique_by=lambda w: w.destination), st.data())
def test_of_a_file_that_was_cut_the_destinations_are_left(written, data):
    content = encode_paths(written)
    left = content[: data.draw(st.integers(0, len(content) - 3))]
    whole = [w.destination for w in written if f'"{w.destination}"'.encode() in left]
    found, damaged = read(left) or ([], 1)
    assert [terms.destination for terms in found] == whole
    assert damaged >= 1


def test_a_file_beyond_its_bound_is_damaged():
    assert read(b" " * (MAX_FILE_BYTES + 1)) is None
    entries = [WHOLE | {"destination": f"10.0.{n}.1"} for n in range(256)]
    many = {"version": 1, "paths": entries * 2}
    found, unusable = read(json.dumps(many).encode())
    assert (len(found), unusable) == (256, 256)
    worst = [
        PathTerms(
            ipaddress.ip_network(2**128 - 1 - n),
            MAX_HOPS,
            "\U0001f600" * 64,
            (NodeId(b"x" * 20),) * 5,
        )
        for n in range(256)
    ]
    assert read(encode_paths(worst)) is not None
