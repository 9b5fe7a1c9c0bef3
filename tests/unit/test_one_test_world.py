"""Virtual time has one home, and so have networks in memory (docs/decisions/0065)."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
TREES = ("tests", "sims", "lab", "benchmarks")

HEAPS = {
    "sims/world/engine/heap.py": "the event heap",
    "sims/world/churn/events.py": "merges the sessions of nodes into one stream; it has no clock",
    "sims/world/adversary/crowds.py": "keeps the nearest of many keys; it has no time",
}
"""The modules that may keep a heap, and what for."""

HEAP_NAMES = {"heappush", "heappop", "heappushpop", "heapreplace", "heapify", "PriorityQueue"}
"""Names with which a module keeps a heap. ``merge``, ``nsmallest`` and ``nlargest`` keep none."""


def modules():
    for tree in TREES:
        for path in sorted((ROOT / tree).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def keeps_a_heap(module):
    return any(
        (isinstance(node, ast.Attribute) and node.attr in HEAP_NAMES)
        or (isinstance(node, ast.Name) and node.id in HEAP_NAMES)
        or (isinstance(node, ast.alias) and node.name in HEAP_NAMES)
        for node in ast.walk(module)
    )


def test_no_module_but_the_listed_ones_keeps_a_heap():
    assert {path for path, module in modules() if keeps_a_heap(module)} == set(HEAPS)
