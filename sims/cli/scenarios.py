"""``overlay sim scenarios``: list the shipped scenarios."""

from __future__ import annotations

import argparse
import json
import textwrap

from sims.scenario.files import load_scenario, shipped_names

__all__ = ["scenarios"]


def scenarios(arguments: argparse.Namespace) -> int:
    """List the shipped scenarios with the question that each answers."""
    listed = [load_scenario(name) for name in shipped_names()]
    if arguments.json:
        print(json.dumps([{"name": each.name, "question": each.question} for each in listed]))
        return 0
    for each in listed:
        question = textwrap.indent(textwrap.fill(each.question, 76), "    ")
        print(f"{each.name}  ({each.nodes} nodes, {len(each.seeds)} seeds)\n{question}")
    print('\nRun one with "overlay sim churn NAME", or its small size with --quick.')
    return 0
