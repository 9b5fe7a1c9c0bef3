"""A strategy of another package is held to what was asked, and named if it fails."""

from dataclasses import replace
from ipaddress import ip_address
from random import Random
from types import SimpleNamespace

import pytest

from overlay.addresses import Endpoint, NodeId
from overlay.dht.descriptor import MixDescriptor, OnionKey, Role
from overlay.dht.topology_table import TopologySnapshot
from overlay.errors import NoSuitablePath, PluginError
from overlay.exit_policy import ExitPolicy, parse_exit_rule
from overlay.selection import MixPath, PathRequest
from overlay.selection.checked import CheckedSelector


def mix(number, *roles):
    return MixDescriptor(
        network_id="test",
        identity_key=bytes([number]) * 32,
        onion_keys=(OnionKey(1, b"k" * 32),),
        link_key=b"l" * 32,
        esp_suites=(3,),
        endpoints=(Endpoint(f"198.{number}.0.1", 4500),),
        roles=frozenset(roles),
        exit_policy=ExitPolicy(parse_exit_rule("accept *:*")),
        bandwidth_kbit=1000,
        sequence=1,
        valid_from=0,
        expires=1,
        encoded=bytes([number]),
    )


ONE, TWO, EXIT = mix(1, Role.RELAY), mix(2, Role.RELAY), mix(3, Role.EXIT)
OWN = mix(4, Role.RELAY)
TABLE = TopologySnapshot((d.node_id, d) for d in (ONE, TWO, EXIT, OWN))
REQUEST = PathRequest(
    destination=ip_address("203.0.114.80"), hops=3, source=OWN.node_id, onion_suite=1, esp_suite=3
)


def selected(answer, request=REQUEST):
    def select(_request, _table, _rng):
        if isinstance(answer, Exception):
            raise answer
        return answer

    selector = CheckedSelector("mine", lambda: SimpleNamespace(select=select))
    return selector.select(request, TABLE, Random(1))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (MixPath((ONE, EXIT)), "returned 2 hops for 3"),
        (MixPath(()), "returned 0 hops for 3"),
        (MixPath((ONE, ONE, EXIT)), "visits a Mix-node twice"),
        (MixPath((ONE, OWN, EXIT)), "through this node itself"),
        (MixPath((ONE, TWO, mix(9, Role.EXIT))), "its hop 3 is not in the topology table"),
        (MixPath((ONE, replace(TWO, encoded=b"forged"), EXIT)), "hop 2 is not in the topology"),
        (MixPath((ONE, EXIT, TWO)), "its hop 2 is no relay"),
        (MixPath((ONE, TWO, EXIT, EXIT)), "returned 4 hops for 3"),
        (MixPath([ONE, TWO, EXIT]), "no MixPath with a tuple"),
        (MixPath((ONE, "two", EXIT)), "no descriptors"),
        (None, "returned NoneType and no MixPath"),
        ((ONE, TWO, EXIT), "returned tuple and no MixPath"),
        (KeyError("x"), "failed: KeyError: 'x'; traceback: .*py:[0-9]+ in select"),
        (RecursionError(), "failed: RecursionError;"),
    ],
)
def test_strategy_that_breaks_its_contract_is_named(answer, words):
    with pytest.raises(PluginError, match=words) as caught:
        selected(answer)
    assert 'path selection strategy "mine"' in str(caught.value)
    assert "bug in overlay" not in str(caught.value)


def test_strategy_must_begin_with_the_nodes_that_the_user_named():
    with pytest.raises(PluginError, match="does not begin with the nodes that the user named"):
        selected(MixPath((ONE, TWO, EXIT)), replace(REQUEST, via=(NodeId(TWO.node_id),)))


def test_good_path_and_honest_refusal_pass():
    assert selected(MixPath((ONE, TWO, EXIT))).hops == (ONE, TWO, EXIT)
    with pytest.raises(NoSuitablePath):
        selected(NoSuitablePath("no path.", known=4, removed=()))


def test_strategy_that_cannot_be_made_is_named():
    def build():
        raise ZeroDivisionError("division by zero")

    with pytest.raises(PluginError, match='"broken" failed: ZeroDivisionError: division by zero'):
        CheckedSelector("broken", build).select(REQUEST, TABLE, Random(1))
