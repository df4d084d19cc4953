"""Parameter trees: nested dictionaries as the networks have them, split by a rule on names and put together again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


Tree = dict[str, Any]
Rule = Callable[[str], bool]
"""rule(dotted name of a parameter) -> whether it is chosen."""


def partition(tree: Mapping[str, Any], rule: Rule, prefix: str = "") -> tuple[Tree, Tree]:
    """Splits a nested dictionary into (chosen, others) by a rule on dotted names; empty branches are left out."""
    chosen: Tree = {}
    others: Tree = {}
    for key, value in tree.items():
        name = prefix + key
        if not isinstance(value, Mapping):
            (chosen if rule(name) else others)[key] = value
            continue
        yes, no = partition(value, rule, name + ".")
        if yes:
            chosen[key] = yes
        if no:
            others[key] = no
    return chosen, others


def merge(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> Tree:
    """The union of two nested dictionaries with distinct leaves: the inverse of `partition`.

    Raises:
        ValueError: A leaf is in both.
    """
    merged: Tree = dict(first)
    for key, value in second.items():
        if key not in merged:
            merged[key] = value
        elif isinstance(merged[key], Mapping) and isinstance(value, Mapping):
            merged[key] = merge(merged[key], value, f"{prefix}{key}.")
        else:
            raise ValueError(f"the parameter {prefix}{key} is given twice")
    return merged
