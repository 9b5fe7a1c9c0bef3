"""Compare the list of tables of the DHT in docs/threat-model.md with the code."""

import pytest
from dht_network import START, Network
from remembered import claims, listed_tables, section, tables_below, value_in_the_code

from overlay.dht.settings import DhtSettings
from overlay.dht.topology_table import TopologyTable

SECTION = section("Tables that other nodes can fill: the DHT")


def busy_node():
    """A node amid a join: with a lookup and a crawl under way."""
    network = Network(settings=DhtSettings(k=4, alpha=4, crawl_first_interval_s=2.0))
    members = [network.add(number) for number in range(8)]
    for member in members[1:]:
        network.bootstrap(member, members[0])
    network.run(3)
    dht = members[1].dht
    dht.crawl(network.now)
    dht.parts.upkeep.publish(START)
    return dht


@pytest.mark.slow
def test_every_table_of_the_dht_is_listed_with_a_bound():
    found = tables_below(("overlay.dht",), busy_node(), TopologyTable())
    assert "Lookup.asks" in found
    assert "Crawl._nodes" in found
    listed = listed_tables(SECTION)
    assert set(found) - listed == set()
    unknown = {name for name in listed if not name.startswith("DhtSettings")} - set(found)
    assert unknown == set(), "listed, but the code has no such table"


@pytest.mark.parametrize("claim", claims(SECTION), ids=str)
def test_listed_bounds_are_those_of_the_code(claim):
    where, value = claim
    assert value_in_the_code(where, DhtSettings=DhtSettings()) == int(value)
