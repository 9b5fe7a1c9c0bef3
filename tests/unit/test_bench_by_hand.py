import pytest

from benchmarks.by_hand import HandMade, ip_commands
from overlay.ipsec.interface import PolicyDirection
from overlay.ipsec.suites import SUITES


class NoChain:
    """Configurations need no namespaces."""


def configurations(hops, suite=3):
    made = HandMade(NoChain(), 1, hops, suite)
    return [made.configurations(number) for number in range(hops + 1)]


@pytest.mark.parametrize("hops", [1, 2, 3, 4])
def test_every_template_has_its_association_on_the_same_node(hops):
    for node in configurations(hops):
        associations = {
            (sa.source, sa.destination, sa.reqid) for each in node for sa in each.associations
        }
        policies = [policy for each in node for policy in each.policies]
        assert policies
        for policy in policies:
            assert {
                (each.source, each.destination, each.reqid) for each in policy.templates
            } <= associations


def test_the_source_wraps_data_in_every_layer_and_the_link():
    source = configurations(4)[0]
    most = max(len(policy.templates) for each in source for policy in each.policies)
    assert most == 5


def test_neighbours_agree_on_keys_and_spis():
    nodes = configurations(3)
    found = {}
    for node in nodes:
        for each in node:
            for sa in each.associations:
                found.setdefault((sa.spi, sa.destination), []).append(sa)
    assert all(len(ends) == 2 for ends in found.values())
    assert all(a.keymat.reveal() == b.keymat.reveal() for a, b in found.values())
    assert all(a.inbound != b.inbound for a, b in found.values())


@pytest.mark.parametrize("suite", SUITES)
def test_commands_name_cipher_and_full_key(suite):
    (first, *_) = ip_commands(HandMade(NoChain(), 1, 1, suite).circuit_configuration(0))
    keys = [word for word in first.split() if word.startswith("0x")][1:]
    assert sum(len(key) // 2 - 1 for key in keys) == SUITES[suite].keymat_bytes
    assert first.startswith("xfrm state add src fd63:6972:")


def test_policies_name_direction_and_templates_innermost_first():
    made = HandMade(NoChain(), 1, 2, 3)
    lines = [line for line in ip_commands(made.circuit_configuration(1)) if "xfrm policy" in line]
    assert {direction.name.lower() for direction in PolicyDirection} == {
        line.split(" dir ")[1].split()[0] for line in lines
    }
    to_source = next(line for line in lines if " dir out " in line and "src ::/0" in line)
    assert [part.split()[1][:4] for part in to_source.split(" tmpl ")[1:]] == ["fd6d", "10.6"]
