import struct

from hypothesis import given
from hypothesis import strategies as st

from overlay.system.iptables_state import ChainContent, TableContent, comments, find_chains

NO_HOOK = 0xFFFFFFFF


def entry(target, *, counters=b"\1" * 16, matched=b"\0" * 84):
    """One IPv4 rule: conditions, offsets, notes of the kernel, counters, target."""
    size = 112 + len(target)
    return matched + struct.pack("=IHHI", 0, 112, size, 7) + counters + target


def jump(verdict):
    return struct.pack("=H29sBi4x", 40, b"", 0, verdict)


def named(chain):
    return struct.pack("=H29sB30s2x", 64, b"ERROR", 0, chain)


def table(first_rules=()):
    """POSTROUTING with a jump to the chain OURS, which holds one rule."""
    before = b"".join(first_rules)
    built_in = len(before) + len(entry(jump(0))) * 2
    ours = built_in + len(entry(named(b"OURS")))
    parts = [
        before,
        entry(jump(ours)),
        entry(jump(-2)),
        entry(named(b"OURS")),
        entry(jump(-1), counters=b"\2" * 16),
        entry(jump(-5)),
        entry(named(b"THEIRS")),
        entry(jump(-5)),
        entry(named(b"ERROR")),
    ]
    end = built_in - len(entry(jump(0)))
    begins = (NO_HOOK, NO_HOOK, NO_HOOK, NO_HOOK, 0)
    return TableContent(begins, (0, 0, 0, 0, end), b"".join(parts))


def test_a_chain_its_rules_and_the_hooks_that_lead_to_it_are_found():
    (found,) = find_chains(table(), 4, {"OURS"})
    assert (found.name, found.hooks, len(found.rules)) == ("OURS", (4,), 2)
    assert find_chains(table(), 4, {"ABSENT"}) == ()


def test_what_others_add_and_what_packets_count_changes_nothing():
    others = [entry(jump(-2), matched=b"\1" * 84)] * 3
    assert find_chains(table(others), 4, {"OURS"}) == find_chains(table(), 4, {"OURS"})


def test_a_jump_that_is_gone_shows():
    whole = table()
    first = len(entry(jump(0)))
    entries = entry(jump(-2)) + whole.entries[first:]
    (found,) = find_chains(TableContent(whole.begins, whole.ends, entries), 4, {"OURS"})
    assert found.hooks == ()


def test_comments_are_read_among_other_matches():
    def match(name, data):
        return struct.pack("=H29sB", 32 + len(data), name, 0) + data

    other, comment = (
        match(b"mark", bytes(12)),
        match(b"comment", b"203.0.113.10/32".ljust(256, b"\0")),
    )
    rule = bytes(90) + other + comment + jump(-5)
    assert comments(ChainContent("NOTES", (), (rule, bytes(90) + jump(-5))), 4) == (
        "203.0.113.10/32",
    )


@given(st.binary(max_size=400), st.sampled_from((4, 6)))
def test_any_rule_gives_comments_or_none(data, version):
    comments(ChainContent("NOTES", (), (data,)), version)


@given(st.binary(max_size=800), st.sampled_from((4, 6)))
def test_any_bytes_give_chains_or_none(data, version):
    found = find_chains(TableContent((0,) * 5, (0,) * 5, data), version, {"OURS", ""})
    assert all(isinstance(each, ChainContent) for each in found)
