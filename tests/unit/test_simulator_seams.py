"""Users of the product, tests included, derive from it without its private names."""

import ast
import importlib
import inspect
import textwrap
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USERS = ("sims", "lab", "benchmarks")


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def name_of(path):
    return str(path.relative_to(ROOT))


def bases_in_the_product(source):
    """Yield each class of a module with a class of the product that it derives from."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("overlay")
        for alias in node.names
    }
    for node in ast.walk(tree):
        for base in node.bases if isinstance(node, ast.ClassDef) else ():
            if isinstance(base, ast.Name) and base.id in imported:
                module, name = imported[base.id]
                yield node, getattr(importlib.import_module(module), name)


def members(tree):
    """Return the methods of a class, and the attributes that its code sets."""
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


@cache
def inherited_from(base):
    """Return the names that a class of the product has from the product."""
    inherited = set()
    for each in base.__mro__:
        if each.__module__.startswith("overlay"):
            inherited |= members(ast.parse(textwrap.dedent(inspect.getsource(each))))
    return inherited


def private_names_of_bases(source):
    """Return private names of the product that a class in ``source`` overrides or uses."""
    found = []
    for node, base in bases_in_the_product(source):
        used = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
        used |= {each.name for each in ast.walk(node) if isinstance(each, ast.FunctionDef)}
        private = {
            name for name in used & inherited_from(base) if name[0] == "_" and name[-1] != "_"
        }
        found += [(node.lineno, name) for name in sorted(private)]
    return found


@pytest.mark.parametrize("path", sources(*USERS), ids=name_of)
def test_no_class_uses_or_overrides_a_private_name_of_its_base(path):
    assert private_names_of_bases(path.read_text(encoding="utf-8")) == []


def test_no_class_of_a_test_uses_or_overrides_a_private_name_of_its_base():
    used = {
        name_of(path): private_names_of_bases(path.read_text(encoding="utf-8"))
        for path in sources("tests")
    }
    assert {path: names for path, names in used.items() if names} == {}


def test_the_check_of_base_classes_sees_what_it_should():
    source = """
from overlay.node.node_cores import NodeCores
class Simulated(NodeCores):
    def _send(self, now):
        self._own = super()._dht_event
        return self.settle(now)
"""
    assert private_names_of_bases(source) == [(3, "_dht_event"), (3, "_send")]
