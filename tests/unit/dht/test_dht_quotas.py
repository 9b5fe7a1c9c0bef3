"""docs/threat-model.md lists all that strangers can make a node remember: held against the code."""

import re
from collections import deque
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
from dht_network import Network

from overlay.dht.settings import DhtSettings
from overlay.dht.topology_table import TopologyTable

_PAGE = Path(__file__).parents[3] / "docs" / "threat-model.md"
_CONTAINERS = (dict, list, set, deque)


def section():
    text = _PAGE.read_text(encoding="utf-8")
    found = re.search(r"(?s)## What a stranger can make a node remember\n(.*?)\n## ", text)
    assert found
    return found.group(1)


def attributes(value):
    names = set(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names.update([slots] if isinstance(slots, str) else slots)
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def children(value):
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, set, deque, tuple)):
        return list(value)
    if isinstance(value, partial):
        return [value.func, *value.args]
    return [*attributes(value).values(), getattr(value, "__self__", None)]


def tables_below(*roots):
    """Find every container that an object of the DHT keeps, as Class.attribute."""
    seen, found, waiting = set(), {}, list(roots)
    keep = []
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, (str, bytes, int, float, type)):
            continue
        seen.add(id(value))
        keep.append(value)  # so that no id is used again
        ours = type(value).__module__.startswith("overlay.dht")
        if ours:
            for name, attribute in attributes(value).items():
                if isinstance(attribute, _CONTAINERS):
                    found[f"{type(value).__name__}.{name}"] = attribute
        if ours or isinstance(value, (*_CONTAINERS, tuple, partial)) or callable(value):
            waiting += children(value)
    return found


def busy_node():
    """A node amid a join: with a lookup and a crawl under way."""
    network = Network(settings=DhtSettings(k=4, alpha=4, crawl_first_interval_s=2.0))
    members = [network.add(number) for number in range(8)]
    for member in members[1:]:
        network.bootstrap(member, members[0])
    network.run(3)
    dht = members[1].dht
    dht.crawl(network.now)
    dht._publish()
    return dht


def test_every_table_of_the_dht_is_listed_with_a_bound():
    found = tables_below(busy_node(), TopologyTable())
    assert "Lookup._asks" in found
    assert "Crawl._nodes" in found
    listed = set(re.findall(r"`(\w+\.\w+)`", section()))
    assert set(found) - listed == set()
    unknown = {name for name in listed if not name.startswith("DhtSettings")} - set(found)
    assert unknown == set(), "listed, but the code has no such table"


@pytest.mark.parametrize("claim", re.findall(r"`([\w.]+(?::\w+)?) = (\d+)`", section()), ids=str)
def test_listed_bounds_are_those_of_the_code(claim):
    where, value = claim
    if where.startswith("DhtSettings."):
        assert getattr(DhtSettings(), where.removeprefix("DhtSettings.")) == int(value)
    else:
        module, name = where.split(":")
        assert getattr(import_module(module), name) == int(value)
