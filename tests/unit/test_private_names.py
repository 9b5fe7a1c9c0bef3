"""Simulations, laboratories and benchmarks use the product through its public names only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("sims", "lab", "benchmarks")

OWN = ("self", "cls", "super")
"""Objects whose private names belong to the code that uses them."""


def sources():
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


ELSEWHERE = {"_ArgumentGroup", "_SubParsersAction", "_create_protocol", "_exit", "_replace"}
"""Names of argparse, kademlia, os and named tuples, which are not the product."""


def defined_in(source):
    """Return the private names that a module defines itself: methods, fields, attributes."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                names.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def foreign_private_names(source, own_names=frozenset()):
    """Return the private attributes that code uses on other objects than its own."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
            continue
        is_dunder = node.attr.startswith("__") and node.attr.endswith("__")
        owner = node.value.func if isinstance(node.value, ast.Call) else node.value
        is_own = isinstance(owner, ast.Name) and owner.id in OWN
        if not (is_dunder or is_own or node.attr in own_names):
            found.append((node.lineno, node.attr))
    return found


def private_imports(source):
    """Return the private names that code imports from the product."""
    return [
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("overlay")
        for alias in node.names
        if alias.name.startswith("_")
    ]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_of_the_product_is_used(path):
    source = path.read_text(encoding="utf-8")
    assert foreign_private_names(source, defined_in(source) | ELSEWHERE) == []
    assert private_imports(source) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("dht._table", 1),
        ("self.dht._table", 1),
        ("self._dht.parts", 0),
        ("super()._send(now)", 0),
        ("lookup._asks[one].path", 1),
        ("vars(dht).__class__", 0),
    ],
)
def test_the_check_sees_what_it_should(source, count):
    assert len(foreign_private_names(source)) == count


def test_the_product_has_no_hook_for_a_simulated_responder():
    """An adversary changes envelopes, which are an argument (docs/decisions/0060)."""
    for path in sorted((ROOT / "overlay" / "dht").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        assert "make_responder" not in source
        assert "sims" not in {
            (node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.ImportFrom)
        }
