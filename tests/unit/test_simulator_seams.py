"""The product has no hook for simulations and laboratories.

Its users, tests included, use and override no private name of it.
"""

import ast
import importlib
import inspect
import textwrap
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "anonymous-overlay"
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


INTERFACES = {"overlay/dht/inspection.py", "overlay/ipsec/conformance.py"}
"""Modules that are there for simulations, laboratories, tests and other packages."""

REASONS = {
    "build_cores": "The cores of a node without an operating system, for a program that embeds it.",
    "estimated_size": "E13 compares this estimate of one lookup with theory.",
    "initiation_noise": "A size of the handshake, which its class computes for its own use too.",
    "link_configuration": "Builds the SAs of a link, without a handshake, for benchmarks.",
    "records=": "Part of Dht.resume, the interface for a node that was a member before (0060).",
    "routed=": "The paper's node routes its exit pool through the circuit device (0017).",
    "run_node=": "Runs the command line with another node, for a program that measures it.",
    "some_of": "A kind of setting. The kinds serve the configuration and scenarios (0062).",
}
"""Names of which simulations, laboratories and benchmarks are the only users, and why they stay."""


class Names:
    """The names that the modules of some folders define and use."""

    def __init__(self, *folders):
        self.defined, self.used, self.optional, self.local = set(), set(), set(), set()
        for path in sources(*folders):
            is_interface = name_of(path) in INTERFACES
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                self.use(node)
                if not is_interface:
                    self.define(node)

    def use(self, node):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            self.used.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            self.used.add(node.id)
        elif isinstance(node, ast.Name):
            self.local.add(node.id)
        elif isinstance(node, ast.arg):
            self.local.add(node.arg)
        elif isinstance(node, ast.keyword) and node.arg:
            self.used.add(f"{node.arg}=")

    def define(self, node):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self.defined.add(node.name)
            arguments = node.args.kwonlyargs
            pairs = zip(arguments, node.args.kw_defaults, strict=True)
            self.optional |= {f"{each.arg}=" for each, default in pairs if default is not None}
        elif isinstance(node, ast.ClassDef):
            self.defined.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            self.defined.add(node.target.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            self.defined.add(node.attr)


def test_nothing_in_the_product_has_simulations_as_its_only_user():
    """Nothing public, and no optional argument by keyword; names of plug-ins are registered."""
    product, users = Names("overlay"), Names(*USERS)
    plugins = {entry.value.rpartition(":")[2] for entry in distribution(PACKAGE).entry_points}
    hooks = {
        name
        for name in (product.defined | product.optional) & users.used
        if name not in product.used | users.defined | users.local | users.optional | plugins
        and not name.startswith("_")
    }
    assert sorted(hooks) == sorted(REASONS)


def constants(*folders):
    """Return each numeric constant of modules: its name without underscores, and its value."""
    found = set()
    for path in sources(*folders):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            target = node.target if isinstance(node, ast.AnnAssign) else None
            if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant):
                found.add((target.id.strip("_"), node.value.value))
    return found


def test_worlds_and_the_vectorised_model_import_the_constants_of_the_product():
    copied = constants("sims/world", "sims/vectorised") & constants("overlay")
    assert copied == set()
